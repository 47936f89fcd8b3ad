"""The only importer of the HTTP client: opens exchanges with servers and hands their bytes over as they come.

UpstreamError             the server's fault, never the client's; `status` is what to answer with
+-- Unreachable (502)     no connection, so the request was surely not begun
+-- NoAnswer (504)        connected, but no response in time
+-- Broken (502)          the connection died or spoke no HTTP

A kept connection that its server closed at the moment at which we used it is nobody's fault: if not one octet of an answer
has come, the request is sent again on another one.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
import time
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextvars import ContextVar
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

Headers = Sequence[tuple[bytes, bytes]]

LARGE_BODY = 1 << 20
FOUND_DEAD_WITHIN_S = 1.0  # after a request on a kept connection; it takes a round trip
# a server that vanished without a word is noticed after a minute, however long its answers may take
KEEP_ALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000}
# what a client library would add by itself; a proxy adds nothing
_NOTHING_AUTOMATIC = frozenset({"User-Agent", "Accept", "Accept-Encoding", "Content-Type"})
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # no header may have one (RFC 9110, 5.5)


class UpstreamError(Exception):
    """See the module's docstring; the message names the server and the cause."""

    status = 502


class Unreachable(UpstreamError):
    """No connection could be made: another server may be tried."""


class NoAnswer(UpstreamError):
    """The server took the request and gave no response in time."""

    status = 504


class Broken(UpstreamError):
    """The connection died, or what came was no HTTP."""


def _as_upstream_error(url: str, error: Exception) -> UpstreamError:
    """The client library's error, told as ours, at this one boundary.

    Without its words: they repeat the query, and octets of the answer, which are nobody's but the client's.
    """
    if isinstance(error, aiohttp.ClientConnectorError):
        return Unreachable(f"{url}: {getattr(error, 'os_error', None) or getattr(error, 'certificate_error', '')}")
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return Unreachable(f"{url}: no connection in time")
    if isinstance(error, aiohttp.InvalidURL):
        return Unreachable(f"{url}: this path cannot be asked for")
    if isinstance(error, TimeoutError):
        return NoAnswer(f"{url}: no answer in time")
    number = getattr(error, "errno", None)
    return Broken(f"{url}: {type(error).__name__}" + (f": {os.strerror(number)}" if number else ""))


_ERRORS = (aiohttp.ClientError, OSError)  # a TimeoutError is one of the latter


class _Connection(ResponseHandler):
    """One connection. What the library leaves open is closed here: a server can neither hang us nor answer unasked."""

    used = 0  # by so many requests
    idle = False
    heard = False  # something of an answer to the latest of them has come
    asked_at = 0.0

    def data_received(self, data: bytes) -> None:
        self.heard |= bool(data)  # the library itself calls with nothing, to go on reading
        if self.idle and data:
            self.close()  # nobody has asked, and it must not be taken for the answer to whoever asks next
        else:
            super().data_received(data)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        super().set_exception(exc, *cause)
        if isinstance(exc, HttpProcessingError):  # in a body, else its reader waits for ever
            self._break_off(exc)

    def connection_lost(self, exc: BaseException | None) -> None:
        if exc is not None:  # else a body without a length is taken for whole
            self._break_off(exc)
        super().connection_lost(exc)

    def _break_off(self, exc: BaseException) -> None:
        if self._payload is not None and not self._payload.is_eof() and self._payload.exception() is None:
            self._payload.set_exception(aiohttp.ClientPayloadError(f"{type(exc).__name__}: {exc}"))


_latest: ContextVar[_Connection | None] = ContextVar("latest", default=None)  # this task's latest connection


_fresh: ContextVar[bool] = ContextVar("fresh", default=False)  # whether this task wants a connection that is new


class _Watching(aiohttp.BaseConnector if TYPE_CHECKING else object):  # type: ignore[misc]
    """A connector that knows what its connections are used for. Mixed into the library's two."""

    silence_s: float | None = None  # longest of a server

    async def connect(self, *args: Any, **kwargs: Any) -> aiohttp.connector.Connection:
        connection: aiohttp.connector.Connection = await super().connect(*args, **kwargs)
        protocol = connection.protocol
        assert isinstance(protocol, _Connection)
        protocol.used, protocol.idle, protocol.heard = protocol.used + 1, False, False
        protocol.asked_at = time.monotonic()
        protocol.read_timeout = self.silence_s
        protocol.start_timeout()  # from now on, for a server may not even take the request
        _latest.set(protocol)
        return connection

    async def _get(self, key: Any, traces: Any) -> aiohttp.connector.Connection | None:
        return None if _fresh.get() else await super()._get(key, traces)

    def _release(self, key: Any, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        assert isinstance(protocol, _Connection)
        protocol.idle = True
        super()._release(key, protocol, should_close=should_close)


class _Tcp(_Watching, aiohttp.TCPConnector):
    """Connections over TCP."""


class _Unix(_Watching, aiohttp.UnixConnector):
    """Connections through a socket in the file system."""


def _socket(address: Any) -> socket.socket:
    """A socket that notices a vanished peer."""
    made = socket.socket(address[0], address[1], address[2])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEP_ALIVE.items():
        if hasattr(socket, name):  # not everywhere
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


def trust(ca_file: str | None, *, verify: bool) -> ssl.SSLContext:
    """Which certificates are taken: the system's, a file's, or any.

    Raises:
        OSError: the file cannot be read, or holds no certificates (ssl.SSLError).
    """
    context = ssl.create_default_context(cafile=ca_file)
    if not verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class Answer:
    """A response whose head has come: status, reason, raw headers, and its body in the chunks in which it comes."""

    def __init__(self, url: str, response: aiohttp.ClientResponse) -> None:
        self._url = url
        self._response = response
        self.status = response.status
        self.reason = response.reason or ""
        self.headers: Headers = response.raw_headers

    async def next(self) -> bytes:
        """Body octets as they arrive, content encodings untouched; none at the end.

        Raises:
            Broken: the body ended before it was complete.
        """
        try:
            return await self._response.content.readany()
        except _ERRORS as error:
            raise _as_upstream_error(self._url, error) from error

    async def chunks(self) -> AsyncIterator[bytes]:
        """All that `next` gives."""
        while chunk := await self.next():
            yield chunk

    async def read(self) -> bytes:
        return b"".join([chunk async for chunk in self.chunks()])

    def release(self) -> None:
        """Done with it: an unfinished body closes the connection, which is how engines learn of a leaving client."""
        self._response.close() if not self._response.content.at_eof() else self._response.release()


class Client:
    """Connections to servers. It queues nothing: how many run at once is the scheduler's business."""

    def __init__(
        self,
        *,
        connect_timeout_s: float = 5.0,
        answer_timeout_s: float | None = None,
        keep_alive_s: float = 4.0,
        window_bytes: int = 1 << 16,
        certificates: ssl.SSLContext | bool = True,
        socket_path: str | None = None,
        http_proxy: str | None = None,
    ) -> None:
        """Make a client, inside a running event loop.

        Args:
            connect_timeout_s: longest wait for a connection.
            answer_timeout_s: longest silence of the server, before the head or between chunks; None is no limit.
            keep_alive_s: idle connections are closed after this; shorter than the servers' (uvicorn's is 5 s), so that
                a request seldom meets a connection that its server is closing.
            window_bytes: octets of one answer that are read ahead of whoever takes them; twice as many at most.
            certificates: which to trust; see `trust`.
            socket_path: a UNIX socket to use, whatever a URL's host is.
            http_proxy: URL of an HTTP proxy on the way.
        """
        self._http_proxy = http_proxy
        connector = (
            _Unix(socket_path, limit=0, keepalive_timeout=keep_alive_s)
            if socket_path is not None
            else _Tcp(limit=0, keepalive_timeout=keep_alive_s, ttl_dns_cache=10, ssl=certificates, socket_factory=_socket)
        )
        connector.silence_s = answer_timeout_s
        connector._factory = partial(_Connection, loop=asyncio.get_running_loop())  # type: ignore[assignment]  # noqa: SLF001
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s, sock_read=answer_timeout_s),
            auto_decompress=False,
            skip_auto_headers=_NOTHING_AUTOMATIC,
            trust_env=False,
            raise_for_status=False,
            read_bufsize=window_bytes,
            max_line_size=1 << 16,
            max_field_size=1 << 16,
        )
        self._session._retry_connection = False  # noqa: SLF001  # whether to is decided here

    async def open(self, method: str, url: str, headers: Headers, body: bytes | AsyncIterable[bytes] | None = None) -> Answer:
        """Send a request and wait for the head of its answer.

        Args:
            method: as it came.
            url: absolute, percent-encoded as it came.
            headers: end-to-end headers in latin-1, in order; `host` is the server's own.
            body: None sends none.

        Raises:
            UpstreamError: see the module's docstring. Cancellation closes the connection.
        """
        text = [(name.decode("latin-1"), _text(value)) for name, value in headers]
        shown = url.partition("?")[0]  # a query may hold a secret
        _fresh.set(False)
        try:
            return _sound(shown, await self._request(method, url, text, body))
        except _ERRORS as error:
            if not _stale(_latest.get(), error) or not isinstance(body, bytes | None):
                raise _as_upstream_error(shown, error) from error
        _fresh.set(True)  # who closed one kept connection may have closed them all
        try:
            return _sound(shown, await self._request(method, url, text, body))
        except _ERRORS as error:
            raise _as_upstream_error(shown, error) from error

    async def _request(
        self, method: str, url: str, headers: list[tuple[str, str]], body: bytes | AsyncIterable[bytes] | None
    ) -> aiohttp.ClientResponse:
        # the library warns of large byte strings, and takes the same bytes as a file without a copy
        data = BytesIO(body) if isinstance(body, bytes) and len(body) > LARGE_BODY else body
        _latest.set(None)
        return await self._session.request(
            method, URL(url, encoded=True), headers=headers, data=data, allow_redirects=False, proxy=self._http_proxy
        )

    @property
    def connections(self) -> int:
        """Sockets that are open, in use or kept."""
        connector = self._session.connector
        return 0 if connector is None else len(connector._acquired) + sum(map(len, connector._conns.values()))  # noqa: SLF001

    async def close(self) -> None:
        await self._session.close()
        await asyncio.sleep(0)  # let transports finish closing before the loop does


def _stale(connection: _Connection | None, error: Exception) -> bool:
    """Whether it was a kept one, and was found dead: later, without a word, the server may have died of this request."""
    died = isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | ConnectionError)
    if not died or connection is None or connection.used < 2 or connection.heard:
        return False
    return time.monotonic() - connection.asked_at < FOUND_DEAD_WITHIN_S


def _sound(url: str, response: aiohttp.ClientResponse) -> Answer:
    """An answer that may be passed on.

    Raises:
        Broken: it may not: a status that is none, a switch of protocols that nobody asked for, an injected header.
    """
    if 200 <= response.status < 600 and not any(_CONTROL.search(value) for _, value in response.raw_headers):
        return Answer(url, response)
    response.close()
    raise Broken(f"{url}: status {response.status} or its headers are no HTTP")


def _text(value: bytes) -> str:
    """A header's value as the library will write it: UTF-8 stays as it was; other octets are taken for Latin-1."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
