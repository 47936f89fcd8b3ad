"""What HTTP asks of a proxy: which headers go on, how a body is read, and how a leaving client is noticed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any

from proxy.upstream import Headers

Scope = dict[str, Any]
Receive = Callable[[], Any]
Send = Callable[[dict[str, Any]], Any]

# RFC 9110, 7.6.1, and `expect`, which this proxy answers itself by reading the body
HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te"}
    | {b"trailer", b"transfer-encoding", b"upgrade", b"expect"}
)


ENERGY = b"x-paceline-energy"
OURS = (b"x-paceline-request-id", ENERGY)  # headers of answers that no server's own may stand beside


class ClientGone(Exception):
    """The client closed its connection: there is nobody to answer."""


def url(server: str, scope: Scope) -> str:
    """The server's URL of a request's path and query, as encoded by the client."""
    path = scope["raw_path"].decode("latin-1")
    query = scope["query_string"].decode("latin-1")
    return f"{server}{path}?{query}" if query else f"{server}{path}"


def end_to_end(headers: Headers, *also: bytes) -> list[tuple[bytes, bytes]]:
    """Headers without those that concern one connection only (RFC 9110, 7.6.1), and without those named in `also`."""
    kept, connection = [], b""
    for name, value in headers:
        lower = name.lower()
        if lower not in HOP_BY_HOP and lower not in also:
            kept.append((name, value))
        elif lower == b"connection":
            connection += b"," + value
    if connection and connection.lower() not in (b",keep-alive", b",close"):
        named = {token.strip().lower() for token in connection.split(b",")}
        return [(name, value) for name, value in kept if name.lower() not in named]
    return kept


async def next_of_body(receive: Receive) -> tuple[bytes, bool]:
    """The next piece of a request's body, and whether there is more of it.

    Raises:
        ClientGone: the client left before its end.
    """
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    return message.get("body", b""), message.get("more_body", False)


class Presence:
    """Whether a request's client is still there. The server tells (`proxy/listen.py`), so that no task need wait for it.

    As a context it runs its block until the end or until the client leaves, whichever comes first: leaving cancels the
    block, and `ClientGone` is raised from it.
    """

    KEY = "paceline.presence"  # in a scope
    __slots__ = ("_task", "left")

    def __init__(self) -> None:
        self.left = False
        self._task: asyncio.Task[object] | None = None

    def leave(self) -> None:
        """The connection is gone."""
        self.left = True
        if self._task is not None:
            self._task.cancel()

    def __enter__(self) -> None:
        if self.left:
            raise ClientGone
        self._task = asyncio.current_task()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        task, self._task = self._task, None
        if kind is asyncio.CancelledError and self.left and task is not None and task.uncancel() == 0:
            raise ClientGone from None
