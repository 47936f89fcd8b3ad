"""People's own clients before the simulated engines: text_generation, huggingface_hub, openai."""

from __future__ import annotations

import asyncio

import openai
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient

from tests.bench.engines import QUICK, SLOW, Caller, engine

text_generation = pytest.importorskip("text_generation")
MESSAGES = [{"role": "user", "content": "one two"}]


async def test_text_generation_async() -> None:
    async with engine("tgi", QUICK) as call:
        client = text_generation.AsyncClient(call.server.url)
        answer = await client.generate("one two three", max_new_tokens=4)
        assert answer.details.generated_tokens == 4
        assert answer.details.finish_reason == "length"
        events = [event async for event in client.generate_stream("one two three", max_new_tokens=4)]
        assert "".join(event.token.text for event in events) == events[-1].generated_text
        assert events[-1].details.generated_tokens == 4


async def test_text_generation_sync() -> None:
    async with engine("tgi", QUICK) as call:
        client = text_generation.Client(call.server.url)
        answer = await asyncio.to_thread(client.generate, "one", max_new_tokens=4, best_of=2, do_sample=True)
        assert len(answer.details.best_of_sequences) == 1
        events = await asyncio.to_thread(lambda: list(client.generate_stream("one", max_new_tokens=4)))
        assert len(events) == 4
        chat = await asyncio.to_thread(client.chat, MESSAGES, max_tokens=3)
        assert chat.usage["completion_tokens"] == 3


async def test_text_generation_knows_its_errors() -> None:
    async with engine("tgi", SLOW, max_concurrent=1) as call:
        client = text_generation.AsyncClient(call.server.url)
        with pytest.raises(text_generation.errors.ValidationError):
            await client.generate("a", max_new_tokens=0)
        running = asyncio.create_task(call.post("/generate", {"inputs": "a"}))
        while not call.server.driver.in_flight:
            await asyncio.sleep(0.002)
        with pytest.raises(text_generation.errors.OverloadedError):
            await client.generate("a")
        with pytest.raises(text_generation.errors.OverloadedError):
            async for _ in client.generate_stream("a"):
                pass
        running.cancel()


async def hugging_face(call: Caller) -> None:
    async with AsyncInferenceClient(call.server.url) as client:
        assert len((await client.text_generation("one two", max_new_tokens=4)).split()) == 6  # the prompt comes back
        details = await client.text_generation("one two", max_new_tokens=4, details=True, return_full_text=False)
        assert details.details is not None
        assert details.details.generated_tokens == 4
        stream = await client.text_generation("one two", max_new_tokens=4, stream=True)
        assert len([word async for word in stream]) == 4


async def chatting(call: Caller) -> None:
    async with AsyncInferenceClient(call.server.url) as client:
        chat = await client.chat_completion(MESSAGES, max_tokens=3)
        assert chat.usage.completion_tokens == 3
        options = {"include_usage": True}
        stream = await client.chat_completion(MESSAGES, max_tokens=3, stream=True, stream_options=options)  # type: ignore[call-overload]
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]).split() != []
        assert chunks[-1].usage.total_tokens == 5


async def test_hugging_face_async() -> None:
    async with engine("tgi", QUICK) as call:
        await hugging_face(call)
        await chatting(call)
    async with engine("openai", QUICK) as call:
        await chatting(call)


async def test_hugging_face_sync() -> None:
    async with engine("tgi", QUICK) as call:
        client = InferenceClient(call.server.url, provider="hf-inference")
        assert await asyncio.to_thread(client.health_check)
        assert len((await asyncio.to_thread(client.text_generation, "one two", max_new_tokens=4)).split()) == 6
        info = await asyncio.to_thread(client.get_endpoint_info)
        assert info["router"] == "text-generation-router"


@pytest.mark.parametrize("dialect", ["tgi", "openai"])
async def test_openai(dialect: str) -> None:
    async with engine(dialect, QUICK) as call, openai.AsyncOpenAI(base_url=call.server.url + "/v1", api_key="-") as client:
        chat = await client.chat.completions.create(model="tgi", messages=MESSAGES, max_tokens=3)  # type: ignore[arg-type]
        assert chat.choices[0].finish_reason == "length"
        assert chat.usage is not None
        assert chat.usage.completion_tokens == 3
        stream = await client.chat.completions.create(
            model="tgi",
            messages=MESSAGES,  # type: ignore[arg-type]
            max_tokens=3,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens == 5
        said = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
        assert len(said) == 3
        completion = await client.completions.create(model="tgi", prompt=["one", "two three"], max_tokens=2)
        assert completion.usage is not None
        assert completion.usage.total_tokens == 7
        assert [model.id async for model in client.models.list()] == ["meta-llama/Llama-3.1-8B-Instruct"]


async def test_openai_knows_vllms_errors() -> None:
    async with engine("openai", QUICK) as call, openai.AsyncOpenAI(base_url=call.server.url + "/v1", api_key="-") as client:
        with pytest.raises(openai.BadRequestError, match="max_tokens must be at least 1"):
            await client.completions.create(model="any", prompt="a", max_tokens=0)
