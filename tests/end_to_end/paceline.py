"""A whole Paceline in front of simulated engines, over real sockets, in the test's own loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from bench.engine import SimulatedServer
from proxy.admin import create_admin
from proxy.app import App, create_app
from proxy.sources import load
from tests.serving import served


@dataclass
class Running:
    """What a test may touch: the URLs that users use, and what stands behind them."""

    url: str
    admin_url: str
    app: App
    engines: list[SimulatedServer]
    admin: httpx.AsyncClient

    async def energy_of(self, id: str) -> dict[str, Any]:
        """The request as the admin API tells it once its energy is final."""
        for _ in range(200):
            answer = (await self.admin.get(f"/requests/{id}")).json()
            if answer["energy"] is not None and answer["energy"]["final"]:
                return dict(answer)
            await asyncio.sleep(0.02)
        raise AssertionError(f"never final: {answer}")


@asynccontextmanager
async def paceline(
    dialect: str = "tgi", *, engines: int = 1, speed: float = 1.0, environ: Mapping[str, str] | None = None, **flags: Any
) -> AsyncIterator[Running]:
    """`paceline serve` in front of `paceline engine`s."""
    async with AsyncExitStack() as stack:
        behind = [await stack.enter_async_context(SimulatedServer(dialect, speed=speed)) for _ in range(engines)]
        flags = {"energy.meter": "simulated", "upstreams": [engine.url for engine in behind], **flags}
        app = create_app(load(None, {}, flags), environ or {})
        await app.start()
        stack.push_async_callback(app.stop)
        admin_address = await stack.enter_async_context(served(create_admin(app)))
        address = await stack.enter_async_context(served(app.forward, app.config.limits))
        admin = await stack.enter_async_context(httpx.AsyncClient(base_url=f"http://{admin_address}", trust_env=False))
        yield Running(f"http://{address}", f"http://{admin_address}", app, behind, admin)
