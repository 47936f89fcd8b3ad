"""TGI's generating routes: what comes in goes to the engine as sequences, and comes out as an answer or as events."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from bench.engine.driver import Driver, Overloaded
from bench.engine.flight import Flight
from bench.engine.tgi_http import CORS, STREAM, answer_headers, error_body, openai_error_event, read, read_json
from bench.engine.tgi_requests import Ask, read_chat, read_completion, read_generate
from bench.engine.tgi_validation import OVERLOADED, Limits, Refused, validate
from bench.engine.tgi_voices import ChatVoice, CompletionVoice, GenerateVoice, answer, head, usage
from bench.engine.wire import EVENT, Exchange, Voice, attended, encode, relay
from bench.engine.words import Speech


class Generation:
    """The handlers, which all end in the driver."""

    def __init__(self, driver: Driver, model_id: str, limits: Limits) -> None:
        self._driver = driver
        self._model_id = model_id
        self._limits = limits

    async def compatible(self, exchange: Exchange) -> None:
        await self._compatible_from(exchange, await read_json(exchange, self._limits.payload_bytes))

    async def _compatible_from(self, exchange: Exchange, data: object) -> None:
        ask = read(read_generate, data)
        if ask.stream:
            return await self._stream_generated(exchange, ask, full_text=True)
        return await self._answer_generated(exchange, ask, full_text=True)

    async def generate(self, exchange: Exchange) -> None:
        data = await read_json(exchange, self._limits.payload_bytes)
        await self._answer_generated(exchange, read(lambda body: read_generate(body, stream=False), data))

    async def generate_stream(self, exchange: Exchange) -> None:
        data = await read_json(exchange, self._limits.payload_bytes)
        await self._stream_generated(exchange, read(lambda body: read_generate(body, stream=True), data))

    async def invocations(self, exchange: Exchange) -> None:
        """SageMaker's route takes any of three bodies."""
        data = await read_json(exchange, self._limits.payload_bytes)
        keys = data if isinstance(data, dict) else ()
        handler = (
            self._compatible_from if "inputs" in keys else self._chat_from if "messages" in keys else self._completions_from
        )
        await handler(exchange, data)

    async def _answer_generated(self, exchange: Exchange, ask: Ask, *, full_text: bool = False) -> None:
        flight = self._submit(exchange, ask, ask.prompt_tokens * ask.best_of)
        async with attended(exchange, flight):
            await flight.finished()
            body = answer(ask, _speeches(flight), full_text=full_text)
            await exchange.answer(200, encode([body] if full_text else body), answer_headers(ask, flight, self._driver))

    async def _stream_generated(self, exchange: Exchange, ask: Ask, *, full_text: bool = False) -> None:
        def voice(flight: Flight) -> Voice:
            return GenerateVoice(ask, _speeches(flight)[0], full_text)

        await self._stream(exchange, ask, voice, lambda error: EVENT % encode(error_body(error)))

    async def chat(self, exchange: Exchange) -> None:
        await self._chat_from(exchange, await read_json(exchange, self._limits.payload_bytes))

    async def _chat_from(self, exchange: Exchange, data: object) -> None:
        ask, created = read(read_chat, data), int(time.time())
        if ask.stream:
            return await self._stream(
                exchange, ask, lambda flight: ChatVoice(ask, _speeches(flight)[0], created, self._model_id), openai_error_event
            )

        def choice(speech: Speech) -> dict[str, object]:
            message = {"role": "assistant", "content": speech.text(ask.max_new_tokens)}
            return {"message": message, "logprobs": None, "finish_reason": "length"}

        return await self._answer_openai(exchange, ask, head("chat.completion", created, self._model_id), choice)

    async def completions(self, exchange: Exchange) -> None:
        await self._completions_from(exchange, await read_json(exchange, self._limits.payload_bytes))

    async def _completions_from(self, exchange: Exchange, data: object) -> None:
        ask, created = read(read_completion, data), int(time.time())
        if ask.parameters.get("suffix") is not None:
            raise Refused(
                422, "suffix not supported", "Suffix is not supported and can be achieved by preprocessing the prompt."
            )
        if len(ask.prompts) > self._limits.max_client_batch_size:
            most = self._limits.max_client_batch_size
            raise Refused(422, "batch size exceeded", f"Number of prompts exceeds the maximum allowed batch size of {most}")
        if ask.stream:
            return await self._stream(
                exchange,
                ask,
                lambda flight: CompletionVoice(ask, _speeches(flight), created, self._model_id),
                openai_error_event,
            )

        def choice(speech: Speech) -> dict[str, object]:
            return {"text": speech.text(ask.max_new_tokens), "logprobs": None, "finish_reason": "length"}

        start = head("text_completion", created, self._model_id)
        return await self._answer_openai(exchange, ask, start, choice, compute_time=False)

    async def _answer_openai(
        self,
        exchange: Exchange,
        ask: Ask,
        start: dict[str, object],
        choice: Callable[[Speech], dict[str, object]],
        *,
        compute_time: bool = True,
    ) -> None:
        """Choices come in the order in which they ended."""
        flight = self._submit(exchange, ask, ask.prompt_tokens)
        async with attended(exchange, flight):
            await flight.finished()
            speeches = _speeches(flight)
            ended = sorted(flight.tracks, key=lambda track: track.ended_at or 0.0)
            choices = [{"index": track.index, **choice(speeches[track.index])} for track in ended]
            counts = usage(sum(ask.prompt_tokens), ask.max_new_tokens * len(ask.prompts))
            headers = answer_headers(ask, flight, self._driver, compute_time=compute_time)
            await exchange.answer(200, encode({**start, "choices": choices, "usage": counts}), headers)

    async def _stream(
        self, exchange: Exchange, ask: Ask, voice: Callable[[Flight], Voice], event: Callable[[Refused], bytes]
    ) -> None:
        """The status is 200 before anything is known; what goes wrong is told as an event."""
        characters = str(sum(map(len, ask.prompts))).encode()
        await exchange.begin((*STREAM, (b"x-compute-characters", characters), *CORS))
        try:
            flight = self._submit(exchange, ask, ask.prompt_tokens, streamed=True)
        except Refused as error:
            await exchange.end(event(error))
            return
        async with attended(exchange, flight):
            await relay(exchange, flight, voice(flight))

    def _submit(self, exchange: Exchange, ask: Ask, prompts: Sequence[int], *, streamed: bool = False) -> Flight:
        validate(ask, self._limits)
        try:
            return self._driver.submit(prompts, ask.max_new_tokens, id=exchange.header(b"x-request-id"), streamed=streamed)
        except Overloaded:
            raise Refused(*OVERLOADED) from None


def _speeches(flight: Flight) -> list[Speech]:
    return [Speech(f"{flight.id}/{track.index}") for track in flight.tracks]
