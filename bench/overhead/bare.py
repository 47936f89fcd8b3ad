"""The yardstick: the least that an ASGI app on aiohttp does to forward a request, on the same server and client as Paceline.

It reads the body, asks the upstream, and relays status, headers and chunks as they come. It looks at nothing, schedules
nothing and notices no leaving client, so what Paceline costs beyond it is what Paceline does.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import aiohttp
import uvicorn
import uvloop

HOP_BY_HOP = frozenset({b"connection", b"host", b"keep-alive", b"transfer-encoding", b"te", b"upgrade"})


class Forwarder:
    """An ASGI app for every path."""

    def __init__(self, upstream: str, session: aiohttp.ClientSession) -> None:
        self._upstream, self._session = upstream, session

    async def __call__(self, scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in scope["headers"] if n not in HOP_BY_HOP]
        async with self._session.request(scope["method"], self._upstream + scope["path"], headers=headers, data=body) as answer:
            kept = [(n, v) for n, v in answer.raw_headers if n.lower() not in HOP_BY_HOP]
            await send({"type": "http.response.start", "status": answer.status, "headers": kept})
            async for chunk in answer.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def serve(upstream: str, port: int) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(), skip_auto_headers=("user-agent",)
    ) as session:
        config = uvicorn.Config(
            Forwarder(upstream, session),
            port=port,
            loop="none",
            http="httptools",
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
        )
        await uvicorn.Server(config).serve()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(sys.argv[1], int(sys.argv[2])))
