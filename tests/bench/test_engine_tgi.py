"""The simulated TGI, byte for byte where TGI's clients and proxies look, and against TGI's own published schemas."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import pytest_asyncio

from tests.bench.engines import QUICK, SLOW, Caller, engine

TGI = Path(__file__).parent.parent.parent.parent / "shared/tgi"
COMPUTE = {"x-compute-type", "x-compute-characters"}
TIMES = {"x-total-time", "x-validation-time", "x-queue-time", "x-inference-time", "x-time-per-token"}
COUNTS = {"x-prompt-tokens", "x-generated-tokens"}
CHAT = {"messages": [{"role": "user", "content": "one two"}], "max_tokens": 3}


@pytest_asyncio.fixture
async def call() -> AsyncIterator[Caller]:
    async with engine("tgi", QUICK) as caller:
        yield caller


def generate(**parameters: object) -> dict[str, Any]:
    return {"inputs": "one two three", "parameters": {"max_new_tokens": 3, **parameters}}


# answers


async def test_generate_tells_text_and_nothing_that_was_not_asked_for(call: Caller) -> None:
    told = await call.post("/generate", generate())
    assert told.status == 200
    assert list(told.json) == ["generated_text"]
    assert len(told.json["generated_text"].split()) == 3
    assert told.headers["content-type"] == "application/json"
    assert {name for name in told.headers if name.startswith("x-")} == COMPUTE | TIMES | COUNTS | {"x-compute-time"}
    assert told.headers["x-prompt-tokens"] == "3"
    assert told.headers["x-generated-tokens"] == "3"
    assert told.headers["x-compute-characters"] == "13"
    assert 0.003 <= float(told.headers["x-compute-time"]) < 0.1
    assert "server" not in told.headers
    assert "date" in told.headers


async def test_details_where_they_are_asked_for(call: Caller) -> None:
    told = await call.post(
        "/generate", generate(details=True, decoder_input_details=True, top_n_tokens=2, seed=7, do_sample=True)
    )
    details = told.json["details"]
    assert [token["text"] for token in details["prefill"]] == ["one", "two", "three"]
    assert "".join(token["text"] for token in details["tokens"]) == told.json["generated_text"]
    assert [len(top) for top in details["top_tokens"]] == [2, 2, 2]
    assert (details["finish_reason"], details["generated_tokens"], details["seed"]) == ("length", 3, 7)


async def test_no_parameters_mean_sampling_and_empty_ones_do_not(call: Caller) -> None:
    absent = await call.post("/generate_stream", {"inputs": "a"})
    empty = await call.post("/generate", {"inputs": "a", "parameters": {"details": True}})
    assert len(absent.events) == 100
    assert empty.json["details"]["seed"] is None
    assert empty.json["details"]["generated_tokens"] == 100


async def test_best_of_costs_its_sequences_and_counts_the_best(call: Caller) -> None:
    told = await call.post("/generate", generate(best_of=2, do_sample=True, details=True), headers={"x-request-id": "two"})
    other = told.json["details"]["best_of_sequences"]
    assert len(other) == 1
    assert other[0]["generated_text"] != told.json["generated_text"]
    assert told.headers["x-generated-tokens"] == "3"
    truth = (await call.get("/simulator/truth")).json["requests"]
    assert truth["two"] == pytest.approx(3 * 2 + 2 * 3 * 0.01 + 2 * 3 * 0.01)


async def test_the_compatible_route_tells_a_list_with_the_prompt_before_the_text(call: Caller) -> None:
    full = await call.post("/", generate())
    bare = await call.post("/", generate(return_full_text=False))
    assert full.json[0]["generated_text"].startswith("one two three ")
    assert not bare.json[0]["generated_text"].startswith("one")
    assert (await call.post("/", {**generate(), "stream": True})).events[-1]["generated_text"].startswith("one two three ")


async def test_the_same_request_id_says_the_same(call: Caller) -> None:
    first, again, other = [
        (await call.post("/generate", generate(), headers={"x-request-id": id})).body for id in ("a", "a", "b")
    ]
    assert first == again != other


async def test_sagemakers_route_takes_any_of_three(call: Caller) -> None:
    assert "generated_text" in (await call.post("/invocations", generate())).json[0]
    assert (await call.post("/invocations", CHAT)).json["object"] == "chat.completion"
    assert (await call.post("/invocations", {"prompt": "a", "max_tokens": 1})).json["object"] == "text_completion"


# streams


async def test_a_stream_is_one_event_a_token_to_the_byte(call: Caller) -> None:
    told = await call.post("/generate_stream", generate(details=True))
    first, *_, last = told.events
    assert told.body.startswith(b'data: {"index":1,"token":{"id":')
    assert told.body.count(b'"generated_text":null,"details":null}\n\n') == 2
    assert list(first) == ["index", "token", "generated_text", "details"]
    assert [event["index"] for event in told.events] == [1, 2, 3]
    assert last["generated_text"] == "".join(event["token"]["text"] for event in told.events)
    assert last["details"] == {"finish_reason": "length", "generated_tokens": 3, "seed": None, "input_length": 3}
    assert {name for name in told.headers if name.startswith("x-")} == COMPUTE | {"x-accel-buffering"}
    assert told.headers["content-type"] == "text/event-stream"
    assert told.headers["cache-control"] == "no-cache"
    assert "content-length" not in told.headers
    assert b"[DONE]" not in told.body


async def test_a_stream_without_details_tells_null(call: Caller) -> None:
    assert (await call.post("/generate_stream", generate())).events[-1]["details"] is None


async def test_a_chat_streams_chunks_and_counts_if_asked(call: Caller) -> None:
    told = await call.post("/v1/chat/completions", {**CHAT, "stream": True, "stream_options": {"include_usage": True}})
    *tokens, counts = told.events
    assert told.data[-1] == b"[DONE]"
    assert told.data[0].startswith(b'{"object":"chat.completion.chunk","id":"",')
    assert [token["choices"][0]["finish_reason"] for token in tokens] == [None, None, "length"]
    assert all(token["choices"][0]["delta"]["role"] == "assistant" and token["usage"] is None for token in tokens)
    assert counts["choices"] == []
    assert counts["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert len((await call.post("/v1/chat/completions", {**CHAT, "stream": True})).events) == 3


async def test_a_chat_is_answered(call: Caller) -> None:
    told = await call.post("/v1/chat/completions", {**CHAT, "n": 5, "temperature": 0})
    assert told.json["id"] == ""
    assert len(told.json["choices"]) == 1  # TGI does nothing with n
    assert told.json["choices"][0]["finish_reason"] == "length"
    assert told.json["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert "x-compute-time" in told.headers


async def test_completions_of_several_prompts_each_tell_their_counts(call: Caller) -> None:
    told = await call.post("/v1/completions", {"prompt": ["a", "b c"], "max_tokens": 2, "stream": True})
    assert [(event["choices"][0]["index"], event["choices"][0]["finish_reason"]) for event in told.events] == [
        (0, ""),
        (1, ""),
        (0, "length"),
        (1, "length"),
    ]
    assert [event["usage"]["total_tokens"] for event in told.events if "usage" in event] == [3, 4]
    assert told.data[-1] == b"[DONE]"


async def test_completions_sum_their_prompts(call: Caller) -> None:
    told = await call.post("/v1/completions", {"prompt": ["a", "b c"], "max_tokens": 2})
    assert told.json["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert told.headers["x-prompt-tokens"] == "3"
    assert told.headers["x-generated-tokens"] == "4"
    assert "x-compute-time" not in told.headers


# refusals

ABSENT = object()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"inputs": "a", "parameters": None}),
        ("/generate", {"inputs": "a", "parameters": {"stop": None}}),
        ("/generate", {"inputs": "a", "parameters": {"stop": "x"}}),
        ("/generate", {"inputs": "a", "parameters": {"details": None}}),
        ("/generate", {"inputs": "a", "parameters": {"do_sample": None}}),
        ("/generate", {"inputs": "a", "parameters": {"max_new_tokens": -1}}),
        ("/generate", {"inputs": "a", "parameters": {"max_new_tokens": "5"}}),
        ("/generate", {"parameters": {}}),
        ("/generate", {"inputs": None}),
        ("/generate", ["a"]),
        ("/generate_stream", {"inputs": 5}),
        ("/", {"inputs": "a", "stream": None}),
        ("/v1/chat/completions", {**CHAT, "stream": None}),
        ("/v1/chat/completions", {**CHAT, "stream_options": None}),
        ("/v1/chat/completions", {"messages": "hello"}),
        ("/v1/chat/completions", {"messages": [{"content": "hello"}]}),
        ("/v1/completions", {"prompt": [1, 2]}),
        ("/v1/completions", {}),
        ("/tokenize", {"text": "a"}),
    ],
)
async def test_a_body_of_another_shape_is_refused_in_plain_text(call: Caller, path: str, body: object) -> None:
    told = await call.post(path, body)
    assert told.status == 422
    assert told.headers["content-type"] == "text/plain; charset=utf-8"
    assert told.body.startswith(b"Failed to deserialize the JSON body into the target type: ")


async def test_what_may_be_null(call: Caller) -> None:
    nulls = dict.fromkeys(("best_of", "temperature", "top_k", "seed", "grammar", "return_full_text", "truncate"))
    assert (await call.post("/generate", generate(**nulls))).status == 200
    chat = dict.fromkeys(("model", "stop", "temperature", "tools", "tool_choice", "logit_bias", "n", "seed", "top_p"))
    assert (await call.post("/v1/chat/completions", CHAT | chat | {"somebody": "else's"})).status == 200


@pytest.mark.parametrize(
    ("raw", "kind", "status", "text"),
    [
        (b"{", "application/json", 400, "Failed to parse the request body as JSON: "),
        (b'{"inputs": NaN}', "application/json", 400, "Failed to parse the request body as JSON: "),
        (b"[" * 100_000, "application/json", 400, "Failed to parse the request body as JSON: "),
        (b"{}", "text/plain", 415, "Expected request with `Content-Type: application/json`"),
        (b" " * 2_000_001, "application/json", 413, "Failed to buffer the request body: length limit exceeded"),
    ],
)
async def test_what_is_no_json_is_refused_in_plain_text(call: Caller, raw: bytes, kind: str, status: int, text: str) -> None:
    told = await call("POST", "/generate", raw=raw, headers={"content-type": kind})
    assert told.status == status
    assert told.body.decode().startswith(text)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
        ({"temperature": 0.0}, "`temperature` must be strictly positive"),
        ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"best_of": 3, "do_sample": True}, "`best_of` must be > 0 and <= 2. Given: 3"),
        ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
        ({"best_of": 2, "do_sample": True, "seed": 1}, "`seed` must not be set when `best_of` > 1"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "`stop` supports up to 4 stop sequences. Given: 5"),
        ({"frequency_penalty": -3}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
        ({"top_n_tokens": 9}, "`top_n_tokens` must be >= 0 and <= 5. Given: 9"),
        (
            {"max_new_tokens": 131_070},
            "`inputs` tokens + `max_new_tokens` must be <= 131072. Given: 3 `inputs` tokens and 131070 `max_new_tokens`",
        ),
    ],
)
async def test_values_are_validated(call: Caller, parameters: dict[str, object], message: str) -> None:
    told = await call.post("/generate", generate(**parameters))
    assert told.status == 422
    assert told.json == {"error": f"Input validation error: {message}", "error_type": "validation"}
    assert call.server.driver.tally.requests == 0


async def test_streams_tell_validation_after_their_status(call: Caller) -> None:
    empty = await call.post("/generate_stream", {"inputs": ""})
    message = "Input validation error: `inputs` cannot be empty"
    assert (empty.status, empty.events) == (200, [{"error": message, "error_type": "validation"}])
    chat = await call.post("/v1/chat/completions", {**CHAT, "stream": True, "temperature": -1})
    assert (chat.status, chat.data[-1]) == (200, b"[DONE]")
    assert chat.events[0]["error"]["http_status_code"] == 422
    several = await call.post("/generate_stream", generate(best_of=2, do_sample=True))
    assert "streaming" in several.events[0]["error"]


async def test_completions_refuse_suffixes_and_long_lists_before_they_stream(call: Caller) -> None:
    suffix = await call.post("/v1/completions", {"prompt": "a", "suffix": "b", "stream": True})
    assert (suffix.status, suffix.json["error_type"]) == (422, "suffix not supported")
    many = await call.post("/v1/completions", {"prompt": list("abcde"), "stream": True})
    assert (many.status, many.json["error_type"]) == (422, "batch size exceeded")


async def test_one_too_many_is_refused_at_once() -> None:
    async with engine("tgi", SLOW, max_concurrent=1) as call:
        running = asyncio.create_task(call.post("/generate", {"inputs": "a"}))
        while not call.server.driver.in_flight:
            await asyncio.sleep(0.002)
        body = {"error": "Model is overloaded", "error_type": "overloaded"}
        told = await call.post("/generate", generate())
        assert (told.status, told.json) == (429, body)
        assert "retry-after" not in told.headers
        streamed = await call.post("/generate_stream", generate())
        assert (streamed.status, streamed.body) == (200, b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n")
        chat = await call.post("/v1/chat/completions", {**CHAT, "stream": True})
        assert chat.body == b'data: {"error":{"message":"Model is overloaded","http_status_code":422}}\n\ndata: [DONE]\n\n'
        assert (await call.post("/v1/chat/completions", CHAT)).status == 429
        metrics = (await call.get("/metrics")).body.decode()
        assert 'tgi_request_failure{err="overloaded"} 4' in metrics
        assert "tgi_batch_current_size 1" in metrics
        running.cancel()


# the other routes


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/nope", 404, None),
        ("POST", "/nope", 404, None),
        ("GET", "/generate", 405, "POST"),
        ("PUT", "/", 405, "GET,HEAD,POST"),
        ("POST", "/info", 405, "GET,HEAD"),
        ("HEAD", "/info", 200, None),
        ("HEAD", "/", 200, None),
        ("GET", "/", 200, None),
        ("GET", "/health", 200, None),
        ("GET", "/ping", 200, None),
    ],
)
async def test_routes_and_methods(call: Caller, method: str, path: str, status: int, allow: str | None) -> None:
    told = await call(method, path)
    assert (told.status, told.body, told.headers.get("allow")) == (status, b"", allow)
    assert told.headers["access-control-allow-origin"] == "*"


async def test_preflight_is_answered_anywhere(call: Caller) -> None:
    told = await call("OPTIONS", "/nope")
    assert (told.status, told.headers["access-control-allow-headers"]) == (200, "content-type")


async def test_info_and_models(call: Caller) -> None:
    info = (await call.get("/info")).json
    assert (info["router"], info["max_concurrent_requests"], info["version"]) == ("text-generation-router", 128, "3.3.6-dev0")
    assert (await call.get("/v1/models")).json["data"][0]["id"] == info["model_id"]


async def test_tokenize_tells_where_each_word_is(call: Caller) -> None:
    tokens = (await call.post("/tokenize", {"inputs": "one two  one"})).json
    assert [(token["text"], token["start"], token["stop"]) for token in tokens] == [
        ("one", 0, 3),
        ("two", 4, 7),
        ("one", 9, 12),
    ]
    assert tokens[0]["id"] == tokens[2]["id"]


# TGI's own words


def schemas() -> dict[str, Any]:
    """The published components, with OpenAPI 3.0's `nullable` told in JSON Schema's words."""
    if not (TGI / "openapi.json").exists():
        pytest.skip("TGI's published API is not here")

    def translated(node: Any) -> Any:
        if isinstance(node, list):
            return [translated(item) for item in node]
        if not isinstance(node, dict):
            return node
        kept = {key: translated(value) for key, value in node.items() if key not in ("nullable", "example", "discriminator")}
        exclusive = kept.pop("exclusiveMinimum", None)
        if isinstance(exclusive, int | float) and not isinstance(exclusive, bool):
            kept["exclusiveMinimum"] = exclusive
        return {"anyOf": [kept, {"type": "null"}]} if node.get("nullable") is True else kept

    document: dict[str, Any] = translated(json.loads((TGI / "openapi.json").read_text()))
    return document


def valid(value: object, component: str, document: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator({**document, "$ref": f"#/components/schemas/{component}"}).validate(value)


async def test_answers_are_what_tgi_publishes(call: Caller) -> None:
    document = schemas()
    asked = generate(details=True, decoder_input_details=True, best_of=2, do_sample=True, top_n_tokens=2)
    valid((await call.post("/generate", asked)).json, "GenerateResponse", document)
    valid((await call.post("/v1/chat/completions", CHAT)).json, "ChatCompletion", document)
    valid((await call.post("/v1/completions", {"prompt": "a", "max_tokens": 2})).json, "CompletionFinal", document)
    valid((await call.post("/generate", generate(top_p=2))).json, "ErrorResponse", document)
    valid((await call.get("/info")).json, "Info", document)
    valid((await call.post("/tokenize", {"inputs": "a b"})).json, "TokenizeResponse", document)


async def test_streams_are_what_tgi_publishes(call: Caller) -> None:
    document = schemas()
    for event in (await call.post("/generate_stream", generate(details=True, top_n_tokens=1))).events:
        valid(event, "StreamResponse", document)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    for event in (await call.post("/v1/chat/completions", CHAT | options)).events:
        valid(event, "ChatCompletionChunk", document)
    for event in (await call.post("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 2, "stream": True})).events:
        valid(event, "CompletionFinal" if "usage" in event else "Chunk", document)


def shape(value: Any) -> Any:
    """Keys and types; a number is a number, and null fits anything, as clients' records fill in members."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def recorded(name: str) -> Any:
    path = next((TGI / "answers").glob(f"*--{name}.json"), None)
    if path is None:
        pytest.skip("TGI's recorded answers are not here")
    return json.loads(path.read_text())


async def test_answers_have_the_shape_of_recorded_ones(call: Caller) -> None:
    simple = await call.post("/generate", generate(details=True, do_sample=False))
    assert shape(simple.json) == shape(recorded("test_flash_llama_simple"))
    single = await call.post("/v1/completions", {"prompt": "a", "max_tokens": 2})
    assert shape(single.json) == shape(recorded("test_flash_llama_completion_single_prompt"))
    many = await call.post("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 2, "stream": True})
    assert shape(many.events[0]) == shape(recorded("test_flash_llama_completion_many_prompts_stream")[0])
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chat, told = (await call.post("/v1/chat/completions", CHAT | options)).events, recorded("test_chat_openai_usage")
    assert [shape(chat[0]), shape(chat[-1])] == [shape(told[0]), shape(told[-1])]
