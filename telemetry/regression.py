"""Weighted least squares without negative coefficients, with the interval of each; needs numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

WORST_CONDITION = 1e6


class FitError(ValueError):
    """The runs cannot tell what a step costs; the message says why."""


@dataclass(frozen=True, slots=True)
class Coefficient:
    """One number of the model with its interval.

    Attributes:
        error: its standard error.
        doubt: why it is not to be relied on; empty when it is.
    """

    name: str
    value: float
    low: float
    high: float
    error: float
    doubt: str = ""


@dataclass(frozen=True, slots=True)
class Regression:
    """What was fitted, and how every row looks to it and to a fit without that row."""

    coefficients: Sequence[Coefficient]
    fitted: Vector
    unseen: Vector  # each row as the other rows predict it
    condition: float

    @property
    def values(self) -> list[float]:
        return [coefficient.value for coefficient in self.coefficients]


def regress(
    columns: Vector, target: Vector, error: Vector, names: Sequence[str], also: tuple[Vector, float] | None = None
) -> Regression:
    """Weighted least squares without negative coefficients.

    Args:
        columns: what was done, a row for each run.
        target: what it cost.
        error: what each row is weighed by.
        names: of the columns.
        also: what was subtracted from the target was this, times a number with this standard error.

    Raises:
        FitError: too few rows, or rows too much alike.
    """
    told = [place for place in range(len(names)) if np.any(columns[:, place] > 0)]
    if len(target) < len(told) + 2:
        raise FitError(f"{len(target)} runs for {len(told)} coefficients of {names[0].partition('.')[0]}: two more are needed")
    rows, wanted = columns / error[:, None], target / error
    moved = None if also is None else (also[0] / error, also[1])
    found, condition = _solve(rows, wanted, told, names, moved)
    none: dict[int, Coefficient] = {}
    while below := {n: _none(one) for n, one in found.items() if one.value < 0}:  # a cost below nothing is none
        none |= below
        if not (rest := [n for n in found if n not in below]):
            raise FitError(f"all coefficients of {names[0].partition('.')[0]} come out as less than nothing")
        found, _ = _solve(rows, wanted, rest, names, moved)  # the others take its place
    used = rows[:, list(found)]
    fitted = used @ np.array([one.value for one in found.values()])
    leverage = np.einsum("ij,ji->i", used, np.linalg.pinv(used))
    unseen = wanted - (wanted - fitted) / np.maximum(1 - leverage, 1e-9)
    known = {**none, **found}
    coefficients = [known.get(n) or Coefficient(name, 0.0, 0.0, inf, inf, "no run tells it") for n, name in enumerate(names)]
    return Regression(coefficients, fitted * error, unseen * error, condition)


def _none(one: Coefficient) -> Coefficient:
    return replace(one, value=0.0, doubt=f"comes out as {one.value:.2g}, so it is taken as none")


def _solve(
    rows: Vector, wanted: Vector, columns: Sequence[int], names: Sequence[str], also: tuple[Vector, float] | None
) -> tuple[dict[int, Coefficient], float]:
    """The coefficient of each column, and the condition number of the scaled columns."""
    used = rows[:, columns]
    scale = np.linalg.norm(used, axis=0)
    inverse, condition = np.linalg.pinv(used / scale), float(np.linalg.cond(used / scale))
    if condition > WORST_CONDITION:
        alike = ", ".join(names[n] for n in columns)
        raise FitError(f"the runs are too much alike to tell {alike} apart (condition {condition:.1g})")
    values = inverse @ wanted
    left = wanted - used / scale @ values
    freedom = len(wanted) - len(columns)
    covariance = inverse @ inverse.T * float(left @ left) / freedom
    if also is not None:
        moved = inverse @ also[0] * also[1]
        covariance = covariance + np.outer(moved, moved)
    errors = np.sqrt(np.diag(covariance)) / scale
    found = zip(columns, values / scale, errors, strict=True)
    return {n: around(names[n], float(value), float(error), freedom) for n, value, error in found}, condition


def around(name: str, value: float, error: float, freedom: int) -> Coefficient:
    """A coefficient from its standard error and the degrees of freedom that it was found with."""
    half = t95(freedom) * error
    return Coefficient(name, value, value - half, value + half, error, "" if value > half else "not told from zero")


def t95(freedom: int) -> float:
    """Student's t at 97.5 %: from a table, then by Cornish and Fisher's expansion, which is 0.1 % off at 5."""
    if freedom <= 4:
        return (12.706, 4.303, 3.182, 2.776)[freedom - 1]
    z = NormalDist().inv_cdf(0.975)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return float(z + sum(term / freedom**power for power, term in enumerate(terms, start=1)))
