"""What a server is found to be, by what it answers."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from proxy.dialects import OPENAI, TGI
from proxy.probe import Found, ask
from tests.serving import Seen, upstream

INFO = b'{"model_id":"m","router":"text-generation-router","version":"3.3.6","max_concurrent_requests":128}'


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (b"200 OK", INFO, Found(TGI, 128, "m", "3.3.6")),
        (b"200 OK", b'{"router":"text-generation-router"}', Found(TGI)),
        (b"200 OK", b"<html>", Found(OPENAI)),
        (b"200 OK", b"[]", Found(OPENAI)),
        (b"404 Not Found", b"", Found(OPENAI)),
        (b"401 Unauthorized", b"", Found(OPENAI)),
        (b"503 Service Unavailable", b"loading", None),
        (b"429 Too Many Requests", b"", None),
    ],
)
async def test_what_is_found(status: bytes, body: bytes, expected: Found | None) -> None:
    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> None:
        assert seen.head.startswith(b"GET /info ")
        writer.write(b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n" % (status, len(body)) + body)

    async with upstream(answer) as server, httpx.AsyncClient(trust_env=False) as client:
        assert await ask(client, f"http://{server.address}") == expected


async def test_nobody_is_found_where_nobody_answers() -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        assert await ask(client, "http://127.0.0.1:9") is None
