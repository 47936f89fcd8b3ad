"""What HTTP asks of a proxy: which headers go on, how a body is read, and how a leaving client is noticed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
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


class ClientGone(Exception):
    """The client closed its connection: there is nobody to answer."""


def url(server: str, scope: Scope) -> str:
    """The server's URL of a request's path and query, as encoded by the client."""
    path = scope["raw_path"].decode("latin-1")
    query = scope["query_string"].decode("latin-1")
    return f"{server}{path}?{query}" if query else f"{server}{path}"


def end_to_end(headers: Headers, *also: bytes) -> list[tuple[bytes, bytes]]:
    """Headers without those that concern one connection only (RFC 9110, 7.6.1), and without those named in `also`."""
    named = {token.strip().lower() for name, value in headers if name.lower() == b"connection" for token in value.split(b",")}
    drop = HOP_BY_HOP | named | set(also)
    return [(name, value) for name, value in headers if name.lower() not in drop]


class BodyTooSlow(Exception):
    """The client sends no more of its body, and has not sent all of it."""


async def body_of(receive: Receive, silence_s: float | None = None) -> AsyncIterator[bytes]:
    """The request's body.

    Raises:
        ClientGone: the client left before its end.
        BodyTooSlow: nothing came for `silence_s`.
    """
    while True:
        try:
            async with asyncio.timeout(silence_s):
                message = await receive()
        except TimeoutError:
            raise BodyTooSlow from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


@asynccontextmanager
async def until_gone(receive: Receive) -> AsyncIterator[None]:
    """Run the block until its end or until the client leaves, whichever comes first; leaving cancels the block.

    Raises:
        ClientGone: the client left.
    """
    task = asyncio.current_task()
    assert task is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    watcher = asyncio.create_task(watch(), name="paceline-client-watch")
    try:
        yield
    except asyncio.CancelledError:
        if gone and task.uncancel() == 0:
            raise ClientGone from None
        raise
    finally:
        watcher.cancel()
