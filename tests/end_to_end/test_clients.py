"""Real clients through the proxy: what they get is what they would get without it."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable
from typing import Any

import openai
import pytest
import text_generation
from huggingface_hub import InferenceClient
from text_generation.errors import OverloadedError

from tests.end_to_end.paceline import Running, paceline

# by it the simulated engine decides what it says, so that two requests can be told alike
SAME = {"x-request-id": "same"}


async def alike(running: Running, use: Callable[[str], Any]) -> Any:
    """The same call on the engine and through the proxy; both answers must be equal."""
    direct = await asyncio.to_thread(use, running.engines[0].url)
    through = await asyncio.to_thread(use, running.url)
    assert through == direct
    return through


async def test_text_generation_sync() -> None:
    def generate(url: str) -> tuple[str, int]:
        answer = text_generation.Client(url, headers=SAME).generate("one two three", max_new_tokens=5)
        return answer.generated_text, answer.details.generated_tokens

    def stream(url: str) -> list[tuple[str, bool]]:
        tokens = list(text_generation.Client(url, headers=SAME).generate_stream("one two three", max_new_tokens=5))
        return [(token.token.text, token.generated_text is None) for token in tokens]

    async with paceline() as running:
        assert (await alike(running, generate))[1] == 5
        assert len(await alike(running, stream)) == 5


async def test_text_generation_async() -> None:
    async with paceline() as running:
        client = text_generation.AsyncClient(running.url)
        answers = await asyncio.gather(*(client.generate("one two", max_new_tokens=4) for _ in range(8)))
        assert {answer.details.generated_tokens for answer in answers} == {4}
        tokens = [token async for token in client.generate_stream("one two", max_new_tokens=4)]
        assert len(tokens) == 4
        assert tokens[-1].generated_text is not None


async def test_text_generation_understands_our_refusals() -> None:
    async with paceline(
        **{"queue.limit": 1, "policy.name": "size", "policy.params.n": 9, "policy.params.wait_s": 9.0}
    ) as running:
        headers = {"x-paceline-max-hold": "2"}
        held = asyncio.create_task(text_generation.AsyncClient(running.url, headers=headers).generate("a", max_new_tokens=1))
        await asyncio.sleep(0.2)
        with pytest.raises(OverloadedError, match="1 requests are waiting"):
            await text_generation.AsyncClient(running.url, headers=headers).generate("a", max_new_tokens=1)
        assert (await held).details.generated_tokens == 1


async def test_huggingface_hub() -> None:
    def generate(url: str) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return (
                InferenceClient(url, headers=SAME)
                .text_generation("one two", max_new_tokens=3, details=True)
                .details.generated_tokens
            )

    def stream(url: str) -> list[str]:
        return list(InferenceClient(url, headers=SAME).text_generation("one two", max_new_tokens=3, stream=True))

    def chat(url: str) -> Any:
        answer = InferenceClient(url, headers=SAME).chat_completion([{"role": "user", "content": "one two"}], max_tokens=3)
        return answer.choices[0].message.content, answer.usage.completion_tokens

    def chat_stream(url: str) -> list[Any]:
        chunks = InferenceClient(url, headers=SAME).chat_completion(
            [{"role": "user", "content": "one"}], max_tokens=3, stream=True
        )
        return [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]

    async with paceline() as running:
        assert await alike(running, generate) == 3
        assert len(await alike(running, stream)) == 3
        assert (await alike(running, chat))[1] == 3
        assert len(await alike(running, chat_stream)) >= 3


@pytest.mark.parametrize("dialect", ["tgi", "openai"])
async def test_openai(dialect: str) -> None:
    def client(url: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0, default_headers=SAME)

    model = "meta-llama/Llama-3.1-8B-Instruct"
    messages: Any = [{"role": "user", "content": "one two three"}]

    def chat(url: str) -> Any:
        with client(url) as api:
            answer = api.chat.completions.create(model=model, messages=messages, max_tokens=4)
        return answer.choices[0].finish_reason, answer.usage

    def stream(url: str) -> Any:
        with client(url) as api:
            options: Any = {"include_usage": True}
            chunks = list(
                api.chat.completions.create(model=model, messages=messages, max_tokens=4, stream=True, stream_options=options)
            )
        return [chunk.choices[0].delta.content for chunk in chunks if chunk.choices], chunks[-1].usage

    def completion(url: str) -> Any:
        with client(url) as api:
            answer = api.completions.create(model=model, prompt="one two three", max_tokens=4)
        return answer.choices[0].finish_reason, answer.usage

    def models(url: str) -> Any:
        with client(url) as api:
            return [listed.id for listed in api.models.list()]

    async with paceline(dialect) as running:
        assert (await alike(running, chat))[1].completion_tokens == 4
        assert (await alike(running, stream))[1].completion_tokens == 4
        assert (await alike(running, completion))[1].completion_tokens == 4
        assert await alike(running, models) == [model]
        told = list(running.app.ledger._ended.values())
        assert all(e.output_tokens == 4 and not e.output_estimated and not e.prompt_estimated for e in told)
        assert running.app.forward.counts.completed == 3
