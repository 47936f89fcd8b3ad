"""Servers that misbehave as scripted, clients of raw bytes, and the check that nothing is left."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy.listen import said_already
from tests.serving import DataPlane, data_plane

BOUND_S = 5.0  # nothing that a fault test waits for takes longer

# route and body by dialect and by whether the answer is streamed
ASKS: dict[tuple[str, bool], tuple[str, dict[str, Any]]] = {
    ("tgi", False): ("/generate", {"inputs": "a"}),
    ("tgi", True): ("/generate_stream", {"inputs": "a"}),
    ("vllm", False): ("/v1/chat/completions", {"messages": []}),
    ("vllm", True): ("/v1/messages", {"messages": [], "stream": True}),
    ("sglang", False): ("/v1/completions", {"prompt": "a"}),
    ("sglang", True): ("/generate", {"text": "a", "stream": True}),
    ("llamacpp", True): ("/completion", {"prompt": "a", "stream": True}),
    ("openai", False): ("/v1/completions", {"prompt": "a"}),
    ("openai", True): ("/v1/chat/completions", {"messages": [], "stream": True}),
}


def request(
    dialect: str = "tgi", *headers: str, streamed: bool = False, body: bytes | None = None, keep: bool = False
) -> bytes:
    """A generation request; its connection closes after the answer unless it is to `keep`."""
    path, ask = ASKS[dialect, streamed]
    body = json.dumps(ask).encode() if body is None else body
    lines = ["host: x", *([] if keep else ["connection: close"]), *headers, f"content-length: {len(body)}"]
    return f"POST {path} HTTP/1.1\r\n".encode() + "\r\n".join(lines).encode() + b"\r\n\r\n" + body


# --- servers ----------------------------------------------------------------------------------------------------------


class Rst:
    """The connection is reset."""


class Fin:
    """The connection is closed in order."""


class Silence:
    """Nothing, until the other side closes."""


Step = bytes | float | type[Rst] | type[Fin] | type[Silence]
Handler = Callable[["Peer"], Awaitable[None]]


@dataclass
class Peer:
    """One connection as a server has it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int  # of the connection, from 0

    async def request(self) -> tuple[bytes, bytes]:
        """The next request's head and body; raises IncompleteReadError at the end."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                return head, await self.reader.readexactly(int(line.split(b":")[1]))
            # by its whole name: fuzzing makes others that begin so (`transfer-encoding0`), which are anybody's and go on
            assert line.split(b":")[0].strip() != b"transfer-encoding", f"the proxy sends bodies whole: {head!r}"
        return head, b""

    async def play(self, *steps: Step) -> None:
        for step in steps:
            if isinstance(step, bytes):
                self.writer.write(step)
                await self.writer.drain()
            elif isinstance(step, float):
                await asyncio.sleep(step)
            elif step is Rst:
                self.reset()
            elif step is Fin:
                self.writer.close()
            else:
                await self.gone()

    async def gone(self) -> None:
        while await self.reader.read(65_536):
            pass

    def reset(self) -> None:
        reset(self.writer)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@dataclass
class FaultyServer:
    """A server whose every connection is in the hands of a handler."""

    handler: Handler
    address: str = ""
    seen: list[tuple[bytes, bytes]] = field(default_factory=list)
    made: int = 0
    open: int = 0
    closed_at: float = 0.0  # when a connection last ended
    listener: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def start(self, port: int = 0) -> None:
        self.listener = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.address = "{}:{}".format(*self.listener.sockets[0].getsockname()[:2])

    async def stop(self, how: type[Rst] | type[Fin] = Rst) -> None:
        """No new connections, and those that are there end."""
        assert self.listener is not None
        self.listener.close()
        for writer in self._writers:
            reset(writer) if how is Rst else writer.close()
        await until(lambda: not self.open)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer, self.made)
        self.made += 1
        self.open += 1
        self._writers.add(writer)
        try:
            await self.handler(peer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            self.closed_at = time.monotonic()
            self._writers.discard(writer)
            writer.close()


def plays(*steps: Step) -> Handler:
    """A server that reads one request on each connection and then does this."""

    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.play(*steps)

    return handle


def answers(answer: bytes) -> Handler:
    """A server that works: this, to each request, and the connection is kept."""

    async def handle(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.play(answer)

    return handle


OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\nok"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


# --- clients ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def client(address: str) -> AsyncIterator[Peer]:
    """A raw connection; reset at the end of the block if it is still open."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Peer(reader, writer, 0)
    finally:
        writer.close()


async def ask(address: str, *parts: bytes | float) -> bytes:
    """All that comes back, until the proxy closes."""
    async with client(address) as peer:
        with suppress(ConnectionError):  # it has been answered before it had sent all
            await peer.play(*parts)
        return await rest(peer)


async def rest(peer: Peer) -> bytes:
    """What comes until the other side closes, however it does."""
    got = bytearray()
    async with asyncio.timeout(BOUND_S):
        try:
            while some := await peer.reader.read(65_536):
                got += some
        except ConnectionError:
            pass
    return bytes(got)


@dataclass(frozen=True)
class Read:
    """An answer as its client reads it."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    whole: bool
    after: bytes = b""  # what follows a whole answer on the connection

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


def read(answer: bytes) -> Read:
    """As a strict client does; `whole` is False for one that was visibly cut off."""
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return Read(0, [], answer, whole=False)
    line, *lines = head.decode("latin-1").split("\r\n")
    assert line.startswith("HTTP/1."), answer[:200]
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    told = dict(headers)
    status = int(line.split()[1])
    if "content-length" in told:
        length = int(told["content-length"])
        return Read(status, headers, body[:length], len(body) >= length, body[length:])
    if told.get("transfer-encoding") == "chunked":
        return Read(status, headers, *dechunked(body))
    return Read(status, headers, body, whole=True)


def dechunked(body: bytes) -> tuple[bytes, bool, bytes]:
    out = b""
    while True:
        size, end, body = body.partition(b"\r\n")
        if not end:
            return out, False, b""
        length = int(size, 16)
        if length == 0:
            return out, body.startswith(b"\r\n"), body[2:]
        out, more = out + body[:length], body[length : length + 2]
        if more != b"\r\n":
            return out, False, b""
        body = body[length + 2 :]


# --- nothing is left --------------------------------------------------------------------------------------------------


async def until(true: Callable[[], bool], within_s: float = BOUND_S) -> float:
    """Wait until something holds; how long that took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < within_s, "it does not come true"
        await asyncio.sleep(0.002)
    return time.monotonic() - began


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir())) - 1


class _Faults(logging.Handler):
    """What was logged as an error, which no fault of others is."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.addFilter(said_already)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(self.format(record))


def at_rest(plane: DataPlane) -> bool:
    busy = [server.client.connections - kept(server.client) for server in plane.fleet.servers]
    return not plane.forward.open and not any(busy) and not list(plane.ledger.open_entries())


def kept(client: Any) -> int:
    """Connections that are idle, for the next request."""
    return sum(map(len, client._session.connector._conns.values()))


def assert_books_agree(plane: DataPlane) -> None:
    """Every generation request is in the ledger, counted once, and stayed in the room once and once more for each retry."""
    ended, counts = len(plane.ledger._ended), plane.forward.counts
    assert counts.completed + counts.failed == ended
    assert sum(pool.scheduler.admitted for pool in plane.fleet.pools.values()) == ended + counts.retried


@asynccontextmanager
async def nothing_left() -> AsyncIterator[list[str]]:
    """Tasks and open files are after the block what they were before, and nothing was logged as an error."""
    tasks, files, faults = asyncio.all_tasks(), open_files(), _Faults()
    loud = [logging.getLogger(name) for name in ("paceline", "uvicorn.error", "asyncio")]
    for logger in loud:
        logger.addHandler(faults)
    try:
        yield faults.records
    finally:
        for logger in loud:
            logger.removeHandler(faults)
    await until(lambda: asyncio.all_tasks() - {asyncio.current_task()} <= tasks)
    await until(lambda: open_files() <= files)
    assert faults.records == []


@dataclass
class Stage:
    """The data plane in front of misbehaving servers."""

    plane: DataPlane
    servers: list[FaultyServer]
    faults: list[str]  # of ours, as they were logged

    @property
    def address(self) -> str:
        return self.plane.address

    @property
    def server(self) -> FaultyServer:
        return self.servers[0]

    async def rests(self) -> None:
        """Everybody has ended, nothing is held for anybody, and the books agree."""
        await until(lambda: at_rest(self.plane))
        self.plane.assert_at_rest()
        assert_books_agree(self.plane)


@asynccontextmanager
async def stage(*handlers: Handler, slots: int | None = None, **flags: Any) -> AsyncIterator[Stage]:
    """Servers with these handlers, and the data plane; after the block everything must be at rest, and then gone."""
    async with nothing_left() as faults, AsyncExitStack() as stack:
        servers = [FaultyServer(handler) for handler in handlers]
        for server in servers:
            await server.start()
            stack.push_async_callback(server.stop)
        upstreams = [{"url": f"http://{server.address}", **({"slots": slots} if slots else {})} for server in servers]
        plane = await stack.enter_async_context(data_plane(upstreams=upstreams, **flags))
        on = Stage(plane, servers, faults)
        yield on
        await on.rests()
