"""The arithmetic: figures of a slice, medians and spreads over rounds, and what is compared only within a round."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from bench.overhead.slices import DIRECT, Slice


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one slice. `rate` and `cpu_us` are for each event where a stream is paced, else for each answer."""

    rate: float
    cpu_us: float
    p50_us: float
    p99_us: float
    first_p50_us: float  # of a stream's first event
    first_p99_us: float


@dataclass(frozen=True, slots=True)
class Spread:
    """Of one figure over the rounds."""

    median: float
    least: float
    most: float
    rounds: int


def spread(values: Iterable[float]) -> Spread | None:
    """None of no values."""
    kept = sorted(values)
    return Spread(median(kept), kept[0], kept[-1], len(kept)) if kept else None


def written(value: float) -> str:
    """With as many digits as are worth reading."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"


def figures(slice: Slice) -> Figures:
    found, what = slice.found, "event" if slice.shape.startswith("paced") else "whole"
    count = found["events" if what == "event" else "requests"]
    first = [found.get(f"first_{rank}_us", 0.0) for rank in ("p50", "p99")]
    return Figures(count / found["window_s"], found["cpu_us"] / count, found[f"{what}_p50_us"], found[f"{what}_p99_us"], *first)


@dataclass(frozen=True, slots=True)
class Results:
    """All that one run measured. Every comparison is made within a round, then the median is taken."""

    slices: Sequence[Slice]

    def alone(self, proxy: str, shape: str, figure: str) -> Spread | None:
        return spread(getattr(found, figure) for found in self._good(proxy, shape).values())

    def added(self, proxy: str, shape: str, figure: str) -> Spread | None:
        """Over no proxy at all."""
        return self._compared(proxy, DIRECT, shape, figure, lambda ours, theirs: ours - theirs)

    def ratio(self, proxy: str, other: str, shape: str, figure: str) -> Spread | None:
        return self._compared(proxy, other, shape, figure, lambda ours, theirs: ours / theirs)

    def voids(self, proxy: str) -> list[Slice]:
        return [slice for slice in self.slices if slice.proxy == proxy and slice.void]

    def of(self, proxy: str, shape: str) -> list[Slice]:
        return [slice for slice in self.slices if (slice.proxy, slice.shape) == (proxy, shape)]

    def _good(self, proxy: str, shape: str) -> dict[int, Figures]:
        return {slice.round: figures(slice) for slice in self.of(proxy, shape) if not slice.void}

    def _compared(
        self, proxy: str, other: str, shape: str, figure: str, compare: Callable[[float, float], float]
    ) -> Spread | None:
        ours, theirs = self._good(proxy, shape), self._good(other, shape)
        both = sorted(ours.keys() & theirs.keys())
        return spread(compare(getattr(ours[round], figure), getattr(theirs[round], figure)) for round in both)
