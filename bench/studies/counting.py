"""Joules of a stretch of time, from a meter that is read directly, without a proxy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from telemetry.meter import Meter, MeterUnavailable
from telemetry.monitor import Monitor
from telemetry.snapshot import Interval

STEPS_WITHIN_S = 5.0  # a counter moves ten times a second
LOOK_EVERY_S = 0.02


@dataclass(slots=True)
class Counters:
    """What the meter's devices counted since the start; instants are time.monotonic."""

    monitor: Monitor
    found: dict[str, list[Interval]] = field(default_factory=dict)

    async def joules(self, since_s: float, until_s: float) -> float:
        """Of all devices; an interval between two steps of a counter is cut in proportion to time.

        Raises:
            MeterUnavailable: a counter stands still, or was not seen yet at the start.
        """
        give_up_at = time.monotonic() + STEPS_WITHIN_S
        while not self._covers(since_s, until_s):
            if time.monotonic() > give_up_at:
                raise MeterUnavailable("a counter of energy was not read, or stood still: see the log")
            await asyncio.sleep(LOOK_EVERY_S)
        return sum(_overlap_j(each, since_s, until_s) for intervals in self.found.values() for each in intervals)

    def _covers(self, since_s: float, until_s: float) -> bool:
        for interval in self.monitor.intervals():
            self.found.setdefault(interval.device, []).append(interval)
        known = self.found.values()
        return bool(known) and all(of[0].start_s <= since_s and of[-1].end_s >= until_s for of in known)


def _overlap_j(interval: Interval, since_s: float, until_s: float) -> float:
    inside_s = max(min(interval.end_s, until_s) - max(interval.start_s, since_s), 0.0)
    return interval.energy_uj / 1e6 * inside_s / interval.seconds if interval.seconds > 0 else 0.0


@asynccontextmanager
async def counting(meter: Meter) -> AsyncIterator[Counters]:
    """The meter is read in a thread of its own until the end of the block."""
    monitor = Monitor.of(meter)
    monitor.start()
    try:
        yield Counters(monitor)
    finally:
        await asyncio.to_thread(monitor.stop)
