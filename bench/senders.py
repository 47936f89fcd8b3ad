"""Sends one request of a load and times its answer: over the raw wire, or through TGI's Python client."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from bench.arrivals import Planned
from bench.bodies import Options, body, headers, path, prompt_text
from bench.draws import BadSpec
from bench.sample import Sample
from proxy.dialects import OPENAI, TGI, Dialect
from proxy.dialects.base import Usage
from proxy.dialects.events import EventReader
from proxy.upstream import Answer, Client, UpstreamError


@dataclass(frozen=True, slots=True)
class Clock:
    """Seconds after the load's start; negative before it."""

    starts_at: float  # time.monotonic

    def __call__(self) -> float:
        return time.monotonic() - self.starts_at


class Sender(Protocol):
    """Sends requests; errors end in the sample, and are not raised."""

    async def send(self, sample: Sample, number: int, clock: Clock) -> None: ...
    async def close(self) -> None: ...


def create_sender(options: Options) -> Sender:
    """Inside a running event loop.

    Raises:
        BadSpec: the client is not installed.
    """
    return TextGenerationSender(options) if options.client == "text-generation" else RawSender(options)


@dataclass(slots=True)
class RawSender:
    """The proxy's own HTTP client, which costs little CPU and queues nothing."""

    options: Options
    _client: Client = field(default_factory=Client)

    async def send(self, sample: Sample, number: int, clock: Clock) -> None:
        options = self.options
        try:
            async with asyncio.timeout(options.timeout_s):
                answer = await self._client.open(
                    "POST",
                    options.url.rstrip("/") + path(options),
                    headers(options, sample.planned),
                    body(options, sample.planned, number),
                )
                try:
                    await _read(answer, sample, clock, OPENAI if options.dialect == "openai" else TGI)
                finally:
                    answer.release()
        except TimeoutError:
            sample.error = "timeout"
        except UpstreamError as error:
            sample.error = type(error).__name__.lower()
        sample.ended_at_s = clock()

    async def close(self) -> None:
        await self._client.close()


async def _read(answer: Answer, sample: Sample, clock: Clock, dialect: Dialect) -> None:
    seen = {name.lower(): value for name, value in answer.headers}
    sample.id = seen.get(b"x-paceline-request-id", b"").decode("latin-1")
    if answer.status != 200:
        sample.error = f"status {answer.status}"
        await answer.read()
        return
    if seen.get(b"content-type", b"").startswith(b"text/event-stream"):
        await _read_stream(answer, sample, clock, dialect)
    else:
        _take_usage(sample, dialect.read_answer(seen, await answer.read()))


async def _read_stream(answer: Answer, sample: Sample, clock: Clock, dialect: Dialect) -> None:
    """Every event that brings a token is timed; chunks with only a role or a count bring none."""
    reader = EventReader(dialect.read_event)
    async for chunk in answer.chunks():
        at_s = clock()
        for event in reader.feed(chunk):
            if event.tokens:
                _saw_token(sample, at_s, event.tokens)
            if event.usage is not None:
                _take_usage(sample, event.usage)
            if event.error:
                sample.error = f"event {event.error}"
    if not sample.events and not sample.error:
        sample.error = "empty stream"


def _saw_token(sample: Sample, at_s: float, tokens: int = 1) -> None:
    if sample.first_token_at_s is None:
        sample.first_token_at_s = at_s
    sample.last_token_at_s = at_s
    sample.events += tokens


def _take_usage(sample: Sample, usage: Usage) -> None:
    sample.prompt_tokens = usage.prompt_tokens or sample.prompt_tokens
    sample.output_tokens = usage.output_tokens or sample.output_tokens


class TextGenerationSender:
    """`text_generation.AsyncClient`, with a client for each tier, as its headers are the client's."""

    def __init__(self, options: Options) -> None:
        try:
            from text_generation import AsyncClient
        except ImportError as error:
            raise BadSpec(
                f"this client is not installed ({error.name} is missing): pip install 'paceline[text-generation]'"
            ) from error
        self._options = options
        self._make = AsyncClient
        self._clients: dict[str, Any] = {}

    async def send(self, sample: Sample, number: int, clock: Clock) -> None:
        client = self._client(sample.planned)
        text = prompt_text(Random(f"{self._options.seed}/prompt/{number}"), sample.planned.prompt_tokens)
        try:
            await (self._stream if self._options.stream else self._generate)(client, text, sample, clock)
        except TimeoutError:
            sample.error = "timeout"
        except Exception as error:  # whatever a foreign client raises is a kind of failure
            sample.error = type(error).__name__
        sample.ended_at_s = clock()

    async def close(self) -> None:
        """Each of its calls closes its own connection."""

    def _client(self, planned: Planned) -> Any:
        if planned.tier not in self._clients:
            extra = {name.decode(): value.decode() for name, value in headers(self._options, planned)[1:]}
            self._clients[planned.tier] = self._make(self._options.url, headers=extra, timeout=self._options.timeout_s)
        return self._clients[planned.tier]

    async def _stream(self, client: Any, text: str, sample: Sample, clock: Clock) -> None:
        async with aclosing(client.generate_stream(text, max_new_tokens=sample.planned.output_tokens)) as events:
            async for event in events:
                _saw_token(sample, clock())
                if event.details is not None:
                    sample.output_tokens = event.details.generated_tokens
        if not sample.events:
            sample.error = "empty stream"

    async def _generate(self, client: Any, text: str, sample: Sample, clock: Clock) -> None:
        answer = await client.generate(text, max_new_tokens=sample.planned.output_tokens)
        sample.output_tokens = answer.details.generated_tokens
