"""Listens for the simulated server: uvicorn's protocol on one socket, without its signal handlers and its polling."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn

from bench.wire import Headers


class _Server(uvicorn.Server):
    """A server that starts and stops at once: nothing here waits for clients."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self.stopping = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

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
        self._host, self._port = host, port
        self._config = uvicorn.Config(
            app,
            host=host,
            port=port,
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

    @property
    def url(self) -> str:
        return f"http://[{self._host}]:{self._port}" if ":" in self._host else f"http://{self._host}:{self._port}"

    async def start(self) -> None:
        """Returns when it listens.

        Raises:
            OSError: the address cannot be had.
        """
        sock = socket.socket(socket.AF_INET6 if ":" in self._host else socket.AF_INET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((self._host, self._port))
        except OSError:
            sock.close()
            raise
        self._port = sock.getsockname()[1]
        self._server = _Server(self._config)
        self._task = asyncio.create_task(self._server.serve([sock]), name="simulated-engine")
        await self._server.listening.wait()

    async def stop(self) -> None:
        """Drops every connection."""
        if self._server is not None and self._task is not None:
            self._server.stopping.set()
            await self._task
