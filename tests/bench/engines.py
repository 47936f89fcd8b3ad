"""Simulated engines on real sockets, and a client that shows every byte."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from bench.engine import SimulatedServer
from proxy.upstream import Client
from telemetry.cost import Linear, StepModel

# a step lasts 1 ms; the idle power is a round number
QUICK = StepModel("quick", Linear(0.001, 0.0, 0.0, 0.0), Linear(2.0, 0.01, 0.01, 0.0), idle_power_w=100.0)
# a step lasts 50 ms
SLOW = StepModel("slow", Linear(0.05, 0.0, 0.0, 0.0), Linear(2.0, 0.01, 0.01, 0.0), idle_power_w=100.0)


@dataclass(frozen=True)
class Told:
    """A response, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes
    chunks: list[bytes]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def data(self) -> list[bytes]:
        """What follows `data: ` in each event; every event ends in an empty line."""
        assert self.body.endswith(b"\n\n")
        events = self.body.removesuffix(b"\n\n").split(b"\n\n")
        assert all(event.startswith(b"data: ") and b"\n" not in event for event in events)
        return [event.removeprefix(b"data: ") for event in events]

    @property
    def events(self) -> list[Any]:
        return [json.loads(data) for data in self.data if data != b"[DONE]"]


@dataclass
class Caller:
    """A client of one engine."""

    server: SimulatedServer
    client: Client

    async def __call__(
        self, method: str, path: str, body: object = None, *, headers: dict[str, str] | None = None, raw: bytes | None = None
    ) -> Told:
        sent = raw if raw is not None else None if body is None else json.dumps(body).encode()
        told = {"content-type": "application/json", **(headers or {})} if sent is not None else headers or {}
        pairs = [(name.encode(), value.encode()) for name, value in told.items()]
        body = _pieces(sent) if sent is not None and len(sent) > 100_000 else sent
        answer = await self.client.open(method, self.server.url + path, pairs, body)
        try:
            chunks = [chunk async for chunk in answer.chunks()]
        finally:
            answer.release()
        fields = {name.decode().lower(): value.decode() for name, value in answer.headers}
        return Told(answer.status, fields, b"".join(chunks), chunks)

    async def get(self, path: str) -> Told:
        return await self("GET", path)

    async def post(self, path: str, body: object, **options: Any) -> Told:
        return await self("POST", path, body, **options)


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 65_536):
        yield body[start : start + 65_536]


@asynccontextmanager
async def engine(dialect: str, model: StepModel = QUICK, **options: Any) -> AsyncIterator[Caller]:
    async with SimulatedServer(dialect, model, **options) as server:
        client = Client()
        try:
            yield Caller(server, client)
        finally:
            await client.close()
