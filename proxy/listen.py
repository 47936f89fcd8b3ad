"""Sockets and HTTP servers of both ports, with nothing switched on that a proxy does not want."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from proxy.config import Limits
from proxy.wire import Presence

MOST_PIPELINED = 100  # requests of one connection that wait behind one another
REFUSAL = b"HTTP/1.1 %s\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
TOO_LARGE, TOO_SLOW = b"431 Request Header Fields Too Large", b"408 Request Timeout"


class CannotListen(Exception):
    """The address cannot be had; the message says which and why."""


class Server(uvicorn.Server):
    """A server that leaves signals to whoever runs several."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Settings(uvicorn.Config):
    """Settings with a TLS context that whoever made it can load other certificates into."""

    tls: ssl.SSLContext | None = None

    def load(self) -> None:
        super().load()
        self.ssl = self.tls


def http_server(app: Any, *, grace_s: float, limits: Limits | None = None, tls: ssl.SSLContext | None = None) -> Server:
    """A server that adds no header of its own.

    Args:
        app: an ASGI app.
        grace_s: for what is in flight when it closes.
        limits: what a client may ask of it; None: whatever it likes.
        tls: speaks HTTPS with this; None: plain HTTP.
    """
    config = Settings(
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
    config.tls = tls
    return Server(config)


def bounded(limits: Limits) -> type[HttpToolsProtocol]:
    """The server's protocol with bounds on what a client may do to it: long heads, slow heads, answers not taken."""

    class Bounded(HttpToolsProtocol):
        _head_bytes = 0  # at least so many of the head that is being read
        _reading: str | None = "head"  # "head", "body", or neither
        _timed: str | None = None  # what `_timer` is for
        _timer: asyncio.TimerHandle | None = None  # runs while the rest of a head or a body is awaited
        _trailer_bytes = 0
        _got_body = False
        _stall_timer: asyncio.TimerHandle | None = None
        _data = b""  # what came last
        _offered: bytes | None = None  # another protocol, by the latest request

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._cycles: list[RequestResponseCycle] = []  # of requests that are not answered yet
            transport.set_write_buffer_limits(high=limits.stream_window_bytes)
            self._await_rest()

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in (self._timer, self._stall_timer):
                if timer is not None:
                    timer.cancel()
            self.pipeline.clear()
            for cycle in self._cycles:  # the server tells only the one that was read last
                cycle.disconnected = not cycle.response_complete
                cycle.message_event.set()
                if cycle.disconnected:
                    cycle.scope[Presence.KEY].leave()  # type: ignore[literal-required]
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            before, self._got_body = self._reading, False
            self._data = data
            super().data_received(data)
            if self._reading == "head" == before:
                self._head_bytes += len(data)
                if self._head_bytes > limits.header_bytes:
                    self._refuse(TOO_LARGE)
            elif self._reading == "body" == before and not self._got_body:
                self._trailer_bytes += len(data)  # or what stands between chunks
                if self._trailer_bytes > limits.header_bytes:
                    self.transport.abort()
            elif self._reading is None and self._idle and self.timeout_keep_alive_task is None:
                # what came was no head, but stopped the server's timer
                self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
            if self._reading != self._timed or self._timed == "body":
                self._await_rest()

        def _await_rest(self) -> None:
            """A head has so long to come whole; a body, from one piece of it to the next."""
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._timed = self._reading
            if self._reading == "head":
                self._timer = self.loop.call_later(limits.header_timeout_s, self._head_too_slow)
            elif self._reading == "body":
                self._timer = self.loop.call_later(limits.body_timeout_s, self._body_too_slow)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            if self._reading is None:
                self._head_bytes = 0
            self._reading = "head"

        def on_body(self, body: bytes) -> None:
            self._got_body, self._trailer_bytes = True, 0
            super().on_body(body)

        def on_header(self, name: bytes, value: bytes) -> None:
            if self._reading != "body":
                super().on_header(name, value)
                return
            # a trailer, which is not passed on

        def on_headers_complete(self) -> None:
            self._offered = self._get_upgrade() if self.parser.should_upgrade() else None
            if self._offered not in (None, b"websocket"):
                return
            self._reading, self._trailer_bytes = "body", 0
            if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > limits.header_bytes:
                self.app = head_too_large
            self.scope[Presence.KEY] = Presence()  # type: ignore[literal-required]
            super().on_headers_complete()
            self.headers = []  # else trailers would be added to those of the head
            self._cycles = [cycle for cycle in self._cycles if not cycle.response_complete]
            self._cycles.append(self.cycle)
            if len(self._cycles) > MOST_PIPELINED:
                self.transport.abort()

        def on_message_complete(self) -> None:
            self._reading = None
            if self._offered in (None, b"websocket"):
                super().on_message_complete()

        def _unsupported_upgrade_warning(self) -> None:
            """Another protocol was offered, as Java's client does; the parser gives up, and reads the same without it."""
            if self._offered in (None, b"websocket"):
                return
            rest = self._data[sys.exc_info()[1].args[0] :]  # type: ignore[union-attr]  # the parser's exception says where
            lines = [b"%s: %s\r\n" % (name, value) for name, value in self.headers if name != b"upgrade"]
            version = self.parser.get_http_version().encode()
            head = b"%s %s HTTP/%s\r\n%s\r\n" % (self.parser.get_method(), self.url, version, b"".join(lines))
            self.parser = httptools.HttpRequestParser(self)
            self._data = head + rest
            super().data_received(self._data)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self._stall_timer is None and (left := self.transport.get_write_buffer_size()):
                self._stall_timer = self.loop.call_later(limits.stall_timeout_s, self._stalled, left)

        def send_400_response(self, msg: str) -> None:
            of_this = self.cycle is not None and self.cycle.more_body and len(self._cycles) == 1
            if self._idle or (of_this and not self.cycle.response_started):
                super().send_400_response(msg)
            else:  # else it would stand in the midst of another's answer
                self.transport.close()

        @property
        def _idle(self) -> bool:
            """Whether no request waits for its answer."""
            return self.cycle is None or self.cycle.response_complete

        def _head_too_slow(self) -> None:
            if self._head_bytes:
                self._refuse(TOO_SLOW)
            else:
                self.transport.close()

        def _body_too_slow(self) -> None:
            if not self.cycle.response_started and len(self._cycles) == 1:
                self.transport.write(REFUSAL % TOO_SLOW)
            self.transport.close()

        def _refuse(self, status: bytes) -> None:
            """An answer without a request: nobody knows yet which dialect it would have been in."""
            if self._idle and not self.transport.is_closing():
                self.transport.write(REFUSAL % status)
            self.transport.close()

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._stall_timer is None:
                left = self.transport.get_write_buffer_size()
                self._stall_timer = self.loop.call_later(limits.stall_timeout_s, self._stalled, left)

        def resume_writing(self) -> None:
            if self._stall_timer is not None:
                self._stall_timer.cancel()
                self._stall_timer = None
            super().resume_writing()

        def _stalled(self, left: int) -> None:
            """The client goes unless it has taken something meanwhile."""
            now_left = self.transport.get_write_buffer_size()
            self._stall_timer = None
            if now_left >= left:
                self.transport.abort()
            elif now_left:
                self._stall_timer = self.loop.call_later(limits.stall_timeout_s, self._stalled, now_left)

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


def address(sock: socket.socket, *, tls: bool = False) -> str:
    """The URL at which a listening socket is reached from this machine."""
    host, port = sock.getsockname()[:2]
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    scheme = "https" if tls else "http"
    return f"{scheme}://[{shown}]:{port}" if ":" in shown else f"{scheme}://{shown}:{port}"
