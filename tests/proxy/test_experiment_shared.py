"""Experiments of two proxies that share a real Redis: which of two goes on, and what each judges without the other."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.paceline import Running, paceline
from tests.end_to_end.test_experiment import NO_GUARDRAILS, experiment, load, log_of, until
from tests.proxy.test_shared import Server


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@asynccontextmanager
async def two(redis: Server, **flags: Any) -> AsyncIterator[tuple[Running, Running]]:
    """Proxies `a` and `b` in front of one engine, each of which has heard of the other."""
    prefix = secrets.token_hex(4)
    shared = {"shared.url": redis.url, "shared.prefix": prefix, "shared.every_s": 0.2, "shared.timeout_s": 0.5}
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(paceline(**shared, **flags, **{"shared.replica": "a"}))
        urls = [engine.url for engine in a.engines]
        b = await stack.enter_async_context(
            paceline(engines=0, **shared, **flags, **{"shared.replica": "b", "upstreams": urls})
        )
        async with asyncio.timeout(10):
            while any(len(one.app.experiments.shared.describe()["replicas"]) < 2 for one in (a, b)):  # type: ignore[union-attr]
                await asyncio.sleep(0.05)
        yield a, b


async def state(one: Running, name: str) -> str | None:
    answer = await one.admin.get(f"/experiments/{name}")
    return answer.json()["state"] if answer.status_code == 200 else None


async def test_of_two_that_begin_at_once_the_first_goes_on_everywhere_and_the_other_says_why(redis: Server) -> None:
    async with two(redis) as (a, b):
        answers = await asyncio.gather(
            a.admin.post("/experiments", json=experiment("one", pairs=9)),
            b.admin.post("/experiments", json=experiment("two", pairs=9)),
        )
        assert {answer.status_code for answer in answers} <= {201, 409}
        begun = [answer.json() for answer in answers if answer.status_code == 201]
        first = min(begun, key=lambda told: (told["created_unix_s"], told["name"]))["name"]
        late = "two" if first == "one" else "one"
        if len(begun) == 2:  # neither had heard of the other
            async with asyncio.timeout(10):
                while [await state(proxy, name) for proxy in (a, b) for name in (first, late)] != ["running", "stopped"] * 2:
                    await asyncio.sleep(0.05)
            whys = [(await proxy.admin.get(f"/experiments/{late}")).json()["why"] for proxy in (a, b)]
            assert all(f"gave way to experiment {first}" in why for why in whys)
        for proxy in (a, b):
            assert [one for one in ("one", "two") if await state(proxy, one) == "running"] == [first]
            design = proxy.app.experiments.running[first].plan.design
            policy = proxy.app.fleet.default.scheduler.strategy.policy
            assert policy.design == design  # type: ignore[attr-defined]
        second = await b.admin.post("/experiments", json=experiment("three"))
    assert second.status_code == 409


async def test_of_two_that_begin_while_redis_is_away_the_later_gives_way_once_it_is_back(tmp_path: Path) -> None:
    own = Server(tmp_path)
    own.start()
    try:
        async with two(own) as (a, b):
            own.kill()
            for one, name in ((b, "early"), (a, "tardy")):
                assert (await one.admin.post("/experiments", json=experiment(name, pairs=99))).status_code == 201
            assert [await state(b, "early"), await state(a, "tardy")] == ["running", "running"], "neither can know"
            own.start()
            async with asyncio.timeout(20):
                while [await state(one, name) for one in (a, b) for name in ("early", "tardy")] != ["running", "stopped"] * 2:
                    await asyncio.sleep(0.05)
            for one in (a, b):
                told = (await one.admin.get("/experiments/tardy")).json()
                assert "gave way to experiment early, which was begun earlier, through another proxy" in told["why"]
            events = [line["event"] for line in await log_of(a.admin, "tardy")]
            assert (events[0], events[-1]) == ("started", "stopped")
            assert {"replica_joined"} <= {line["event"] for line in await log_of(a.admin, "early")}
    finally:
        own.kill()


async def test_while_redis_is_away_each_judges_what_its_own_blocks_break(tmp_path: Path) -> None:
    own = Server(tmp_path)
    own.start()
    try:
        async with two(own, **{"policy.name": "passthrough"}) as (a, b), load(a.url):
            asked = experiment("alone", pairs=9, block_s=1.2, burn_in_s=0.2, guardrails={**NO_GUARDRAILS, "wait_p99_s": 0.02})
            assert (await a.admin.post("/experiments", json=asked)).status_code == 201
            async with asyncio.timeout(10):
                while await state(b, "alone") is None:
                    await asyncio.sleep(0.05)
            own.kill()
            told = await until(a.admin, "alone", "tripped")
            assert not any(block["complete"] for block in told["blocks"]), "b has told nothing, and may have"
            assert "wait_p99_s" in told["why"]
            assert a.app.fleet.default.scheduler.strategy.policy_name == "passthrough"
            assert await state(b, "alone") == "running", "it had no request that waited"
    finally:
        own.kill()
