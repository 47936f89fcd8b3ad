"""HTTP without ASGI's dictionaries around it: an exchange that is read and answered, and what both wires share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

from bench.engine.flight import ClientGone, Flight

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
EVENT = b"data: %b\n\n"
DONE = b"data: [DONE]\n\n"


class TooLarge(Exception):
    """The body is longer than the engine takes."""


class Exchange:
    """One request and its response."""

    __slots__ = ("_receive", "_send", "headers", "method", "path", "query")

    def __init__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: bytes = scope.get("query_string", b"")
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self._receive = receive
        self._send = send

    def header(self, name: bytes) -> str:
        return self.headers.get(name, b"").decode("latin-1")

    async def body(self, limit: int | None = None) -> bytes:
        """The whole request body.

        Raises:
            ClientGone: it left before it had sent all.
            TooLarge: longer than `limit`.
        """
        parts, size, more = [], 0, True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if limit is not None and size > limit:
                raise TooLarge
            more = message.get("more_body", False)
        return b"".join(parts)

    async def closed(self) -> None:
        """Returns when the client has left; the body must have been read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def answer(self, status: int, body: bytes = b"", headers: Headers = ()) -> None:
        """A whole response at once."""
        await self._start(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self.end(body)

    async def answer_json(self, status: int, value: object, headers: Headers = ()) -> None:
        await self.answer(status, encode(value), [JSON, *headers])

    async def begin(self, headers: Headers) -> None:
        """The head of a stream."""
        await self._start(200, list(headers))

    async def write(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self, body: bytes = b"") -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": headers})


Handler = Callable[[Exchange], Awaitable[None]]


def encode(value: object) -> bytes:
    """JSON as engines write it: compact, and not escaped."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def strict_json(body: bytes) -> Any:
    """What a strict parser takes: Python's own also reads NaN and Infinity.

    Raises:
        ValueError: it is not JSON.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"expected value, not {constant}")

    try:
        return json.loads(body, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("recursion limit exceeded") from error


class Voice(Protocol):
    """How one dialect tells a request's tokens as server-sent events."""

    ending: bytes  # after the last token: counts, [DONE]
    silence: bytes  # said when nothing was said for long

    def event(self, sequence: int) -> bytes:
        """The next token of one of the request's sequences."""
        ...


@asynccontextmanager
async def attended(exchange: Exchange, flight: Flight) -> AsyncIterator[None]:
    """While the response is made: a client that leaves takes its sequences out of the engine at once."""
    watch = asyncio.create_task(exchange.closed())
    watch.add_done_callback(lambda _: flight.cancel())
    try:
        yield
        await asyncio.sleep(0)  # uvloop writes to sockets at the end of its turn
        flight.handed_over()
    except ClientGone:
        pass
    finally:
        watch.cancel()
        flight.cancel()


async def relay(exchange: Exchange, flight: Flight, voice: Voice) -> None:
    """Every token as an event of its own; only those that a late loop has let pile up leave together."""
    while flight.untold:
        fresh = await flight.fresh()
        if body := b"".join([voice.event(sequence) for sequence in fresh]) if fresh else voice.silence:
            await exchange.write(body)
    await exchange.end(voice.ending)
