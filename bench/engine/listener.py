"""Listens for the simulated server: uvicorn's protocol on one socket, without its signal handlers and its polling."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import uvicorn

from bench.engine.wire import Headers
from proxy.listen import Server, address, listen


class _Server(Server):
    """A server that starts and stops at once: nothing here waits for clients."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self.stopping = asyncio.Event()

    async def main_loop(self) -> None:
        """Keeps the `date` header right."""
        await self.on_tick(0)
        self.listening.set()
        while not self.stopping.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), 1.0)
            await self.on_tick(0)

    async def shutdown(self, sockets: Any = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        while self.server_state.tasks:
            await asyncio.wait(set(self.server_state.tasks), timeout=1.0)
        await asyncio.sleep(0)  # the watches over clients end with their requests


class Listener:
    """One socket and who serves it."""

    def __init__(self, app: Any, host: str, port: int, headers: Headers) -> None:
        self.url = ""  # known once it listens
        self._host, self._port = host, port
        self._config = uvicorn.Config(
            app,
            loop="none",
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            headers=[(name.decode(), value.decode()) for name, value in headers],
            timeout_keep_alive=75,
            backlog=8192,
        )
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when it listens.

        Raises:
            CannotListen: the address cannot be had.
        """
        sock = listen(self._host, self._port)
        self.url = address(sock)
        self._server = _Server(self._config)
        self._task = asyncio.create_task(self._server.serve([sock]), name="simulated-engine")
        await self._server.listening.wait()

    async def stop(self) -> None:
        """Drops every connection."""
        if self._server is not None and self._task is not None:
            self._server.stopping.set()
            await self._task
