"""One page of another server, asked for again and again over a connection that is kept."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit

from telemetry.meter import MeterUnavailable

LARGEST = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What a page answered, and when it was asked and had answered."""

    status: int
    body: bytes
    asked_s: float
    answered_s: float

    @property
    def at_s(self) -> float:
        return (self.asked_s + self.answered_s) / 2


class Page:
    """HTTP or HTTPS, by the URL."""

    def __init__(
        self,
        url: str,
        *,
        key: str = "",
        ca_file: Path | None = None,
        timeout_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is asked yet.

        Args:
            url: of the page.
            key: shown as a bearer token; empty shows none.
            ca_file: certificates to trust instead of the system's.
            timeout_s: longest wait for the connection, and for each piece of the answer.
            clock: monotonic seconds.

        Raises:
            MeterUnavailable: the URL is none, or the certificates cannot be read.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise MeterUnavailable(f"{url!r} is no URL: {error}") from error
        if parts.scheme not in ("http", "https") or not host:
            raise MeterUnavailable(f"{url!r} is no URL of http or https")
        self.url, self._clock = url, clock
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        if parts.scheme == "http":
            self._connection = HTTPConnection(host, port or 80, timeout=timeout_s)
            return
        try:
            context = ssl.create_default_context(cafile=ca_file)
        except OSError as error:
            raise MeterUnavailable(f"{url}: the certificates in {ca_file} cannot be read: {error}") from error
        self._connection = HTTPSConnection(host, port or 443, timeout=timeout_s, context=context)

    def get(self, query: str = "") -> Answer:
        """Ask once; once more on a new connection where the kept one is closed.

        Args:
            query: added to the URL, as "?name=value".

        Raises:
            MeterUnavailable: no answer.
        """
        kept = self._connection.sock is not None
        try:
            return self._ask(query)
        except (OSError, HTTPException) as error:
            self.close()
            if not kept or isinstance(error, TimeoutError):
                raise self._unavailable(error) from error
        try:
            return self._ask(query)  # the server had closed a connection that was idle, or came back
        except (OSError, HTTPException) as error:
            self.close()
            raise self._unavailable(error) from error

    def close(self) -> None:
        self._connection.close()

    def _ask(self, query: str) -> Answer:
        if self._connection.sock is None:
            self._connection.connect()  # before the clock is read: it is no part of a round trip
        asked_s = self._clock()
        self._connection.request("GET", self._path + query, headers=self._headers)
        answer = self._connection.getresponse()
        body = answer.read(LARGEST + 1)
        answered_s = self._clock()
        if len(body) > LARGEST:
            raise HTTPException("the answer does not end")
        return Answer(answer.status, body, asked_s, answered_s)

    def _unavailable(self, error: Exception) -> MeterUnavailable:
        return MeterUnavailable(f"no answer from {self.url}: {type(error).__name__}: {error}")
