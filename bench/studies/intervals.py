"""Intervals of 95 % by Student's t: of a mean, and of the ratio that pairs of runs tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from statistics import mean, stdev

# two-sided 95 % points of Student's t by degrees of freedom, 1 to 30 (Abramowitz and Stegun, table 26.10)
_POINTS = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
T95 = dict(enumerate(_POINTS, start=1))


@dataclass(frozen=True, slots=True)
class Interval:
    """A middle and, from two values on, the bounds within which the true one lies in 95 of 100 such studies."""

    middle: float
    low_95: float | None
    high_95: float | None
    values: int

    def __str__(self) -> str:
        if self.low_95 is None or self.high_95 is None:
            return f"{self.middle:.3g} (no interval: one value)"
        return f"{self.middle:.3g} ({self.low_95:.3g} to {self.high_95:.3g})"


def t95(freedom: int) -> float:
    """Student's t at 97.5 %; beyond 30 degrees of freedom that of 30, which is at most 4 % too wide.

    Raises:
        ValueError: fewer than one degree of freedom.
    """
    if freedom < 1:
        raise ValueError(f"an interval needs at least one degree of freedom, not {freedom}")
    return T95[min(freedom, len(T95))]


def mean_interval(values: Sequence[float]) -> Interval | None:
    """The mean of independent values; None of none."""
    if not values:
        return None
    if len(values) == 1:
        return Interval(values[0], None, None, 1)
    half = t95(len(values) - 1) * stdev(values) / len(values) ** 0.5
    return Interval(mean(values), mean(values) - half, mean(values) + half, len(values))


def ratio_interval(ratios: Sequence[float]) -> Interval | None:
    """The geometric mean of pairs' ratios, each positive: Student's t on their logarithms, as ratios multiply."""
    found = mean_interval([log(ratio) for ratio in ratios])
    if found is None or found.low_95 is None or found.high_95 is None:
        return None if found is None else Interval(exp(found.middle), None, None, found.values)
    return Interval(exp(found.middle), exp(found.low_95), exp(found.high_95), found.values)
