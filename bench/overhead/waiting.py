"""10,000 waiting requests in one process: how long a decision for all of them takes that lets nobody go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.overhead.environments import Tell
from policies.base import Tier, Waiting
from policies.room import Leaving, Room
from policies.strategy import POLICIES, Choice, build
from proxy.scheduler import Scheduler
from telemetry.snapshot import UNKNOWN

TICKS = 500
HOLD_S = 1e6
# with these, policies hold; one that is not named is asked with its defaults, and what it let go waits for a slot
PARAMS: Mapping[str, Mapping[str, object]] = {
    "pace": {"every_s": HOLD_S},
    "size": {"n": 10**9, "wait_s": HOLD_S},
    "window": {"every_s": HOLD_S},
}


@dataclass(frozen=True, slots=True)
class Ticks:
    """Of one policy; held are those whom the policy kept, ready those who wait for a slot."""

    policy: str
    held: int
    ready: int
    p50_ms: float
    p99_ms: float


async def ticks(policy: str, waiting: int) -> Ticks:
    """The live scheduler's ticks, with the policy asked and the only server away, so that nobody leaves."""
    with TemporaryDirectory() as folder:
        strategy = build(Choice(policy, PARAMS.get(policy) or params(policy, Path(folder))), Choice("spread", {}))
    scheduler = Scheduler(Room(strategy.policy, strategy.placement, {"server": None}), strategy)
    scheduler.room.set_health("server", healthy=False)
    now = scheduler.clock()
    tasks = [asyncio.create_task(scheduler.wait_turn(_waiting(n, now))) for n in range(waiting)]
    await _pause(3)
    taken: list[float] = []
    scheduler.on_tick = taken.append
    while len(taken) < TICKS:
        scheduler.observe(UNKNOWN)
        await _pause(3)
    room = scheduler.room
    done = Ticks(policy, room.held, room.ready, _rank(taken, 0.5) * 1000, _rank(taken, 0.99) * 1000)
    await _cancel(tasks)
    return done


def params(policy: str, folder: Path) -> Mapping[str, object]:
    """What a policy cannot be asked without: `carbon`'s hours, of which a better one comes before any deadline."""
    if policy != "carbon":
        return {}
    file = folder / "hours.csv"
    now_unix_s = time.time()
    file.write_text(f"{now_unix_s - 10},100\n{now_unix_s + HOLD_S / 2},10\n")
    return {"file": str(file), "step_s": HOLD_S}


def _waiting(number: int, now: float) -> Waiting:
    tiers = list(Tier)
    return Waiting(str(number), now, now + HOLD_S + number, 100, 100, tier=tiers[number % len(tiers)])


async def all_ticks(waiting: int, tell: Tell) -> list[Ticks]:
    """Every built-in policy's."""
    done = []
    for policy in POLICIES:
        done.append(await ticks(policy, waiting))
        tell(f"{waiting:,} waiting  {policy:12} tick p50 {done[-1].p50_ms:.3f} ms, p99 {done[-1].p99_ms:.3f} ms")
    return done


def _rank(values: list[float], part: float) -> float:
    return sorted(values)[int((len(values) - 1) * part)]


async def _pause(times: int) -> None:
    """A tick comes two hops after what caused it."""
    for _ in range(times):
        await asyncio.sleep(0)


async def _cancel(tasks: Sequence[asyncio.Task[Leaving]]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task
