"""Student's t without scipy: the proxy asks for it after every block, and has no numbers but Python's own.

The distribution function for whole degrees of freedom is a finite sum (Abramowitz and Stegun, 26.7.3 and 26.7.4); the power of
a test is the integral of the normal one over the distribution of the estimated standard deviation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import atan, cos, exp, isfinite, log, pi, sin, sqrt, tan
from statistics import NormalDist, fmean

HALVINGS = 60  # of an interval, until its ends are the same number
SLICES = 400  # of an integral
NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Interval:
    """A middle with bounds; without bounds (None) nothing is known yet but the middle."""

    middle: float
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if not isfinite(self.middle):
            raise ValueError("an interval's middle must be finite")

    @property
    def bounded(self) -> bool:
        return self.low is not None and self.high is not None

    def excludes(self, value: float) -> bool:
        return self.low is not None and self.high is not None and not self.low <= value <= self.high

    def above(self, value: float) -> bool:
        return self.low is not None and self.low > value

    def below(self, value: float) -> bool:
        return self.high is not None and self.high < value

    @classmethod
    def around(cls, middle: float, half: float | None) -> Interval:
        """None: without bounds."""
        return cls(middle) if half is None else cls(middle, middle - half, middle + half)


def deviation(values: Sequence[float]) -> float:
    """Of a sample of two or more; Python's own reckons in fractions, a hundred times as long."""
    middle = fmean(values)
    return sqrt(sum((value - middle) ** 2 for value in values) / (len(values) - 1))


def within(t: float, freedom: int) -> float:
    """How probable it is that Student's t lies between -t and t."""
    angle = atan(t / sqrt(freedom))
    square, even = cos(angle) ** 2, freedom % 2 == 0
    term = 1.0 if even else cos(angle)
    total = term if freedom > 1 else 0.0
    for step in range(1 if even else 2, freedom - 2, 2):
        term *= square * step / (step + 1)
        total += term
    return sin(angle) * total if even else 2 / pi * (angle + sin(angle) * total)


@lru_cache(maxsize=4096)
def quantile(probability: float, freedom: int) -> float:
    """Student's t below which so much of it lies.

    Raises:
        ValueError: a probability that is not between 0 and 1, or less than one degree of freedom.
    """
    if not 0 < probability < 1 or freedom < 1:
        raise ValueError("a quantile needs a probability between 0 and 1, and at least one degree of freedom")
    if probability < 0.5:
        return -quantile(1 - probability, freedom)
    low, high = 0.0, pi / 2
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        reached = within(sqrt(freedom) * tan(middle), freedom) >= 2 * probability - 1
        low, high = (low, middle) if reached else (middle, high)
    return sqrt(freedom) * tan(low)


def mean_interval(values: Sequence[float], alpha: float = 0.05) -> Interval | None:
    """Of independent values, for a look at one fixed time; None of none, unbounded of one."""
    if not values:
        return None
    if len(values) == 1:
        return Interval(values[0])
    half = quantile(1 - alpha / 2, len(values) - 1) * deviation(values) / sqrt(len(values))
    return Interval.around(fmean(values), half)


def power(shift: float, freedom: int, critical: float) -> float:
    """How probable it is that |t| exceeds `critical`, when its mean is shifted by so many standard errors.

    The integral over u, the estimated over the true standard deviation, whose square is chi-square over its freedom.
    """
    width = min(12 / sqrt(2 * freedom), 8.0)  # beyond so many of u's own standard deviations there is nothing
    low, high = max(1 - width, 1e-9), 1 + width
    found = weights = 0.0
    for slice_ in range(SLICES):
        u = low + (slice_ + 0.5) / SLICES * (high - low)
        weight = exp((freedom - 1) * log(u) - freedom * (u * u - 1) / 2)
        found += weight * (NORMAL.cdf(shift - critical * u) + NORMAL.cdf(-shift - critical * u))
        weights += weight
    return found / weights
