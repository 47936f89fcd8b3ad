"""The simulated vLLM: OpenAI's surface as vLLM speaks it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.bench.engines import QUICK, SLOW, Caller, engine

CHAT = {"messages": [{"role": "user", "content": "one two"}], "max_tokens": 3}
USAGE = {"prompt_tokens": 2, "total_tokens": 5, "completion_tokens": 3}


@pytest_asyncio.fixture
async def call() -> AsyncIterator[Caller]:
    async with engine("openai", QUICK) as caller:
        yield caller


async def test_a_chat_is_answered(call: Caller) -> None:
    told = await call.post("/v1/chat/completions", {**CHAT, "n": 2}, headers={"x-request-id": "me"})
    assert told.json["id"] == "chatcmpl-me"
    assert [choice["index"] for choice in told.json["choices"]] == [0, 1]
    assert len(told.json["choices"][0]["message"]["content"].split()) == 3
    assert told.json["choices"][0]["finish_reason"] == "length"
    assert told.json["usage"] == {"prompt_tokens": 2, "total_tokens": 8, "completion_tokens": 6}
    assert told.headers["server"] == "uvicorn"
    assert list((await call.get("/simulator/truth")).json["requests"]) == ["me"]


async def test_a_chat_streams_its_role_first_and_its_reason_with_the_last_token(call: Caller) -> None:
    told = await call.post("/v1/chat/completions", {**CHAT, "stream": True})
    assert told.data[-1] == b"[DONE]"
    role, *tokens = [event["choices"][0] for event in told.events]
    assert role["delta"] == {"role": "assistant", "content": ""}
    assert [token["finish_reason"] for token in tokens] == [None, None, "length"]
    assert all(list(token["delta"]) == ["content"] for token in tokens)
    assert all("usage" not in event for event in told.events)
    assert told.headers["content-type"] == "text/event-stream; charset=utf-8"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_counts_come_last_or_all_along(call: Caller, path: str) -> None:
    body: dict[str, Any] = {**CHAT, "prompt": "one two", "stream": True, "stream_options": {"include_usage": True}}
    last = (await call.post(path, body)).events[-1]
    assert (last["choices"], last["usage"]) == ([], USAGE)
    body["stream_options"]["continuous_usage_stats"] = True
    counts = [event["usage"]["completion_tokens"] for event in (await call.post(path, body)).events]
    assert counts[-4:] == [1, 2, 3, 3]
    only = (await call.post(path, {**body, "stream_options": {"continuous_usage_stats": True}})).events
    assert all("usage" not in event for event in only)


@pytest.mark.parametrize(
    ("prompt", "tokens", "choices"),
    [("a b c", 3, 1), (["a", "b c"], 3, 2), ([1, 2, 3, 4], 4, 1), ([[1, 2], [3, 4, 5]], 5, 2)],
)
async def test_prompts_are_texts_or_token_ids(call: Caller, prompt: object, tokens: int, choices: int) -> None:
    told = await call.post("/v1/completions", {"prompt": prompt, "max_tokens": 2, "n": 2})
    assert len(told.json["choices"]) == 2 * choices
    assert told.json["usage"]["prompt_tokens"] == tokens
    assert told.json["usage"]["completion_tokens"] == 4 * choices
    streamed = await call.post("/v1/completions", {"prompt": prompt, "max_tokens": 2, "stream": True})
    assert sorted(event["choices"][0]["index"] for event in streamed.events) == sorted(list(range(choices)) * 2)


async def test_default_lengths(call: Caller) -> None:
    assert (await call.post("/v1/completions", {"prompt": "a"})).json["usage"]["completion_tokens"] == 16
    chat = {"messages": CHAT["messages"]}
    assert (await call.post("/v1/chat/completions", chat)).json["usage"]["completion_tokens"] == 128
    newer = {**CHAT, "max_completion_tokens": 7}
    assert (await call.post("/v1/chat/completions", newer)).json["usage"]["completion_tokens"] == 7


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {**CHAT, "stream_options": {"include_usage": True}}, "stream_options"),
        ("/v1/chat/completions", {**CHAT, "max_tokens": 0}, "max_tokens"),
        ("/v1/chat/completions", {**CHAT, "n": 0}, "n"),
        ("/v1/chat/completions", {**CHAT, "max_tokens": 200_000}, None),
        ("/v1/chat/completions", {"messages": []}, "messages"),
        ("/v1/chat/completions", {}, None),
        ("/v1/completions", {"prompt": []}, "prompt"),
        ("/v1/completions", {"prompt": ["a", 1]}, "prompt"),
        ("/v1/completions", {}, "prompt"),
        ("/v1/completions", {"prompt": "a", "max_tokens": "many"}, None),
    ],
)
async def test_what_is_wrong_is_a_bad_request(call: Caller, path: str, body: object, param: str | None) -> None:
    told = await call.post(path, body)
    assert told.status == 400
    error = told.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"], error["param"]) == ("BadRequestError", 400, param)


async def test_what_is_no_json_is_a_bad_request(call: Caller) -> None:
    for raw, kind in ((b"{", "application/json"), (b"{}", "text/plain")):
        told = await call("POST", "/v1/completions", raw=raw, headers={"content-type": kind})
        assert (told.status, told.json["error"]["code"]) == (400, 400)


@pytest.mark.parametrize(
    ("method", "path", "status", "body", "allow"),
    [
        ("GET", "/nope", 404, b'{"detail":"Not Found"}', None),
        ("GET", "/v1/completions", 405, b'{"detail":"Method Not Allowed"}', "POST"),
        ("HEAD", "/version", 405, b"", "GET"),
        ("GET", "/health", 200, b"", None),
        ("POST", "/ping", 200, b"", None),
        ("GET", "/version", 200, b'{"version":"0.33.0"}', None),
    ],
)
async def test_routes(call: Caller, method: str, path: str, status: int, body: bytes, allow: str | None) -> None:
    told = await call(method, path)
    assert (told.status, told.body, told.headers.get("allow")) == (status, body, allow)


async def test_models_and_tokens(call: Caller) -> None:
    assert (await call.get("/v1/models")).json["data"][0]["max_model_len"] == 131_072
    assert (await call.post("/tokenize", {"prompt": "one two one"})).json["count"] == 3
    assert (await call.post("/tokenize", {"messages": CHAT["messages"]})).json["count"] == 2


async def test_metrics_tell_the_engines_state() -> None:
    async with engine("openai", SLOW, model_id="m") as call:
        await call.post("/v1/completions", {"prompt": "a b", "max_tokens": 2})
        running = asyncio.create_task(call.post("/v1/completions", {"prompt": ["a", "b"]}))
        while not call.server.driver.in_flight:
            await asyncio.sleep(0.002)
        metrics = (await call.get("/metrics")).body.decode()
        assert 'vllm:num_requests_waiting{engine="0",model_name="m"} 2' in metrics
        assert 'vllm:generation_tokens_total{engine="0",model_name="m"} 2' in metrics
        assert 'vllm:prompt_tokens_total{engine="0",model_name="m"} 4' in metrics
        assert 'vllm:request_success_total{engine="0",model_name="m",finished_reason="length"} 1' in metrics
        running.cancel()


async def test_a_limit_refuses_with_service_unavailable() -> None:
    async with engine("openai", SLOW, max_concurrent=1) as call:
        told = await call.post("/v1/completions", {"prompt": ["a", "b"], "stream": True})
        assert (told.status, told.json["error"]["type"]) == (503, "ServiceUnavailableError")
