"""The arms' sums, their ratio, and what it would be if each request's joules were in the block that it came in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean

from telemetry.blocks import Block
from telemetry.pairs import DIVISORS, Pair
from telemetry.student import Interval, deviation, quantile


@dataclass(frozen=True, slots=True)
class Arm:
    """Sums over the blocks of analysed pairs. `value` is the ratio of sums; burn-in is in none but its own."""

    name: str
    value: float | None
    energy_j: float
    burn_in_j: float
    boundary_j: float
    carried_j: float
    requests: int
    completed: int
    output_tokens: int
    errors: int
    late: int
    crossing: int


def conserved(pairs: Sequence[Pair], metric: str) -> list[float]:
    """Log ratios in which each request's joules are in the block that it came in."""

    def own(block: Block) -> float | None:
        return (
            None if block.energy_j is None else (block.energy_j + block.boundary_j - block.carried_j) / DIVISORS[metric](block)
        )

    return [value for pair in pairs if (value := pair.log_ratio(own)) is not None]


def of_sums(pairs: Sequence[Pair], metric: str, alpha: float) -> Interval | None:
    """Delta method: a pair moves the ratio of ratios by what its two blocks move their arms' sums."""
    divisor = DIVISORS[metric]
    joules = [[block.energy_j or 0.0 for block in arm] for arm in _arms(pairs)]
    counts = [[divisor(block) for block in arm] for arm in _arms(pairs)]
    if not pairs:
        return None
    control, treatment = (sum(j) / sum(n) for j, n in zip(joules, counts, strict=True))
    moved = [
        [(j - value * n) / (value * fmean(ns)) for j, n in zip(js, ns, strict=True)]
        for js, ns, value in zip(joules, counts, (control, treatment), strict=True)
    ]
    middle = treatment / control - 1
    if len(pairs) < 3:
        return Interval(middle)
    spread = deviation([t - c for c, t in zip(*moved, strict=True)])
    half = quantile(1 - alpha / 2, len(pairs) - 1) * spread / sqrt(len(pairs)) * (1 + middle)
    return Interval.around(middle, half)


def _arms(pairs: Sequence[Pair]) -> tuple[list[Block], list[Block]]:
    return [pair.control for pair in pairs], [pair.treatment for pair in pairs]


def arm_of(name: str, blocks: Sequence[Block], metric: str) -> Arm:
    energy_j, divisor = sum(block.energy_j or 0.0 for block in blocks), sum(DIVISORS[metric](block) for block in blocks)
    return Arm(
        name=name,
        value=energy_j / divisor if divisor else None,
        energy_j=energy_j,
        burn_in_j=sum(block.burn_in_j or 0.0 for block in blocks),
        boundary_j=sum(block.boundary_j for block in blocks),
        carried_j=sum(block.carried_j for block in blocks),
        requests=sum(block.requests for block in blocks),
        completed=sum(block.completed for block in blocks),
        output_tokens=sum(block.output_tokens for block in blocks),
        errors=sum(block.errors for block in blocks),
        late=sum(block.late for block in blocks),
        crossing=sum(block.crossing for block in blocks),
    )
