"""Real servers on real sockets for tests: a scripted upstream, and the data plane in front of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from proxy.config import Config, Limits
from proxy.fleet import Fleet, Pool, create_fleet
from proxy.forward import Forward
from proxy.listen import http_server
from proxy.scheduler import Scheduler
from proxy.sources import load
from telemetry.ledger import Ledger


@asynccontextmanager
async def served(app: Any, limits: Limits | None = None) -> AsyncIterator[str]:
    """An ASGI app behind the server that `paceline serve` uses, on a free port; yields host:port."""
    server = http_server(app, grace_s=1, limits=limits)
    server.config.host, server.config.port = "127.0.0.1", 0
    async with running(server) as address:
        yield address


@asynccontextmanager
async def running(server: uvicorn.Server) -> AsyncIterator[str]:
    """Started and stopped by hand, for its own loop looks ten times a second only at whether to stop."""
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup()
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    try:
        yield f"{host}:{port}"
    finally:
        for listener in server.servers:
            listener.close()
        for connection in list(server.server_state.connections):
            connection.shutdown()
        await asyncio.sleep(0.01)  # for those that close


@dataclass
class Seen:
    """One request as an upstream saw it, and whether its connection was closed from the other side."""

    head: bytes
    body: bytes
    closed: asyncio.Event = field(default_factory=asyncio.Event)


Script = Callable[[Seen, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Upstream:
    """A server that does what its script says, byte for byte, and remembers what it was sent."""

    script: Script
    seen: list[Seen] = field(default_factory=list)
    address: str = ""
    connections: int = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                seen = Seen(head, await _body(head, reader))
                self.seen.append(seen)
                watch = asyncio.create_task(_watch(reader, seen))
                await self.script(seen, writer)
                await writer.drain()
                if seen.closed.is_set() or b"connection: close" in head.lower():
                    break
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def _body(head: bytes, reader: asyncio.StreamReader) -> bytes:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return await reader.readexactly(int(line.split(b":")[1]))
    return b""


async def _watch(reader: asyncio.StreamReader, seen: Seen) -> None:
    """A client that waits for its answer sends nothing, so whatever can be read is the end."""
    while not reader.at_eof():
        if reader._buffer:  # type: ignore[attr-defined]  # the next request on a kept connection
            return
        try:
            await reader._wait_for_data("watch")  # type: ignore[attr-defined]
        except ConnectionError:
            break
    seen.closed.set()


@asynccontextmanager
async def upstream(script: Script) -> AsyncIterator[Upstream]:
    scripted = Upstream(script)
    server = await asyncio.start_server(scripted.handle, "127.0.0.1", 0)
    scripted.address = "{}:{}".format(*server.sockets[0].getsockname()[:2])
    try:
        yield scripted
    finally:
        server.close()


@dataclass
class DataPlane:
    """The data plane alone: no admin port, no meters, and servers that are asked nothing."""

    address: str
    forward: Forward
    fleet: Fleet
    ledger: Ledger

    @property
    def pool(self) -> Pool:
        return self.fleet.default

    @property
    def scheduler(self) -> Scheduler:
        return self.pool.scheduler

    def assert_at_rest(self) -> None:
        """Nobody is here, nothing is held for anybody, and everybody who came had one end."""
        for pool in self.fleet.pools.values():
            room = pool.scheduler.room
            assert (room.held, room.ready, room.in_flight) == (0, 0, 0)
            assert all(view.in_flight == 0 for view in room.server_views())
            assert pool.scheduler.admitted == sum(pool.scheduler.outcomes.values())
            assert not pool.scheduler._turns
        assert self.forward.open == 0
        assert (self.forward.admission.total.waiting, self.forward.admission.total.bytes) == (0, 0)
        assert not self.forward.admission._loads
        assert all(server.in_use == 0 for server in self.fleet.servers)
        assert not list(self.ledger.open_entries())


def config_for(*addresses: str, environ: dict[str, str] | None = None, **flags: Any) -> Config:
    upstreams = [address if "://" in address else f"http://{address}" for address in addresses]
    return load(None, environ or {}, {**({"upstreams": upstreams} if upstreams else {}), **flags})


@asynccontextmanager
async def data_plane(*addresses: str, environ: dict[str, str] | None = None, **flags: Any) -> AsyncIterator[DataPlane]:
    config = config_for(*addresses, environ=environ, **flags)
    fleet, ledger = create_fleet(config, environ or {}), Ledger()
    forward = Forward(config, fleet, ledger, config.step_model())
    try:
        async with served(forward, config.limits) as address:
            yield DataPlane(address, forward, fleet, ledger)
    finally:
        for server in fleet.servers:
            await server.close()


async def exchange(address: str, request: bytes) -> bytes:
    """All bytes that come back for a request that asks to close the connection."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        await writer.drain()
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
