"""The wire of vLLM's OpenAI server (0.33) before a simulated engine: its routes, chunks and errors.

It serves whatever model is asked for, and always generates up to max_tokens: stop strings and tools change nothing. Where its
profile has a `sleep_power_w` it is as if started with --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from bench.engine import words
from bench.engine.driver import Asleep, Driver, Overloaded
from bench.engine.flight import Flight
from bench.engine.metrics import vllm_metrics
from bench.engine.openai_requests import MAX_MODEL_LEN, Ask, Refused, bad_request, read_chat, read_completion, read_tokenize
from bench.engine.openai_voices import OpenAIVoice, chat_answer, completion_answer, head
from bench.engine.sleep import Sleep
from bench.engine.wire import Exchange, Handler, Headers, attended, relay, strict_json
from bench.engine.words import Speech

STREAM = ((b"content-type", b"text/event-stream; charset=utf-8"),)
METRICS = ((b"content-type", b"text/plain; version=1.0.0; charset=utf-8"),)
VERSION = "0.33.0"

Answer = Callable[[Ask, dict[str, Any], list[Speech]], dict[str, Any]]


class OpenAIWire:
    """vLLM's surface."""

    name = "openai"
    headers: Headers = ((b"server", b"uvicorn"),)  # besides `date`: vLLM runs under uvicorn as it comes

    def __init__(self, driver: Driver, model_id: str) -> None:
        self._driver = driver
        self._model_id = model_id
        self._serial = 0
        self._routes: dict[str, dict[str, Handler]] = {
            "/v1/chat/completions": {"POST": self._chat},
            "/v1/completions": {"POST": self._completions},
            "/v1/models": {"GET": self._models},
            "/tokenize": {"POST": self._tokenize},
            "/health": {"GET": self._health},
            "/ping": {"GET": self._health, "POST": self._health},
            "/version": {"GET": self._version},
            "/metrics": {"GET": self._metrics},
        }
        self._sleep = Sleep(driver) if driver.model.sleep_power_w is not None else None
        if self._sleep is not None:
            self._routes |= self._sleep.routes

    async def __call__(self, exchange: Exchange) -> None:
        methods = self._routes.get(exchange.path)
        if methods is None:
            return await exchange.answer_json(404, {"detail": "Not Found"})
        handler = methods.get(exchange.method)
        if handler is None:
            allowed = ", ".join(sorted(methods)).encode()
            return await exchange.answer_json(405, {"detail": "Method Not Allowed"}, [(b"allow", allowed)])
        try:
            await handler(exchange)
        except Refused as error:
            await exchange.answer_json(error.status, error.body)

    async def _chat(self, exchange: Exchange) -> None:
        ask = read_chat(await _json(exchange))
        await self._generate(exchange, ask, "chatcmpl", "chat.completion", chat_answer)

    async def _completions(self, exchange: Exchange) -> None:
        ask = read_completion(await _json(exchange))
        await self._generate(exchange, ask, "cmpl", "text_completion", completion_answer)

    async def _generate(self, exchange: Exchange, ask: Ask, prefix: str, object: str, answer: Answer) -> None:
        flight = self._submit(exchange, ask)
        speeches = [Speech(f"{flight.id}/{track.index}") for track in flight.tracks]
        start = head(f"{prefix}-{flight.id}", object, int(time.time()), self._model_id)
        async with attended(exchange, flight):
            if not ask.stream:
                await flight.finished()
                await exchange.answer_json(200, answer(ask, start, speeches))
                return
            await exchange.begin(STREAM)
            chat = object == "chat.completion"
            start["object"] = "chat.completion.chunk" if chat else object
            await relay(exchange, flight, OpenAIVoice(ask, speeches, start, chat=chat))

    def _submit(self, exchange: Exchange, ask: Ask) -> Flight:
        id = exchange.header(b"x-request-id")
        try:
            return self._driver.submit(ask.sequences, ask.max_tokens, id=id, streamed=ask.stream)
        except Asleep:
            raise Refused(503, "ServiceUnavailableError", "The engine is asleep or paused.") from None
        except Overloaded:
            raise Refused(503, "ServiceUnavailableError", "The server is overloaded. Please try again later.") from None

    async def _tokenize(self, exchange: Exchange) -> None:
        tokens = [words.token_id(word) for word in read_tokenize(await _json(exchange)).split()]
        body = {"count": len(tokens), "max_model_len": MAX_MODEL_LEN, "tokens": tokens, "token_strs": None}
        await exchange.answer_json(200, body)

    async def _health(self, exchange: Exchange) -> None:
        await exchange.answer(200)

    async def _version(self, exchange: Exchange) -> None:
        await exchange.answer_json(200, {"version": VERSION})

    async def _metrics(self, exchange: Exchange) -> None:
        level = self._sleep.level if self._sleep is not None else -1
        await exchange.answer(200, vllm_metrics(self._driver, self._model_id, level=level), METRICS)

    async def _models(self, exchange: Exchange) -> None:
        model = {
            "id": self._model_id,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "vllm",
            "root": self._model_id,
            "parent": None,
            "max_model_len": MAX_MODEL_LEN,
        }
        await exchange.answer_json(200, {"object": "list", "data": [model]})


async def _json(exchange: Exchange) -> Any:
    """The body.

    Raises:
        Refused: not announced as JSON, or no JSON.
    """
    body = await exchange.body()
    if exchange.header(b"content-type").partition(";")[0].strip().lower() != "application/json":
        raise bad_request("Unsupported Media Type: Only 'application/json' is allowed")
    try:
        return strict_json(body)
    except ValueError as error:
        raise bad_request(f"JSON decode error: {error}") from error
