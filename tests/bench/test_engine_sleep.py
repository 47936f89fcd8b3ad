"""A simulated vLLM that sleeps: what it says, whom it refuses, and what it draws meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.bench.engines import QUICK, Caller, engine

# 100 W awake, 40 W asleep, and 5 J to wake
SLEEPER = replace(QUICK, sleep_power_w=40.0, sleep_s=0.02, wake_s=0.05, wake_j=5.0)
CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}


async def sleeps(call: Caller) -> object:
    return (await call.get("/is_sleeping")).json["is_sleeping"]


async def test_it_sleeps_refuses_and_wakes() -> None:
    async with engine("openai", SLEEPER) as call:
        assert await sleeps(call) is False
        assert (await call("POST", "/sleep?level=1&mode=wait")).status == 200
        assert await sleeps(call) is True
        refused = await call.post("/v1/chat/completions", CHAT)
        assert (refused.status, refused.json["error"]["type"]) == (503, "ServiceUnavailableError")
        assert (await call.get("/health")).status == 200
        assert b'sleep_state="weights_offloaded"} 1.0' in (await call.get("/metrics")).body
        assert (await call("POST", "/wake_up")).status == 200
        assert await sleeps(call) is False
        assert (await call.post("/v1/chat/completions", CHAT)).status == 200


async def test_it_draws_less_asleep_and_pays_for_waking() -> None:
    async with engine("openai", SLEEPER) as call:
        driver = call.server.driver
        await call("POST", "/sleep?level=1&mode=wait")
        since = driver.catch_up()
        before_j = driver.engine.energy_j(since)
        await asyncio.sleep(0.1)
        until = driver.catch_up()
        asleep_j = driver.engine.energy_j(until)
        assert asleep_j - before_j == pytest.approx(40.0 * (until - since))
        await call("POST", "/wake_up")
        awake_at = driver.catch_up()
        woken_j = driver.engine.energy_j(awake_at) - asleep_j
        # idle power for all of the waking, and its own joules on top
        assert 5.0 + 0.05 * 100.0 <= woken_j + 1e-6 <= 5.0 + 100.0 * (awake_at - until) + 1e-6


async def test_wait_lets_who_is_there_end_and_the_default_does_not() -> None:
    async with engine("openai", SLEEPER) as call:
        long = {**CHAT, "max_tokens": 100}
        asked = asyncio.create_task(call.post("/v1/chat/completions", long))
        while not call.server.driver.in_flight:
            await asyncio.sleep(0.001)
        await call("POST", "/sleep?mode=wait")
        assert (await asked).json["usage"]["completion_tokens"] == 100
        await call("POST", "/wake_up")
        asked = asyncio.create_task(call.post("/v1/chat/completions", {**CHAT, "max_tokens": 10_000}))
        while not call.server.driver.in_flight:
            await asyncio.sleep(0.001)
        await call("POST", "/sleep")
        with pytest.raises(Exception):  # noqa: B017  # however the client sees that it was cut
            assert (await asked).status == 200
        assert call.server.driver.tally.dropped == 1


async def test_level_0_only_closes() -> None:
    async with engine("openai", SLEEPER) as call:
        await call("POST", "/sleep?level=0")
        assert (await call.post("/v1/chat/completions", CHAT)).status == 503
        driver = call.server.driver
        since = driver.catch_up()
        before_j = driver.engine.energy_j(since)
        await asyncio.sleep(0.02)
        until = driver.catch_up()
        assert driver.engine.energy_j(until) - before_j == pytest.approx(100.0 * (until - since))


@pytest.mark.parametrize("query", ["level=3", "mode=later", "mode=keep"])
async def test_nonsense_is_refused(query: str) -> None:
    async with engine("openai", SLEEPER) as call:
        assert (await call("POST", f"/sleep?{query}")).status == 400
        assert await sleeps(call) is False


async def test_one_whose_profile_tells_no_sleep_has_no_such_routes() -> None:
    async with engine("openai") as call:
        assert (await call("POST", "/sleep?level=1")).status == 404
        assert (await call.get("/is_sleeping")).status == 404
        assert b"sleep_state" not in (await call.get("/metrics")).body
