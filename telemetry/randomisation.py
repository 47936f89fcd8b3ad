"""The randomisation test: how often the orders that could have been drawn would have shown as much by chance.

It asks nothing of the blocks' distribution, only that the orders were drawn as `telemetry/design.py` draws them (Bojinov,
Simchi-Levi and Zhao, Management Science 2023). If the arms do the same, a pair would have come to the same two blocks in
the other order; so its difference has the other sign. Strata are independent, and within one all its orders are
equally likely: small ones are counted out, larger ones drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product
from math import comb, prod
from operator import add
from random import Random

from telemetry.design import CONTROL, TREATMENT, Design, draw, orders

WRITTEN_OUT = 1_000  # orders of a stratum, at the most, that are listed
MOST_FLIPS, FEWEST_DRAWS = 2_000_000, 1_000  # pairs times draws: half a second at most, up to 2,000 pairs
SAME = 1e-9  # relative: sums of the same numbers in another order


@dataclass(frozen=True, slots=True)
class Chance:
    """How probable what was seen is by chance.

    Attributes:
        p: two-sided; of assignments that could have been drawn, the share that shows at least as much.
        exact: all were counted; else `assignments` were drawn, and the one of the experiment is counted in.
        assignments: how many were looked at.
    """

    p: float
    exact: bool
    assignments: int


@lru_cache(maxsize=64)
def stratum_orders(pairs: int) -> tuple[tuple[int, ...], ...] | None:
    """Every equally likely order of a stratum's pairs, as `draw` shuffles them; None: too many to list."""
    half = pairs // 2
    if comb(pairs, half) * (2 if pairs % 2 else 1) > WRITTEN_OUT or pairs > 12:
        return None
    either = (CONTROL, TREATMENT)
    if pairs <= 8:
        kinds = [(CONTROL,) * half + (TREATMENT,) * half + odd for odd in ([(x,) for x in either] if pairs % 2 else [()])]
        return tuple(sorted({order for kind in kinds for order in permutations(kind)}))
    return tuple(order for order in product(either, repeat=pairs) if sum(order) in {half, pairs - half})


def chance(differences: Mapping[int, float], design: Design, draws: int = 10_000) -> Chance | None:
    """Of the mean of paired differences, treatment less control.

    Args:
        differences: by pair; pairs that were lost are not in it.
        design: whose orders they had.
        draws: assignments that are looked at, if there are more; of 200 pairs or more fewer, down to `FEWEST_DRAWS`.

    Returns:
        None without any difference.
    """
    if not differences:
        return None
    strata = list(_strata(differences, design))
    seen = abs(sum(differences.values()))
    least = seen - SAME * sum(abs(value) for value in differences.values())
    listed = [sums for sums in strata if sums is not None]
    if len(listed) == len(strata) and (count := prod(map(len, listed))) <= draws:
        found = sum(abs(sum(parts)) >= least for parts in product(*listed))
        return Chance(found / count, True, count)
    draws = min(draws, max(MOST_FLIPS // design.pairs, FEWEST_DRAWS))
    random = Random(f"randomisation {design.seed}")
    sums = _drawn(listed, random, draws) if len(listed) == len(strata) else _shuffled(differences, design, random, draws)
    found = sum(abs(one) >= least for one in sums)
    return Chance((found + 1) / (draws + 1), False, draws)


def _strata(differences: Mapping[int, float], design: Design) -> Sequence[list[float] | None]:
    """Of each stratum, what its differences would have come to in each order; None where there are too many."""
    drawn, size = orders(design), design.pairs_per_stratum
    result: list[list[float] | None] = []
    for begins in range(0, design.pairs, size):
        pairs = range(begins, min(begins + size, design.pairs))
        here = {pair - begins: differences[pair] for pair in pairs if pair in differences}
        if here:
            ways = stratum_orders(len(pairs))
            sums = ways and [
                sum(value if way[at] == drawn[begins + at] else -value for at, value in here.items()) for way in ways
            ]
            result.append(list(sums) if sums else None)
    return result


def _drawn(strata: Sequence[list[float]], random: Random, draws: int) -> list[float]:
    totals = [0.0] * draws
    for sums in strata:
        totals = list(map(add, totals, random.choices(sums, k=draws)))
    return totals


def _shuffled(differences: Mapping[int, float], design: Design, random: Random, draws: int) -> list[float]:
    drawn = orders(design)
    signed = [differences.get(pair, 0.0) * (1 if drawn[pair] == TREATMENT else -1) for pair in range(design.pairs)]
    return [
        sum(value if first == TREATMENT else -value for value, first in zip(signed, draw(design, random), strict=True))
        for _ in range(draws)
    ]
