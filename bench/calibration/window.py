"""What was done and drawn between two steps of the counter that lie inside a run.

The span of a run is the time in which its load was steady. Its window begins at the second step of the counter inside the
span, since the first interval may hold joules of before, and ends at the last one inside. Inside, not around: the load is
the same on both sides of both edges, so neither a counter that lags nor a card that cools slowly moves joules in or out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import hypot

from telemetry.fit import Work
from telemetry.snapshot import Interval

FEWEST = 3  # intervals of the counter

Counts = tuple[float, float, float, float, float]  # steps, sequences, prompt tokens, context tokens, requests, as in `Work`


class NoWindow(Exception):
    """Nothing can be counted in a run; the message says why."""


@dataclass(slots=True)
class Progress:
    """What had been done by an instant, and evenly between two instants."""

    _times: list[float] = field(default_factory=list)
    _counts: list[Counts] = field(default_factory=list)

    def add(self, at_s: float, counts: Counts) -> None:
        """Everything that was done up to `at_s`, which is not before the last one."""
        self._times.append(at_s)
        self._counts.append(counts)

    def __len__(self) -> int:
        return len(self._times)

    @property
    def last(self) -> Counts:
        return self._counts[-1] if self._counts else (0.0,) * 5

    def between(self, first: int) -> tuple[float, float]:
        """Instants of the entry `first`, counted from zero, and of the last.

        Raises:
            NoWindow: there is no such entry.
        """
        if len(self._times) <= first + 1:
            raise NoWindow(f"only {max(len(self._times) - 1, 0)} answers came in time")
        return self._times[first], self._times[-1]

    def at(self, at_s: float) -> Counts:
        place = bisect_right(self._times, at_s)
        if place == 0 or place == len(self._times):
            return self._counts[0] if place == 0 and self._counts else self.last
        (before_s, after_s), (before, after) = self._times[place - 1 : place + 1], self._counts[place - 1 : place + 1]
        part = (at_s - before_s) / (after_s - before_s)
        steps, sequences, prompts, context, requests = (a + part * (b - a) for a, b in zip(before, after, strict=True))
        return steps, sequences, prompts, context, requests


@dataclass(frozen=True, slots=True)
class Span:
    """The time in which a run's load was steady."""

    start_s: float
    end_s: float


def work(name: str, span: Span, intervals: Sequence[Interval], done: Sequence[Progress]) -> Work:
    """What lies in the window of a span; the joules of several devices are added up as mean powers.

    Raises:
        NoWindow: the counter made too few steps in it.
    """
    devices = {interval.device for interval in intervals}
    if not devices:
        raise NoWindow("the meter told nothing")
    windows = [_inside(span, [one for one in intervals if one.device == device]) for device in sorted(devices)]
    start_s, end_s = max(found[0].start_s for found in windows), min(found[-1].end_s for found in windows)
    if end_s <= start_s:
        raise NoWindow("the devices' counters have no time in common")
    watts = sum(sum(one.energy_uj for one in found) / 1e6 / (found[-1].end_s - found[0].start_s) for found in windows)
    edge_s = max(hypot(found[0].start_edge_s, found[-1].end_edge_s) for found in windows) / 3**0.5  # evenly within their bounds
    began = [progress.at(start_s) for progress in done]
    ended = [progress.at(end_s) for progress in done]
    counts = [sum(after[n] - before[n] for before, after in zip(began, ended, strict=True)) for n in range(5)]
    return Work(name, end_s - start_s, watts * (end_s - start_s), edge_s, *counts)


def _inside(span: Span, intervals: Sequence[Interval]) -> Sequence[Interval]:
    found = [one for one in intervals if one.start_s >= span.start_s and one.end_s <= span.end_s][1:]
    gap = next((n for n, (one, after) in enumerate(pairwise(found)) if after.start_s > one.end_s + 1e-6), None)
    if gap is not None:
        raise NoWindow("the counter went back, or was not read, in the middle of the run")
    if len(found) < FEWEST:
        lasted = span.end_s - span.start_s
        raise NoWindow(f"{len(found)} whole intervals of the counter in the {lasted:.2f} s of steady load; {FEWEST} are needed")
    return found
