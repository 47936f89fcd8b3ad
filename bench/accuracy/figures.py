"""What is told of a cell: errors against the truth, how often it lies within what was stated, and what settling took."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from statistics import median
from typing import Any

from bench.accuracy.cells import Cell
from bench.accuracy.metering import Metered
from bench.accuracy.replay import Charge, Settled

LEAST_J = 0.1  # of less than this, such as of those that left before they began, no relative error is told
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True)
class Errors:
    """Of one way to split, against the truth; relative unless said.

    Attributes:
        bias: of all requests' sum.
        at: signed errors at the `LEVELS`.
    """

    median: float
    p95: float
    p95_j: float
    bias: float
    at: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """One cell, all seeds together."""

    cell: Cell
    mean_batch: float
    requests: int
    shapley: Errors
    tokens: Errors | None  # None: nobody has split so
    time: Errors | None
    coverage: float
    coverage_of: dict[str, float | None]  # by what the proxy saw of the request; None: there was none
    stated: float  # median relative uncertainty
    unattributed: float  # of what was counted, a neighbour's joules included
    foreign: float  # the neighbour's
    unbalanced_uj: int
    not_final: int
    us_per_interval: float
    us_per_request: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def figures(cell: Cell, batches: Sequence[float], metered: Sequence[Metered], settled: Sequence[Settled]) -> Figures:
    """Put all seeds of a cell together."""
    charges = [charge for one in settled for charge in one.charges]
    whole = [charge for charge in charges if not charge.cancelled]
    counted_j = sum(one.totals.counted_uj for one in settled) / 1e6
    return Figures(
        cell=cell,
        mean_batch=sum(batches) / len(batches),
        requests=len(charges),
        shapley=errors(charges, lambda charge: charge.charged_j),
        tokens=errors(charges, lambda charge: charge.tokens_j) if any(charge.tokens_j for charge in charges) else None,
        time=errors(charges, lambda charge: charge.time_j) if any(charge.time_j for charge in charges) else None,
        coverage=coverage(charges) or 0.0,
        coverage_of={
            "streamed": coverage([charge for charge in whole if charge.streamed]),
            "not streamed": coverage([charge for charge in whole if not charge.streamed]),
            "left": coverage([charge for charge in charges if charge.cancelled]),
        },
        stated=median(charge.uncertainty_j / charge.charged_j for charge in charges if charge.charged_j >= LEAST_J),
        unattributed=sum(one.totals.unattributed_uj for one in settled) / 1e6 / counted_j,
        foreign=sum(one.foreign_j for one in metered) / counted_j,
        unbalanced_uj=sum(one.unbalanced_uj for one in settled),
        not_final=sum(one.not_final for one in settled),
        us_per_interval=1e6 * sum(one.settling_s for one in settled) / sum(one.intervals for one in settled),
        us_per_request=1e6 * sum(one.settling_s for one in settled) / len(charges),
    )


def errors(charges: Sequence[Charge], charged_j: Callable[[Charge], float]) -> Errors:
    told = [charge for charge in charges if charge.used_j >= LEAST_J]
    signed = sorted(charged_j(charge) / charge.used_j - 1 for charge in told)
    sizes = [abs(error) for error in signed]
    return Errors(
        median=median(sizes),
        p95=quantile(sizes, 0.95),
        p95_j=quantile((abs(charged_j(charge) - charge.used_j) for charge in charges), 0.95),
        bias=sum(charged_j(charge) for charge in charges) / sum(charge.used_j for charge in charges) - 1,
        at=tuple(quantile(signed, level) for level in LEVELS),
    )


def coverage(charges: Sequence[Charge]) -> float | None:
    """The share of requests whose truth lies within the uncertainty that was stated with their joules."""
    if not charges:
        return None
    return sum(abs(charge.charged_j - charge.used_j) <= charge.uncertainty_j for charge in charges) / len(charges)


def quantile(values: Iterable[float], level: float) -> float:
    """The least value that has `level` of all at or below it."""
    ordered = sorted(values)
    return ordered[max(ceil(level * len(ordered)) - 1, 0)]


def by_kind(told: Iterable[Figures]) -> dict[str, float]:
    """Coverage of all requests in all cells of a kind."""
    requests: dict[str, float] = {}
    covered: dict[str, float] = {}
    for one in told:
        kind = one.cell.kind
        requests[kind] = requests.get(kind, 0) + one.requests
        covered[kind] = covered.get(kind, 0) + one.coverage * one.requests
    return {kind: covered[kind] / requests[kind] for kind in requests}
