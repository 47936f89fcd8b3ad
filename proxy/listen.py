"""Sockets and HTTP servers of both ports, with nothing switched on that a proxy does not want."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from proxy.config import Limits

TOO_LARGE, TOO_SLOW = b"431 Request Header Fields Too Large", b"408 Request Timeout"


class CannotListen(Exception):
    """The address cannot be had; the message says which and why."""


class Server(uvicorn.Server):
    """A server that leaves signals to whoever runs several."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def http_server(app: Any, *, grace_s: float, limits: Limits | None = None) -> Server:
    """A server that adds no header of its own; `grace_s` is its grace for what is in flight when it closes."""
    config = uvicorn.Config(
        app,
        loop="none",
        http=bounded(limits) if limits is not None else "httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=limits.idle_timeout_s if limits is not None else 75,
        timeout_graceful_shutdown=max(round(grace_s), 1),
        backlog=8192,
    )
    return Server(config)


def bounded(limits: Limits) -> type[HttpToolsProtocol]:
    """The server's protocol with bounds on what a client may do to it: long heads, slow heads, answers not taken."""

    class Bounded(HttpToolsProtocol):
        _head_bytes = 0  # at least so many of the head that is being read
        _head_timer: asyncio.TimerHandle | None = None  # runs while a head is being read
        _stall_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            transport.set_write_buffer_limits(high=limits.stream_window_bytes)
            self._head_timer = self.loop.call_later(limits.header_timeout_s, self._head_too_slow)

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in (self._head_timer, self._stall_timer):
                if timer is not None:
                    timer.cancel()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._head_timer is not None:
                self._head_bytes += len(data)
                if self._head_bytes > limits.header_bytes:
                    self._refuse(TOO_LARGE)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            if self._head_timer is None:
                self._head_bytes = 0
                self._head_timer = self.loop.call_later(limits.header_timeout_s, self._head_too_slow)

        def on_headers_complete(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None
            if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > limits.header_bytes:
                self.app = head_too_large
            super().on_headers_complete()

        def _head_too_slow(self) -> None:
            self._head_timer = None
            if self._head_bytes:
                self._refuse(TOO_SLOW)
            else:
                self.transport.close()

        def _refuse(self, status: bytes) -> None:
            """An answer without a request: nobody knows yet which dialect it would have been in."""
            if not self.transport.is_closing():
                self.transport.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                self.transport.close()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._stall_timer = self.loop.call_later(limits.stall_timeout_s, self.transport.abort)

        def resume_writing(self) -> None:
            if self._stall_timer is not None:
                self._stall_timer.cancel()
                self._stall_timer = None
            super().resume_writing()

    return Bounded


async def head_too_large(scope: Any, receive: Any, send: Any) -> None:
    """Instead of the app, for one that has come whole and is too long all the same."""
    headers = [(b"content-length", b"0"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 431, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def said_already(record: logging.LogRecord) -> bool:
    """A filter: what the server says of an answer that breaks off was said by us, with the request's id and the cause."""
    return not record.getMessage().startswith("ASGI callable returned without completing")


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        CannotListen: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise CannotListen(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return sock


def address(sock: socket.socket) -> str:
    """The URL at which a listening socket is reached from this machine."""
    host, port = sock.getsockname()[:2]
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
