"""What the conclusions of an experiment assume, and whether its blocks bear it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, expm1, sqrt
from statistics import fmean

from telemetry.design import Design
from telemetry.pairs import Lost, Pair
from telemetry.student import Interval, deviation, quantile

CARRIED = 0.05  # share of an arm's joules across borders that is told
SURPRISING = 0.01  # what is rarer by chance
LOST = 0.2  # share of pairs
UNLIKE = 0.05  # by which sides may differ before it is said what that costs
SIMULATED = ("modelled", "simulated", "replayed")


@dataclass(frozen=True, slots=True)
class Check:
    """One assumption.

    Attributes:
        name: order, carry_over, order_effect (in counterphase: sides), trend, independence, lost or source.
        holds: None: there is too little to tell.
        says: with its numbers.
    """

    name: str
    holds: bool | None
    says: str


def checks(
    pairs: Sequence[Pair],
    logs: Mapping[int, float],
    design: Design,
    lost: Sequence[Lost],
    sources: Sequence[str],
    at_the_end: Interval | None,
    conserved: Interval | None,
    lag_1: float | None,
) -> list[Check]:
    """All of them, in the order in which they matter."""
    values = [logs[pair.number] for pair in pairs if pair.number in logs]
    return [
        _source(sources),
        _lost(pairs, lost),
        _order(pairs, design),
        _carry_over(pairs, at_the_end, conserved),
        _sides(pairs, logs) if design.parallel else _order_effect(pairs, logs),
        _trend(values),
        _independence(values, lag_1),
    ]


def _source(sources: Sequence[str]) -> Check:
    if not sources:
        return Check("source", None, "no block tells where its joules come from")
    if len(sources) > 1:
        return Check("source", False, f"joules come from {', '.join(sources)}, which are not to be compared")
    if sources[0] in SIMULATED or not sources[0]:
        return Check("source", False, f"the joules are {sources[0] or 'of unknown origin'}, not measured")
    return Check("source", True, f"all joules are from {sources[0]}")


def _lost(pairs: Sequence[Pair], lost: Sequence[Lost]) -> Check:
    over = len(pairs) + len(lost)
    if not lost:
        return Check("lost", True if over else None, "no pair was lost")
    says = f"{len(lost)} of {over} pairs were lost; if an arm's doing lost them, what is left is no fair comparison"
    return Check("lost", len(lost) <= LOST * over, says)


def _order(pairs: Sequence[Pair], design: Design) -> Check:
    """Within strata either order comes equally often; lost pairs can undo it."""
    first, size = sum(pair.control_first for pair in pairs), design.pairs_per_stratum
    where = "was on side A" if design.parallel else "went first"
    says = f"the control {where} in {first} of {len(pairs)} pairs (strata of {size})"
    odd = ceil(len(pairs) / size) if size % 2 else 1  # strata that leave one over, whose order is drawn
    return Check("order", abs(2 * first - len(pairs)) <= size // 2 + 2.58 * sqrt(odd) if pairs else None, says)


def _carry_over(pairs: Sequence[Pair], at_the_end: Interval | None, conserved: Interval | None) -> Check:
    """Joules that blocks owe each other matter when charging them otherwise would move the effect."""
    energy_j = sum(block.energy_j or 0.0 for pair in pairs for block in pair.blocks)
    if not energy_j or at_the_end is None:
        return Check("carry_over", None, "nothing is known of joules across borders")
    across = sum(block.boundary_j + block.carried_j for pair in pairs for block in pair.blocks) / energy_j
    says = f"{100 * across:.1f} % of the joules are of requests across a block's borders"
    if conserved is None:
        return Check("carry_over", across <= CARRIED, says)
    moved = abs(conserved.middle - at_the_end.middle)
    says += f"; charged to the blocks that they came in, the effect is {100 * conserved.middle:+.1f} %"
    half = 0.0 if at_the_end.low is None or at_the_end.high is None else (at_the_end.high - at_the_end.low) / 2
    return Check("carry_over", across <= CARRIED or moved <= max(half, 0.005), says)


def _order_effect(pairs: Sequence[Pair], logs: Mapping[int, float]) -> Check:
    """If an arm leaves something behind, it looks otherwise as the second than as the first."""
    groups = [[logs[pair.number] for pair in pairs if pair.control_first is first] for first in (True, False)]
    if min(map(len, groups)) < 3:
        return Check("order_effect", None, "too few pairs of either order to tell whether the order matters")
    ahead, behind = groups
    freedom = len(ahead) + len(behind) - 2
    pooled = ((len(ahead) - 1) * deviation(ahead) ** 2 + (len(behind) - 1) * deviation(behind) ** 2) / freedom
    error = sqrt(pooled * (1 / len(ahead) + 1 / len(behind)))
    gap = fmean(ahead) - fmean(behind)
    says = (
        f"the log ratio is {fmean(ahead):+.3f} where the control went first and {fmean(behind):+.3f} where it did not "
        "(a drift within pairs does this, and cancels; what an arm leaves behind does it too)"
    )
    return Check("order_effect", abs(gap) <= quantile(1 - SURPRISING / 2, freedom) * error + 1e-12, says)


def _sides(pairs: Sequence[Pair], logs: Mapping[int, float]) -> Check:
    """Where the control has side A, a pair's log ratio is the effect and what side B takes more; else the effect less that."""
    groups = [[logs[pair.number] for pair in pairs if pair.control_first is first] for first in (True, False)]
    if not all(groups):
        return Check("sides", None, "each arm has been on one side only: what is the side's is in the effect")
    more = expm1((fmean(groups[0]) - fmean(groups[1])) / 2)
    says = (
        "both arms ran at the same time, each on servers and meters of its own: no batch and no joule is in both. "
        f"Under the same arm, side B takes {100 * more:+.1f} % against side A; it is in every pair, for one arm or the other, "
        "and cancels in the mean"
    )
    if abs(more) > UNLIKE:
        says += ", and widens the interval: servers that are alike would tell more"
    return Check("sides", True, says)


def _trend(values: Sequence[float]) -> Check:
    """Whether the effect itself drifts; a drift of both arms cancels within pairs."""
    if len(values) < 6:
        return Check("trend", None, "too few pairs to tell whether the effect drifts")
    places = [place - (len(values) - 1) / 2 for place in range(len(values))]
    size = sum(place * place for place in places)
    slope = sum(place * value for place, value in zip(places, values, strict=True)) / size
    rest = [value - fmean(values) - slope * place for place, value in zip(places, values, strict=True)]
    error = sqrt(sum(value * value for value in rest) / (len(values) - 2) / size)
    says = f"the log ratio moves by {slope * (len(values) - 1):+.3f} from the first pair to the last"
    return Check("trend", abs(slope) <= quantile(1 - SURPRISING / 2, len(values) - 2) * error + 1e-12, says)


def _independence(values: Sequence[float], lag_1: float | None) -> Check:
    if lag_1 is None or len(values) < 8:
        return Check("independence", None, "too few pairs to tell whether consecutive ones resemble each other")
    worth = len(values) * min((1 - lag_1) / (1 + lag_1), 1.0)
    says = f"consecutive pairs' differences correlate by {lag_1:+.2f}: {len(values)} pairs are worth {worth:.0f}"
    return Check("independence", lag_1 <= 2.58 / sqrt(len(values)), says)
