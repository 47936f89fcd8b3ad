"""The few statistics that verdicts stand on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median, quantiles, stdev

from bench.studies.intervals import T95


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean with its 95 % interval by Student's t; with fewer than two values there is no interval."""

    mean: float
    low_95: float | None
    high_95: float | None
    values: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean | None:
        if not values:
            return None
        if len(values) < 2:
            return cls(values[0], None, None, 1)
        t = T95[max(df for df in T95 if df <= len(values) - 1)]
        half = t * stdev(values) / len(values) ** 0.5
        return cls(mean(values), mean(values) - half, mean(values) + half, len(values))

    def __str__(self) -> str:
        told = f"{self.mean:.4g}"
        return told if self.low_95 is None or self.high_95 is None else f"{told} ({self.low_95:.4g} to {self.high_95:.4g})"


@dataclass(frozen=True, slots=True)
class Spread:
    """How far values lie apart."""

    median: float
    p5: float
    p95: float
    least: float
    most: float
    values: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        if not values:
            return None
        points = quantiles(values, n=20, method="inclusive") if len(values) > 1 else list(values)
        return cls(median(values), points[0], points[-1], min(values), max(values), len(values))
