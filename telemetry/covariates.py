"""What the arms did not choose: how even it was between them, and the effect once its chance differences are taken out.

By the drawn orders the arms' expected covariates are equal, so the line of paired differences of joules over those of
covariates gives, where these are zero, the effect (Deng, Xu, Kohavi and Walker, "Improving the sensitivity of online controlled
experiments by utilizing pre-experiment data", WSDM 2013; Lin, "Agnostic notes on regression adjustments to experimental
data", Annals of Applied Statistics 2013). This holds only of what the arm cannot change: arrivals do not wait for answers here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean

from telemetry.blocks import Block
from telemetry.pairs import Pair
from telemetry.sequential import multiplier
from telemetry.student import Interval, deviation, mean_interval, quantile

PAIRS_EACH = 4  # that each covariate needs, or the line follows noise
UNEVEN = 0.01  # a difference that is rarer by chance is told: four are looked at
SIDE = "side"
SINGULAR = 1e-9  # share of a column that the others leave unexplained, below which it says nothing of its own


def _per(of: Callable[[Block], int]) -> Callable[[Block], float | None]:
    return lambda block: of(block) / block.completed if block.completed else None


COVARIATES: Mapping[str, Callable[[Block], float | None]] = {
    "arrival_rate": lambda block: block.arrival_rate or None,
    "prompt_tokens": _per(lambda block: block.prompt_tokens),
    "output_tokens": _per(lambda block: block.output_tokens),
    "temperature_c": lambda block: block.temperature_c,
}
LOGARITHMIC = ("arrival_rate", "prompt_tokens", "output_tokens")  # joules follow their ratio


@dataclass(frozen=True, slots=True)
class Covariate:
    """One that is not chosen: requests a second, tokens a request, degrees.

    Attributes:
        control: mean over the control's blocks.
        treatment: likewise.
        difference: treatment less control over pairs, for a look at one fixed time.
        even: whether chance makes such a difference easily; None: too few pairs.
    """

    name: str
    control: float
    treatment: float
    difference: Interval
    even: bool | None


@dataclass(frozen=True, slots=True)
class Adjusted:
    """The effect (logarithmic) by the line through paired differences, with the covariates that it has.

    Attributes:
        effect: with the always-valid interval.
        at_the_end: with Student's, for one look.
        by: the covariates.
    """

    effect: Interval
    at_the_end: Interval
    by: tuple[str, ...]


def balance(pairs: Sequence[Pair]) -> list[Covariate]:
    """Of each covariate that all pairs tell."""
    result = []
    for name, of in COVARIATES.items():
        two = [(of(pair.control), of(pair.treatment)) for pair in pairs]
        told = [(control, treatment) for control, treatment in two if control is not None and treatment is not None]
        if not told or len(told) < len(two):
            continue
        differences = [treatment - control for control, treatment in told]
        found, wide = mean_interval(differences), mean_interval(differences, UNEVEN)
        if found is not None and wide is not None:
            even = None if len(told) < 4 else not wide.excludes(0.0) or deviation(differences) == 0
            result.append(Covariate(name, fmean(c for c, _ in told), fmean(t for _, t in told), found, even))
    return result


def adjusted(logs: Sequence[float], pairs: Sequence[Pair], planned: int, alpha: float) -> Adjusted | None:
    """The effect where covariates are equal; None where there are too few pairs, or nothing to adjust by.

    Args:
        logs: of each pair, the logarithm of treatment over control.
        pairs: the same.
        planned: pairs of the whole experiment; they, not those so far, decide how many covariates there are.
        alpha: of the intervals.
    """
    told = {name: column for name in COVARIATES if (column := _column(name, pairs)) is not None}
    few = dict(list(told.items())[: planned // PAIRS_EACH])
    if (side := _side(pairs)) is not None:  # drawn evenly, so it takes nothing from what the others tell
        few = {SIDE: side} | few
    constant = [1.0] * len(pairs)
    basis, by = [constant], []
    for name, column in few.items():
        rest = _rest(column, basis)
        if _dot(rest, rest) > SINGULAR * _dot(column, column):
            basis.append(rest)
            by.append(name)
    if not by or len(pairs) <= len(by) + 1:
        return None
    return _intercept(logs, constant, {name: few[name] for name in by}, planned, alpha)


def _side(pairs: Sequence[Pair]) -> list[float] | None:
    """In counterphase, which side had the control: what the sides' devices differ by is in each pair, one way or the other."""
    if not pairs or any(pair.control.start_unix_s != pair.treatment.start_unix_s for pair in pairs):
        return None
    return [1.0 if pair.control_first else -1.0 for pair in pairs]


def _column(name: str, pairs: Sequence[Pair]) -> list[float] | None:
    of = COVARIATES[name]
    values = [pair.log_ratio(of) if name in LOGARITHMIC else pair.difference(of) for pair in pairs]
    told = [value for value in values if value is not None]
    return told if len(told) == len(values) and any(told) else None


def _intercept(
    logs: Sequence[float], constant: Sequence[float], columns: Mapping[str, Sequence[float]], planned: int, alpha: float
) -> Adjusted:
    """Least squares by Gram and Schmidt: what the covariates leave of the constant tells its coefficient."""
    basis: list[list[float]] = []
    for column in columns.values():
        basis.append(_rest(column, basis))
    own = _rest(constant, basis)
    size, freedom = _dot(own, own), len(logs) - len(columns) - 1
    effect = _dot(logs, own) / size
    left = _rest(logs, [*basis, own])
    error = sqrt(_dot(left, left) / freedom / size)
    errors = multiplier(size, planned, alpha, freedom)
    once = Interval.around(effect, quantile(1 - alpha / 2, freedom) * error)
    return Adjusted(Interval.around(effect, None if errors is None else errors * error), once, tuple(columns))


def _rest(column: Sequence[float], basis: Sequence[Sequence[float]]) -> list[float]:
    """What a column says that none of the others does, which are at right angles to each other."""
    rest = list(column)
    for one in basis:
        share = _dot(rest, one) / _dot(one, one)
        rest = [value - share * other for value, other in zip(rest, one, strict=True)]
    return rest


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
