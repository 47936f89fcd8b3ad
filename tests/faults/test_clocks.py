"""Clocks that jump, stall and go back, and a loop that stands still: nobody is lost, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from policies.base import Waiting
from policies.room import Room
from policies.strategy import Choice, build
from proxy.scheduler import Refused, Scheduler
from tests.faults.stage import OK, answers, ask, read, request, stage
from tests.virtual_time import run

HOUR_S = 3600.0


@dataclass
class Clock:
    """The loop's, wrong by something."""

    wrong_s: float = 0.0
    stands_at: float | None = None

    def __call__(self) -> float:
        now = asyncio.get_running_loop().time() + self.wrong_s
        return now if self.stands_at is None else self.stands_at

    def jump(self, seconds: float) -> None:
        self.wrong_s += seconds

    def stand(self) -> None:
        self.stands_at = self()

    def go_on(self) -> None:
        self.stands_at = None


async def stand_for_20_s(clock: Clock) -> None:
    clock.stand()
    await asyncio.sleep(20)
    clock.go_on()


async def jump(clock: Clock, seconds: float) -> None:
    clock.jump(seconds)


async def tremble(clock: Clock) -> None:
    for n in range(200):
        clock.jump(0.0625 if n % 2 else -0.0625)
        await asyncio.sleep(1 / 64)


FAULTS: dict[str, Callable[[Clock], object]] = {
    "jumps an hour ahead": lambda clock: jump(clock, HOUR_S),
    "goes back by an eighth of a second": lambda clock: jump(clock, -0.125),
    "goes back by a minute": lambda clock: jump(clock, -60),
    "stands for 20 seconds": stand_for_20_s,
    "trembles": tremble,
}


@pytest.mark.parametrize("policy", ["span", "window", "size", "passthrough"])
@pytest.mark.parametrize("fault", FAULTS)
def test_nobody_is_lost_by_a_clock_that(fault: str, policy: str) -> None:
    """40 requests with up to 8 s of slack and 2 slots of half a second each: 10 s of work, and 60 s to give up."""
    ticks = 0

    def ticked(_: float) -> None:
        nonlocal ticks
        ticks += 1

    async def scene() -> None:
        clock, params = Clock(), {"every_s": 3.0} if policy == "window" else {}
        chosen = build(Choice(policy, params), Choice("spread", {}))
        room = Room(chosen.policy, chosen.placement, {"a": 2, "b": 2}, queue_timeout_s=60.0)
        scheduler = Scheduler(room, chosen, clock, on_tick=ticked)
        ended: list[str] = []

        async def client(n: int) -> None:
            await asyncio.sleep(n / 8)  # fractions that add up exactly, for in virtual time a rounding error lasts for ever
            now = clock()
            try:
                await scheduler.wait_turn(Waiting(f"r{n}", now, now + n % 9, 10, 4))
                await asyncio.sleep(0.5)
                ended.append("served")
            except Refused as refused:
                ended.append(refused.outcome.value)
            finally:
                scheduler.ended(f"r{n}")

        clients = [asyncio.create_task(client(n)) for n in range(40)]
        await asyncio.sleep(2.0625)
        await FAULTS[fault](clock)  # type: ignore[misc]
        async with asyncio.timeout(200):
            await asyncio.gather(*clients)
        assert len(ended) == 40
        assert set(ended) <= {"served", "expired"}
        if "back" in fault or fault == "trembles":
            assert set(ended) == {"served"}
        assert (room.held, room.ready, room.in_flight) == (0, 0, 0)
        assert scheduler.admitted == sum(scheduler.outcomes.values()) == 40

    run(scene())
    assert ticks < 5000  # a clock that stands is no reason to spin


@pytest.mark.parametrize("policy", ["Blocks", "Raises"])
async def test_nobody_is_lost_by_a_policy_that(policy: str) -> None:
    async with stage(answers(OK), slots=2, **{"policy.name": f"tests.faults.strange:{policy}"}) as on:
        try:
            asked = [ask(on.address, request("tgi", "x-paceline-max-hold: 1")) for _ in range(8)]
            assert [read(answer).status for answer in await asyncio.gather(*asked)] == [200] * 8
        finally:
            on.faults.clear()  # that a policy raised is told, and that is right
