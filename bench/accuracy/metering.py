"""The counter of a run as a meter sees it: how often it moves, how well its steps are timed, and what else it counts."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise, repeat
from math import exp, inf, sqrt
from random import Random

from bench.accuracy.traffic import Run
from telemetry.monitor import Steps
from telemetry.snapshot import Interval, Reading, Source

POLL_S = 0.02
LOOSE = 0.05  # of the interval: how far off a step may be told where edges are loose
DRIFT_S = 5.0  # in which a counter that is off forgets how far
NEIGHBOUR_S = 4.0  # mean length of a neighbour's work, and of its rest
DEVICE = "engine"


@dataclass(frozen=True, slots=True)
class Metering:
    """What a meter makes of the truth.

    Attributes:
        interval_s: the counter moves this often.
        edges: "exact"; "polled": found by looks every 20 ms, halfway; "loose": told, and wrong by up to 5 % of the interval.
        wobble: standard deviation of the counter's drifting error, relative to the power drawn.
        foreign_w: what a neighbour draws half of the time.
    """

    interval_s: float = 0.1
    edges: str = "polled"
    wobble: float = 0.0
    foreign_w: float = 0.0


@dataclass(frozen=True, slots=True)
class Metered:
    """The intervals, and what they hold that was neither a request's nor idle power."""

    intervals: list[Interval]
    foreign_j: float


def meter(run: Run, metering: Metering, idle_power_w: float, seed: int) -> Metered:
    """All intervals from before the first request to after the last."""
    random = Random(f"{seed}/meter")
    ticks = list(_ticks(run, metering, random))
    true_j = [run.counted_j(at, idle_power_w) for at in ticks]
    foreign_j = [metering.foreign_w * seconds for seconds in _worked(ticks, random)]
    gains = _gains(metering, random)
    moved = [gain * (b - a) for a, b, gain in zip(true_j, true_j[1:], gains, strict=False)]
    counted_j = [j + other for j, other in zip(accumulate(moved, initial=0.0), foreign_j, strict=True)]
    shown_uj = [round(j * 1000) * 1000 for j in counted_j]  # whole millijoules, as NVML's
    steps = Steps(frozen_after_s=inf)
    return Metered(steps.observe(list(_readings(ticks, shown_uj, metering, random))), foreign_j[-1])


def _ticks(run: Run, metering: Metering, random: Random) -> Iterator[float]:
    """Instants at which the counter moves, on a grid that knows nothing of the requests."""
    every = metering.interval_s
    first = -(2 + random.random()) * every - 1.0
    count = int((run.ended_at - first) / every) + 4
    return (first + every * n for n in range(count))


def _worked(ticks: list[float], random: Random) -> list[float]:
    """Seconds that the neighbour has worked up to each tick."""
    changes, at = [ticks[0]], ticks[0]
    while at < ticks[-1]:
        at += random.expovariate(1 / NEIGHBOUR_S)
        changes.append(at)
    periods = [(after - before) * (n % 2) for n, (before, after) in enumerate(pairwise(changes))]
    done = list(accumulate(periods, initial=0.0))

    def worked(at: float) -> float:
        before = bisect_right(changes, at) - 1
        return done[before] + (at - changes[before]) * (before % 2)

    return [worked(at) for at in ticks]


def _gains(metering: Metering, random: Random) -> Iterator[float]:
    """How much of the truth each interval shows: an Ornstein-Uhlenbeck process, so that errors last."""
    kept = exp(-metering.interval_s / DRIFT_S)
    off = random.gauss(0, metering.wobble)
    for _ in repeat(None):
        yield 1 + off
        off = off * kept + random.gauss(0, metering.wobble * sqrt(1 - kept * kept))


def _readings(ticks: list[float], shown_uj: list[int], metering: Metering, random: Random) -> Iterator[Reading]:
    if metering.edges == "polled":
        yield from _looks(ticks, shown_uj, random)
        return
    off_s = LOOSE * metering.interval_s if metering.edges == "loose" else 0.0
    for at, energy_uj in zip(ticks, shown_uj, strict=True):
        yield Reading(DEVICE, energy_uj, at + random.uniform(-off_s, off_s), Source.SIMULATED, edge_s=off_s)


def _looks(ticks: list[float], shown_uj: list[int], random: Random) -> Iterator[Reading]:
    """A thread that looks every 20 ms, and is never on time."""
    next_at = ticks[0] + random.uniform(0, POLL_S)
    while next_at < ticks[-1] + POLL_S:
        at = next_at + random.expovariate(1 / 0.0003)
        yield Reading(DEVICE, shown_uj[bisect_right(ticks, at) - 1], at, Source.SIMULATED)
        next_at = max(next_at + POLL_S, at)
