"""The only importer of the HTTP client: opens exchanges with servers and hands their bytes over as they come.

UpstreamError             the server's fault, never the client's; `status` is what to answer with
+-- Unreachable (502)     no connection, so the request was surely not begun
+-- NoAnswer (504)        connected, but no response in time
+-- Broken (502)          the connection died or spoke no HTTP
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

if TYPE_CHECKING:
    from collections.abc import Iterator

Headers = Sequence[tuple[bytes, bytes]]

# What a client library would add by itself; a proxy adds nothing.
LARGE_BODY = 1 << 20
_NOTHING_AUTOMATIC = frozenset({"User-Agent", "Accept", "Accept-Encoding", "Content-Type"})


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


@contextmanager
def _as_upstream_errors(url: str) -> Iterator[None]:
    """The client library's errors, told as ours, at this one boundary."""
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
        raise Unreachable(f"{url}: {getattr(error, 'os_error', error)}") from error
    except TimeoutError as error:
        raise NoAnswer(f"{url}: no answer in time") from error
    except (aiohttp.ClientError, OSError) as error:
        raise Broken(f"{url}: {type(error).__name__}: {error}") from error


class Answer:
    """A response whose head has come: status, reason, raw headers, and its body in the chunks in which it comes."""

    def __init__(self, url: str, response: aiohttp.ClientResponse) -> None:
        self._url = url
        self._response = response
        self.status = response.status
        self.reason = response.reason or ""
        self.headers: Headers = response.raw_headers

    async def chunks(self) -> AsyncIterator[bytes]:
        """Body octets as they arrive, content encodings untouched.

        Raises:
            Broken: the body ended before it was complete.
        """
        content = self._response.content
        with _as_upstream_errors(self._url):
            while chunk := await content.readany():
                yield chunk

    async def read(self) -> bytes:
        return b"".join([chunk async for chunk in self.chunks()])

    def release(self) -> None:
        """Done with it: an unfinished body closes the connection, which is how engines learn of a leaving client."""
        self._response.close() if not self._response.content.at_eof() else self._response.release()


class Client:
    """Connections to all servers. It queues nothing: how many run at once is the scheduler's business."""

    def __init__(
        self, *, connect_timeout_s: float = 5.0, answer_timeout_s: float | None = None, keep_alive_s: float = 4.0
    ) -> None:
        """Make a client, inside a running event loop.

        Args:
            connect_timeout_s: longest wait for a connection.
            answer_timeout_s: longest silence of the server, before the head or between chunks; None is no limit.
            keep_alive_s: idle connections are closed after this; shorter than the servers' (uvicorn's is 5 s), so that
                a request does not meet a connection that its server is closing.
        """
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=keep_alive_s, ttl_dns_cache=10),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s, sock_read=answer_timeout_s),
            auto_decompress=False,
            skip_auto_headers=_NOTHING_AUTOMATIC,
            trust_env=False,
            raise_for_status=False,
            max_line_size=1 << 16,
            max_field_size=1 << 16,
        )

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
        text = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        # the library warns of large byte strings, and takes the same bytes as a file without a copy
        data = BytesIO(body) if isinstance(body, bytes) and len(body) > LARGE_BODY else body
        with _as_upstream_errors(url):
            response = await self._session.request(
                method, URL(url, encoded=True), headers=text, data=data, allow_redirects=False
            )
        return Answer(url, response)

    async def close(self) -> None:
        await self._session.close()
        await asyncio.sleep(0)  # let transports finish closing before the loop does
