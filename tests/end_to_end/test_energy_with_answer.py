"""Real clients that ask for their joules read their answers as ever, and find them where their library shows such things."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import http_sf
import httpx
import openai
import pytest
import text_generation
from huggingface_hub import InferenceClient

from tests.end_to_end.paceline import Running, paceline

WAIT = {"x-paceline-energy": "wait"}
# by it the simulated engine decides what it says
SAME = {"x-request-id": "same"}
MESSAGES: Any = [{"role": "user", "content": "one two three"}]
MODEL = "meta-llama/Llama-3.1-8B-Instruct"


async def warm(running: Running) -> None:
    """Until the meter's first steps have been seen, joules belong to nobody."""
    assert running.app.energy is not None
    async with asyncio.timeout(5):
        while running.app.energy.settled_until_s == float("-inf"):
            await asyncio.sleep(0.02)


async def alike(running: Running, use: Callable[[str, dict[str, str]], Any]) -> Any:
    """The same call on the engine, and through the proxy with joules."""
    direct = await asyncio.to_thread(use, running.engines[0].url, SAME)
    through = await asyncio.to_thread(use, running.url, {**SAME, **WAIT})
    assert through == direct
    return through


@pytest.mark.parametrize(
    ("speaks", "path", "body", "member"),
    [
        ("tgi", "/generate_stream", {"inputs": "a b", "parameters": {"details": True, "max_new_tokens": 8}}, True),
        ("tgi", "/generate_stream", {"inputs": "a b", "parameters": {"max_new_tokens": 8}}, False),
        ("tgi", "/", {"inputs": "a b", "stream": True, "parameters": {"details": True, "max_new_tokens": 8}}, True),
        ("tgi", "/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 8}, True),
        ("tgi", "/v1/completions", {"prompt": ["a", "b c"], "max_tokens": 8}, True),
        ("openai", "/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 8, "n": 2}, True),
        ("openai", "/v1/completions", {"prompt": "a b", "max_tokens": 8}, True),
    ],
)
async def test_every_stream_tells_what_the_ledger_tells(speaks: str, path: str, body: dict[str, Any], member: bool) -> None:
    if "completions" in path:
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    async with paceline(speaks) as running, httpx.AsyncClient(trust_env=False, headers={**SAME, **WAIT}) as client:
        await warm(running)
        answer = await client.post(running.url + path, json=body)
        known = (await running.energy_of(answer.headers["x-paceline-request-id"]))["energy"]
        direct = await client.post(running.engines[0].url + path, json=body)
    (comment,) = [line for line in answer.text.splitlines() if line.startswith(": energy ")]
    told = json.loads(comment.removeprefix(": energy "))
    assert told == {
        "joules": known["active_j"],
        "uncertainty_joules": pytest.approx(known["uncertainty_j"], abs=1e-6),
        "source": "simulated",
        "method": "shapley",
        "scope": "gpu",
        "final": True,
    }
    assert told["joules"] > 0
    members = [json.loads(line[5:]) for line in answer.text.splitlines() if line.startswith("data:") and '"energy":{' in line]
    assert [event["energy"] for event in members] == [told] * member
    plain = answer.text.replace(comment + "\n\n", "").replace(f',"energy":{comment.removeprefix(": energy ")}', "")
    assert len(plain) == len(direct.text)  # ids and times differ, and nothing else


async def test_an_answer_tells_what_the_ledger_tells() -> None:
    async with paceline() as running, httpx.AsyncClient(trust_env=False, headers=WAIT) as client:
        await warm(running)
        answer = await client.post(f"{running.url}/generate", json={"inputs": "a b", "parameters": {"max_new_tokens": 8}})
        told = http_sf.parse(answer.headers["x-paceline-energy"].encode(), tltype="dictionary")
        known = (await running.energy_of(answer.headers["x-paceline-request-id"]))["energy"]
    assert float(told["j"][0]) == pytest.approx(known["active_j"], abs=0.0006)
    assert float(told["u"][0]) == pytest.approx(known["uncertainty_j"], abs=0.0006)
    assert told["j"][0] > 0


async def test_a_proxy_that_drains_lets_go_of_who_waits() -> None:
    """The engine's counter moves every two seconds, so the joules are not known in time."""
    body = {"inputs": "a b", "parameters": {"max_new_tokens": 1}}
    async with (
        paceline(speed=0.05, **{"energy.wait_s": 60.0}) as running,
        httpx.AsyncClient(trust_env=False, headers=WAIT) as client,
    ):
        answer = asyncio.create_task(client.post(f"{running.url}/generate", json=body))
        while not running.app.ledger._ended:
            await asyncio.sleep(0.01)
        running.app.drain()
        assert (await answer).headers["x-paceline-energy"] == "unknown;reason=shutting-down"


async def test_without_a_meter_it_is_unknown() -> None:
    async with paceline(**{"energy.meter": "none"}) as running, httpx.AsyncClient(trust_env=False, headers=WAIT) as client:
        answer = await client.post(f"{running.url}/generate", json={"inputs": "a b"})
    assert answer.headers["x-paceline-energy"] == "unknown;reason=no-meter"


async def test_text_generation() -> None:
    def generate(url: str, headers: dict[str, str]) -> tuple[str, int]:
        answer = text_generation.Client(url, headers=headers).generate("one two three", max_new_tokens=5)
        return answer.generated_text, answer.details.generated_tokens

    def stream(url: str, headers: dict[str, str]) -> list[tuple[str, bool]]:
        tokens = list(text_generation.Client(url, headers=headers).generate_stream("one two three", max_new_tokens=5))
        return [(token.token.text, token.generated_text is None) for token in tokens]

    async with paceline() as running:
        await alike(running, generate)
        assert len(await alike(running, stream)) == 5
        client = text_generation.AsyncClient(running.url, headers=WAIT)
        assert len([token async for token in client.generate_stream("one two", max_new_tokens=4)]) == 4


async def test_huggingface_hub() -> None:
    def stream(url: str, headers: dict[str, str]) -> list[str]:
        client = InferenceClient(url, headers=headers)
        details = client.text_generation("one two", max_new_tokens=3, stream=True, details=True)
        return [token.token.text for token in details]

    def chat(url: str, headers: dict[str, str]) -> list[Any]:
        client = InferenceClient(url, headers=headers)
        chunks = client.chat_completion(MESSAGES, max_tokens=3, stream=True, stream_options={"include_usage": True})
        return [chunk.choices[0].delta.content if chunk.choices else chunk.usage.completion_tokens for chunk in chunks]

    async with paceline() as running:
        assert len(await alike(running, stream)) == 3
        assert (await alike(running, chat))[-1] == 3


@pytest.mark.parametrize("dialect", ["tgi", "openai"])
async def test_openai(dialect: str) -> None:
    def client(url: str, headers: dict[str, str]) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0, default_headers=headers)

    def stream(url: str, headers: dict[str, str]) -> list[Any]:
        options: Any = {"include_usage": True}
        with client(url, headers) as api:
            return list(
                api.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=9, stream=True, stream_options=options)
            )

    def texts(url: str, headers: dict[str, str]) -> list[Any]:
        return [chunk.choices[0].delta.content if chunk.choices else chunk.usage for chunk in stream(url, headers)]

    def chat(url: str) -> str:
        with client(url, WAIT) as api:
            answer = api.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES, max_tokens=9)
            assert answer.parse().usage.completion_tokens == 9  # type: ignore[union-attr]
            return answer.headers["x-paceline-energy"]

    async with paceline(dialect) as running:
        await warm(running)
        assert (await alike(running, texts))[-1].completion_tokens == 9
        last = (await asyncio.to_thread(stream, running.url, WAIT))[-1]
        assert last.model_extra["energy"]["joules"] > 0
        assert last.model_extra["energy"]["source"] == "simulated"
        assert (await asyncio.to_thread(chat, running.url)).endswith(", final")
