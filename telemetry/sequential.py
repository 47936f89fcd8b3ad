"""Intervals that may be looked at after every pair: they hold the true mean at all times at once, so watching is allowed.

A mixture of the t-statistic's likelihood ratios, over alternatives with a variance of `spread` in units of the unknown one, is
a martingale for normal differences of any variance, from the second one on; by Ville's inequality it ever reaches 1 / alpha
with probability alpha at most (Lai 1976; Wang and Ramdas, "Anytime-valid t-tests and confidence sequences for Gaussian means
with unknown variance", arXiv 2310.03722; Grünwald, de Heide and Koolen, "Safe testing", 2024). Solved for the mean:

    mean ± s / sqrt(n) sqrt((n - 1) (K - 1) / (1 - K / R)),   R = 1 + n spread,   K = (sqrt(R) / alpha) ^ (2 / n)

The asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and
asymptotic confidence sequences", Annals of Statistics 2024) uses the estimated variance as if it were known: fine after
hundreds of pairs, but an experiment has a dozen, where, watched from the second on, it errs in a quarter of all experiments
instead of a twentieth (`bench/truth` has both).

With covariates the same holds of the constant, with the freedom that they leave (Lindon, Ham, Tingley and Bojinov,
"Anytime-valid linear models and regression adjusted causal inference in randomized experiments", arXiv 2210.08589).

Differences that are only symmetric, not normal, can all be equal by chance of the drawn orders: so many pairs as make that
rarer than alpha are needed before there are bounds (2 ^ (1 - n) <= alpha: six of them at 5 %; Efron, "Student's t-test under
symmetry conditions", JASA 1969, says why that is the worst that can happen to t).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import ceil, log, log2, sqrt
from statistics import fmean

from telemetry.student import Interval, deviation

SPREADS: tuple[float, ...] = tuple(
    2.0 ** (step / 2) for step in range(-12, 13)
)  # among which the tightest is chosen: 1/64 to 64
TIGHTEST_AT = 1 / 3  # of the planned pairs: before it is wide, and later it hardly grows narrower


def fewest(alpha: float) -> int:
    """How many pairs it takes until there are bounds."""
    return max(ceil(1 - log2(alpha)), 3)


def standard_errors(size: float, spread: float, alpha: float, freedom: int | None = None) -> float | None:
    """Half of the interval in standard errors; None: nothing bounds it yet.

    Args:
        size: variance of a difference over that of the mean: the number of pairs, or less where covariates share in it.
        spread: of the alternatives.
        alpha: how often it may be wrong.
        freedom: degrees of freedom; None: one less than the pairs.
    """
    left = round(size) - 1 if freedom is None else freedom
    reach = 1 + size * spread
    if left + 1 < fewest(alpha):
        return None
    limit = (sqrt(reach) / alpha) ** (2 / (left + 1))
    return sqrt(left * (limit - 1) / (1 - limit / reach)) if limit < reach else None


@lru_cache(maxsize=1024)
def chosen_spread(planned: int, alpha: float) -> float:
    """The one by which the interval is tightest a third of the way; it hangs on the plan alone, never on what is found."""
    at = max(round(planned * TIGHTEST_AT), fewest(alpha))
    found = {spread: half for spread in SPREADS if (half := standard_errors(at, spread, alpha)) is not None}
    return min(found, key=lambda spread: found[spread])


def multiplier(size: float, planned: int, alpha: float, freedom: int | None = None) -> float | None:
    """Half of the interval in standard errors, for an experiment of so many planned pairs."""
    return standard_errors(size, chosen_spread(planned, alpha), alpha, freedom)


def always_valid(differences: Sequence[float], planned: int, alpha: float = 0.05, least_sd: float = 0.0) -> Interval | None:
    """The mean of paired differences; the true one is in all intervals of an experiment with probability 1 - alpha.

    Args:
        differences: of the pairs so far.
        planned: pairs of the whole experiment; decides where the interval is tightest, not whether it is valid.
        alpha: how often it may be wrong.
        least_sd: below which no standard deviation is believed.

    Returns:
        None of no differences, unbounded of too few.
    """
    if not differences:
        return None
    pairs, middle = len(differences), fmean(differences)
    errors = multiplier(pairs, planned, alpha)
    if errors is None:
        return Interval(middle)
    return Interval.around(middle, errors * max(deviation(differences), least_sd) / sqrt(pairs))


def asymptotic(differences: Sequence[float], planned: int, alpha: float = 0.05) -> Interval | None:
    """The asymptotic confidence sequence (there, theorem 2.2), to compare with; it is not used for any verdict."""
    if not differences:
        return None
    pairs, middle = len(differences), fmean(differences)
    if pairs < 2:
        return Interval(middle)
    at = max(planned * TIGHTEST_AT, 2.0)
    rho2 = (-2 * log(alpha) + log(-2 * log(alpha)) + 1) / at
    reach = pairs * rho2 + 1
    half = deviation(differences) * sqrt(2 * reach / (pairs**2 * rho2) * log(sqrt(reach) / alpha))
    return Interval.around(middle, half)
