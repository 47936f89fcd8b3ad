"""Two simulated vLLMs that can sleep, behind a whole Paceline that lets them: what it saves, and that nobody pays for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from bench.engine import SimulatedServer
from proxy.admin import create_admin
from proxy.app import create_app
from proxy.config import Named
from proxy.reload import reload
from proxy.sources import load
from telemetry.cost import Linear, StepModel
from tests.end_to_end.paceline import Running
from tests.serving import served

# a step takes 5 ms; 100 W awake, 20 W asleep, 3 J and 0.1 s to wake
MODEL = StepModel(
    "sleeper",
    Linear(0.005, 0.0, 0.0, 0.0),
    Linear(2.0, 0.02, 0.01, 0.0),
    idle_power_w=100.0,
    sleep_power_w=20.0,
    sleep_s=0.05,
    wake_s=0.1,
    wake_j=3.0,
)
SLEEPY = {
    "placement.name": "sleepy",
    "placement.params": {"after_s": 0.3, "placement": {"name": "pack", "params": {"knee": 2}}},
}
PACK = {"placement.name": "pack", "placement.params": {"knee": 2}}


@asynccontextmanager
async def paceline(model: StepModel = MODEL, **flags: Any) -> AsyncIterator[Running]:
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(SimulatedServer("openai", model)) for _ in range(2)]
        urls = [engine.url for engine in engines]
        domains = [{"devices": [url], "upstreams": [url]} for url in urls]
        flags = {"energy.meter": "simulated", "upstreams": urls, "energy.domains": domains, "health.every_s": 0.2, **flags}
        app = create_app(load(None, {}, flags), {})
        await app.start()
        stack.push_async_callback(app.stop)
        admin_url = "http://" + await stack.enter_async_context(served(create_admin(app)))
        url = "http://" + await stack.enter_async_context(served(app.forward, app.config.limits))
        admin = await stack.enter_async_context(httpx.AsyncClient(base_url=admin_url, trust_env=False))
        yield Running(url, admin_url, app, engines, admin)


async def ask(on: Running, n: int, tokens: int = 20) -> list[float]:
    """So many at once; the seconds that each took, once all were answered well."""
    chat = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": tokens}
    async with httpx.AsyncClient(base_url=on.url, trust_env=False, timeout=20) as client:
        answers = await asyncio.gather(*(client.post("/v1/chat/completions", json=chat) for _ in range(n)))
    assert [answer.status_code for answer in answers] == [200] * n
    assert all(answer.json()["usage"]["completion_tokens"] == tokens for answer in answers)
    return [answer.elapsed.total_seconds() for answer in answers]


async def states(on: Running) -> list[str]:
    return [server["state"] for server in (await on.admin.get("/status")).json()["servers"]]


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not await true():
            await asyncio.sleep(0.02)


async def a_day(on: Running) -> float:
    """Rush hour, a quiet time, rush hour, a quiet time; the mean watts of both engines."""
    began = [engine.driver.catch_up() for engine in on.engines]
    before_j = [engine.driver.engine.energy_j(at) for engine, at in zip(on.engines, began, strict=True)]
    for _ in range(2):
        await ask(on, 4)
        await asyncio.sleep(0.9)
    ended = [engine.driver.catch_up() for engine in on.engines]
    after_j = [engine.driver.engine.energy_j(at) for engine, at in zip(on.engines, ended, strict=True)]
    return (sum(after_j) - sum(before_j)) / (ended[0] - began[0])


async def test_a_server_sleeps_when_it_is_idle_and_load_wakes_it() -> None:
    async with paceline(**SLEEPY) as on:
        await ask(on, 4)
        await until(lambda: _is(on, ["awake", "asleep"]))
        await ask(on, 1)  # the other does
        assert await states(on) == ["awake", "asleep"]
        metrics = (await on.admin.get("/metrics")).text
        asleep = [line for line in metrics.splitlines() if "paceline_server_state" in line and '"asleep"' in line]
        assert sorted(line.rpartition(" ")[2] for line in asleep) == ["0.0", "1.0"]
        rush = asyncio.create_task(ask(on, 6, tokens=200))
        await until(lambda: _is(on, ["awake", "awake"]))
        served_before = on.engines[1].driver.tally.requests
        await ask(on, 2)
        assert on.engines[1].driver.tally.requests == served_before + 2
        await rush


async def _is(on: Running, wanted: list[str]) -> bool:
    return await states(on) == wanted


async def test_sleep_saves_joules_and_costs_nobody_an_answer() -> None:
    async with paceline(**PACK) as on:
        plain_w = await a_day(on)
    async with paceline(**SLEEPY) as on:
        sleepy_w = await a_day(on)
        # all of the counters is somebody's, to the microjoule
        energy = (await on.admin.get("/status")).json()["energy"]
        assert energy["conservation_error_uj"] == 0
    # one of two saves 80 W of 200 for most of the quiet times
    assert sleepy_w < 0.9 * plain_w


async def test_when_all_sleep_the_first_who_comes_waits_for_one_to_wake() -> None:
    params = {**SLEEPY["placement.params"], "awake": 0}  # type: ignore[dict-item]
    async with paceline(**{**SLEEPY, "placement.params": params}) as on:
        await ask(on, 4)
        await until(lambda: _is(on, ["asleep", "asleep"]))
        # what is not scheduled passes; a sleeping vLLM answers it
        async with httpx.AsyncClient(base_url=on.url, trust_env=False) as client:
            assert (await client.get("/v1/models")).status_code == 200
        assert await states(on) == ["asleep", "asleep"]
        (took_s,) = await ask(on, 1)
        assert took_s >= MODEL.wake_s
        assert sorted(await states(on)) == ["asleep", "awake"]


@pytest.mark.parametrize("by", ["admin port", "reload"])
async def test_another_placement_wakes_all(by: str) -> None:
    async with paceline(**SLEEPY) as on:
        await ask(on, 4)
        await until(lambda: _is(on, ["awake", "asleep"]))
        if by == "reload":
            reload(on.app, on.app.config.model_copy(update={"placement": Named(name="spread")}))
        else:
            answer = await on.admin.put("/policy", json={"placement": {"name": "spread"}})
            assert answer.status_code == 200
        await until(lambda: _is(on, ["awake", "awake"]))
        await ask(on, 4)


async def test_whoever_sleeps_before_we_come_is_woken_by_load_only() -> None:
    async with paceline(**SLEEPY) as on:
        asleep = on.engines[1].url
        async with httpx.AsyncClient(trust_env=False) as client:
            await client.post(f"{asleep}/sleep?level=1&mode=wait")
        await until(lambda: _is(on, ["awake", "asleep"]))  # seen by a check
        await ask(on, 1)
        assert await states(on) == ["awake", "asleep"]
        await ask(on, 4)
        await until(lambda: _is(on, ["awake", "awake"]))


async def test_engines_that_cannot_sleep_stay_awake(caplog: pytest.LogCaptureFixture) -> None:
    async with paceline(replace(MODEL, sleep_power_w=None), **SLEEPY) as on:
        await ask(on, 4)
        await until(lambda: _said(caplog, "does not sleep: /sleep?level=1&mode=wait answers 404"))
        await ask(on, 4)
        assert await states(on) == ["awake", "awake"]


async def _said(caplog: pytest.LogCaptureFixture, text: str) -> bool:
    return text in caplog.text
