"""How small an effect an experiment can find: told before it starts, so that nobody waits for what cannot come.

Power is that of Student's test of the paired logarithms' mean (noncentral t); watched, that of the always-valid interval at the
planned end, which is less than the power of one that is looked at after every pair, so the promise is on the safe side.
"""

from __future__ import annotations

from math import exp, inf, isfinite, log1p, sqrt

from telemetry.sequential import multiplier
from telemetry.student import HALVINGS, power, quantile

MOST_PAIRS = 10_000


def probability(effect: float, sd: float, pairs: int, alpha: float = 0.05, *, watched: bool = True) -> float:
    """With which an effect is found.

    Args:
        effect: relative, -0.2 is a fifth less; above -1.
        sd: standard deviation of pairs' log ratios: of an A/A experiment, of past pairs, or of simulated ones.
        pairs: at least 2.
        alpha: how often an effect may be found where there is none.
        watched: by the always-valid interval; else by Student's t, looked at once.

    Raises:
        ValueError: a number that makes no sense.
    """
    if not (effect > -1 and isfinite(effect) and sd >= 0 and isfinite(sd) and pairs >= 2 and 0 < alpha < 1):
        raise ValueError("power needs an effect above -1, an sd of at least 0, 2 pairs or more, and alpha between 0 and 1")
    critical = multiplier(pairs, pairs, alpha) if watched else quantile(1 - alpha / 2, pairs - 1)
    if critical is None:
        return 0.0
    if sd == 0:
        return 1.0 if effect else alpha
    return power(abs(log1p(effect)) / sd * sqrt(pairs), pairs - 1, critical)


def detectable(sd: float, pairs: int, alpha: float = 0.05, likely: float = 0.8, *, watched: bool = True) -> float:
    """The least saving that is found with probability `likely`, as a share (0.05: five percent less); 1: none is.

    Args:
        sd: as `probability` has it.
        pairs: likewise.
        alpha: likewise.
        likely: the power.
        watched: likewise.

    Raises:
        ValueError: a number that makes no sense.
    """
    if not alpha < likely < 1:
        raise ValueError("the power must be between alpha and 1")
    low, high = 0.0, 0.9999
    if probability(-high, sd, pairs, alpha, watched=watched) < likely:
        return 1.0
    for _ in range(HALVINGS // 2):
        middle = (low + high) / 2
        enough = probability(-middle, sd, pairs, alpha, watched=watched) >= likely
        low, high = (low, middle) if enough else (middle, high)
    return high


def needed(effect: float, sd: float, alpha: float = 0.05, likely: float = 0.8, *, watched: bool = True) -> int | None:
    """Pairs, at the least, that find an effect with probability `likely`; None: more than ten thousand.

    Raises:
        ValueError: a number that makes no sense.
    """
    low, high = 1, 2
    while probability(effect, sd, high, alpha, watched=watched) < likely:
        if high > MOST_PAIRS:
            return None
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        enough = probability(effect, sd, middle, alpha, watched=watched) >= likely
        low, high = (low, middle) if enough else (middle, high)
    return high


def factor(logarithm: float) -> float:
    """Relative effect of a log ratio."""
    return exp(logarithm) - 1 if logarithm < 700 else inf
