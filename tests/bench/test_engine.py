"""The simulated engine's clock, energy, lag and connections, over real sockets."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bench.engine import SimulatedServer
from bench.engine.driver import Driver, Overloaded
from bench.engine.tally import Lag
from policies.engine import Engine, Job
from proxy.listen import CannotListen
from tests.bench.engines import QUICK, SLOW, Caller, engine

GENERATE = {"inputs": "one two three", "parameters": {"max_new_tokens": 5}}


class Wall:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.seconds = 50.0

    def __call__(self) -> float:
        return self.seconds


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


async def test_the_energy_counter_moves_ten_times_an_engine_second() -> None:
    wall = Wall()
    driver = Driver(QUICK, speed=10, clock=wall)
    seen = []
    for _ in range(8):
        wall.seconds += 0.0041  # 41 ms of the engine's time
        driver.catch_up()
        seen.append(driver.counter.energy_j)
    assert seen == pytest.approx([0, 0, 10, 10, 20, 20, 20, 30])  # at 41, 82, 123, 164, 205, ... ms
    assert driver.counter.power_w == pytest.approx(100)


async def test_the_counter_is_the_engines_energy_at_the_grids_instants() -> None:
    wall = Wall()
    driver, alone = Driver(SLOW, clock=wall), Engine(SLOW)
    driver.submit([3], 7)
    alone.submit(Job("alone", 3, 7), 0.0)
    for ms in (30, 110, 290, 310, 1234):
        wall.seconds = 50.0 + ms / 1000
        driver.catch_up()
        at = ms // 100 / 10
        alone.advance(at)
        assert driver.counter.energy_j == pytest.approx(alone.energy_j(at))
    driver.stop()


async def test_a_late_driver_catches_up_before_it_takes_anybody_in() -> None:
    wall = Wall()
    driver = Driver(SLOW, clock=wall)
    first = driver.submit([3], 2)
    wall.seconds += 10
    second = driver.submit([3], 2)
    assert first.ended_at == pytest.approx(0.1)
    assert second.arrived_at == pytest.approx(10)
    second.cancel()
    assert driver.in_flight == 0
    assert driver.tally.dropped == 1


async def test_no_more_sequences_than_allowed() -> None:
    driver = Driver(SLOW, max_concurrent=3)
    flight = driver.submit([1, 1], 5)
    with pytest.raises(Overloaded):
        driver.submit([1, 1], 5)
    driver.submit([1], 5).cancel()
    flight.cancel()
    driver.submit([1, 1, 1], 5).cancel()


def test_lag_is_judged_once_there_is_enough_of_it() -> None:
    assert not Lag(late_s=0.5, served_s=0.9).void
    assert Lag(late_s=0.06, served_s=1.0).void
    assert not Lag(late_s=0.04, served_s=1.0).void
    assert Lag().share == 0


async def test_a_late_wire_says_once_that_the_run_is_void(caplog: pytest.LogCaptureFixture) -> None:
    wall = Wall()
    driver = Driver(SLOW, clock=wall)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            flight = driver.submit([1], 40)
            wall.seconds += 2.5  # the tokens took 2 s
            driver.catch_up()
            flight.handed_over()
    driver.stop()
    assert driver.lag.share == pytest.approx(0.25)
    assert [record.message for record in caplog.records] == ["the wire is 25.0 % late, more than 5 %: this run is void"]


async def test_tokens_come_at_the_models_pace_each_as_an_event() -> None:
    async with engine("tgi", SLOW) as call:
        started, body = time.monotonic(), b'{"inputs":"a","parameters":{"max_new_tokens":6}}'
        answer = await call.client.open(
            "POST", call.server.url + "/generate_stream", [(b"content-type", b"application/json")], body
        )
        came = [(time.monotonic() - started, chunk) async for chunk in answer.chunks()]
        answer.release()
    assert [chunk.count(b"data: ") for _, chunk in came] == [1] * 6
    for place, (at, _) in enumerate(came, 1):
        assert 0.05 * place - 0.005 < at < 0.05 * place + 0.05


async def test_speed_is_a_multiple_of_real_time() -> None:
    async with engine("tgi", SLOW, speed=50) as call:
        started = time.monotonic()
        await call.post("/generate", {"inputs": "a", "parameters": {"max_new_tokens": 100}})
        assert 0.1 <= time.monotonic() - started < 0.5  # 5 s of the engine's time


async def test_requests_in_one_batch_end_together_and_cost_less() -> None:
    async with engine("tgi", SLOW) as call:
        answers = [call.post("/generate", GENERATE, headers={"x-request-id": f"r{n}"}) for n in range(8)]
        started = time.monotonic()
        await asyncio.gather(*answers)
        assert time.monotonic() - started < 0.6  # 5 or 6 steps; in turn it would be 40
        truth = (await call.get("/simulator/truth")).json["requests"]
        assert sorted(truth) == [f"r{n}" for n in range(8)]
        status = (await call.get("/simulator/status")).json
    assert sum(truth.values()) == pytest.approx(status["steps"] * 2 + 8 * 5 * 0.01 + 8 * 3 * 0.01)
    assert status["in_flight"] == 0
    assert status["energy_j"] > sum(truth.values())


@pytest.mark.parametrize("dialect", ["tgi", "openai"])
async def test_energy_over_http_has_the_power_seen_from_outside(dialect: str) -> None:
    async with engine(dialect, speed=20) as call:
        await asyncio.sleep(0.05)
        told = (await call.get("/simulator/energy")).json
    assert told["source"] == "simulated"
    assert told["energy_mj"] > 0
    assert told["energy_mj"] % 10_000 == 0  # whole intervals of 100 ms at 100 W
    assert told["power_w"] == pytest.approx(20 * 100)


LONG = {
    "/generate": {"inputs": "a", "parameters": {"max_new_tokens": 1000}},
    "/generate_stream": {"inputs": "a", "parameters": {"max_new_tokens": 1000}},
    "/v1/completions": {"prompt": ["a", "b"], "max_tokens": 1000, "stream": True},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1000},
}


@pytest.mark.parametrize("path", LONG)
async def test_a_client_that_leaves_takes_its_sequences_out_at_once(path: str) -> None:
    async with engine("tgi" if "generate" in path else "openai", SLOW) as call:
        request = asyncio.create_task(call.post(path, LONG[path]))
        await until(lambda: call.server.driver.engine.steps > 1)
        request.cancel()
        await until(lambda: call.server.driver.in_flight == 0)
        assert call.server.driver.engine.in_flight == 0
        assert call.server.driver.tally.dropped == 1
        assert (await call.get("/simulator/truth")).json == {"requests": {}}


async def test_a_client_may_leave_while_its_request_waits_for_a_seat() -> None:
    async with engine("openai", replace(SLOW, max_sequences=1)) as call:
        first = asyncio.create_task(call.post("/v1/completions", LONG["/v1/completions"] | {"prompt": "a"}))
        await until(lambda: call.server.driver.engine.steps > 0)
        queued = asyncio.create_task(call.post("/v1/completions", LONG["/v1/completions"] | {"prompt": "b"}))
        await until(lambda: call.server.driver.in_flight == 2)
        assert call.server.driver.engine.waiting == 1
        queued.cancel()
        await until(lambda: call.server.driver.in_flight == 1)
        assert call.server.driver.engine.waiting == 0
        first.cancel()


async def test_stopping_drops_whoever_is_there() -> None:
    async with engine("tgi", SLOW) as call:
        request = asyncio.create_task(call.post("/generate", LONG["/generate"]))
        await until(lambda: call.server.driver.in_flight == 1)
        await call.server.stop()
        with pytest.raises(Exception, match=r"(?i)disconnected"):
            await request
        assert call.server.driver.in_flight == 0


async def test_silence_is_filled_with_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.engine.flight.SILENCE_S", 0.02)
    async with engine("tgi", SLOW) as call:
        told = await call.post("/generate_stream", {"inputs": "a", "parameters": {"max_new_tokens": 2}})
    assert told.body.startswith(b":\n\n:\n\n")
    assert told.body.count(b"data: ") == 2


async def test_sixty_four_streams_are_carried_in_time() -> None:
    async def stream(call: Caller) -> int:
        return len((await call.post("/generate_stream", {"inputs": "a", "parameters": {"max_new_tokens": 200}})).events)

    model = replace(QUICK, step_s=replace(QUICK.step_s, base=0.005))
    async with engine("tgi", model) as call:
        assert await asyncio.gather(*(stream(call) for _ in range(64))) == [200] * 64
        status = (await call.get("/simulator/status")).json
    assert not status["void"]


async def test_an_address_that_is_taken_is_told() -> None:
    async with engine("tgi") as call:
        with pytest.raises(CannotListen, match="in use"):
            await SimulatedServer("tgi", port=int(call.server.url.rpartition(":")[2])).start()


def test_the_command_listens_and_says_how_late_it_was() -> None:
    root = Path(__file__).parent.parent.parent
    line = [sys.executable, "-m", "proxy.cli", "engine", "--dialect", "openai", "--speed", "5", "--port", "0"]
    with subprocess.Popen(line, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()
    assert re.fullmatch(r"engine ready on http://127\.0\.0\.1:\d+ \(openai, h200-llama8b, 5x\)\n", ready)
    assert rest == "engine stopped: the wire was 0.00% late\n"
    assert process.returncode == 0
