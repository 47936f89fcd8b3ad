"""The design of a switchback: which arm rules which block of time, all of it decided by one seed.

Blocks of equal length follow each other in pairs; each arm has one block of every pair, and which goes first is drawn. Pairs
form strata (hours of the day, say), in each of which either order comes equally often, so that a trend within the hour
cannot favour an arm (Bojinov, Simchi-Levi and Zhao, "Design and analysis of switchback experiments", Management Science 2023:
inference is over the assignments that could have been drawn, so this is the very distribution that the test draws from).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import floor, isfinite, ulp
from random import Random

CONTROL, TREATMENT = 0, 1


@dataclass(frozen=True, slots=True)
class Design:
    """A switchback as it was asked for.

    Attributes:
        began_unix_s: when the first block begins, seconds since the epoch.
        block_s: length of a block, seconds.
        burn_in_s: the beginning of each block that is not analysed: the former arm's requests are still there.
        pairs: pairs of blocks.
        seed: decides every order.
        pairs_per_stratum: within so many pairs in a row both orders come equally often (one more of either, if they are odd).
    """

    began_unix_s: float
    block_s: float
    burn_in_s: float
    pairs: int
    seed: int = 0
    pairs_per_stratum: int = 4

    def __post_init__(self) -> None:
        if not (isfinite(self.began_unix_s) and isfinite(self.block_s) and self.block_s > 0):
            raise ValueError("block_s must be above 0, and instants finite")
        if not 0 <= self.burn_in_s < self.block_s:
            raise ValueError("burn_in_s must be at least 0, and shorter than block_s")
        if self.pairs < 1 or self.pairs_per_stratum < 1:
            raise ValueError("pairs and pairs_per_stratum must be at least 1")

    @property
    def blocks(self) -> int:
        return 2 * self.pairs

    @property
    def ends_unix_s(self) -> float:
        return self.start_unix_s(self.blocks)

    def start_unix_s(self, block: int) -> float:
        """When a block begins; of the one after the last, when the last ends."""
        return self.began_unix_s + block * self.block_s

    def block_at(self, unix_s: float) -> int | None:
        """Which block an instant is in; None before the first and after the last."""
        # an instant counts that floating point puts a hair before its border: seconds since the epoch are a coarse grid
        late_s = unix_s + 2 * ulp(unix_s)
        block = floor((late_s - self.began_unix_s) / self.block_s + 1e-9)
        block += late_s >= self.start_unix_s(block + 1)
        return block if 0 <= block < self.blocks else None

    def arm_of(self, block: int) -> int:
        """CONTROL or TREATMENT."""
        first = orders(self)[block // 2]
        return first if block % 2 == 0 else 1 - first


@cache
def orders(design: Design) -> tuple[int, ...]:
    """Of each pair, which arm goes first, as it was drawn for this experiment."""
    return tuple(draw(design, Random(f"switchback {design.seed}")))


def draw(design: Design, random: Random) -> Iterator[int]:
    """An assignment as it could have been drawn: of each pair, which arm goes first."""
    for begins in range(0, design.pairs, design.pairs_per_stratum):
        size = min(design.pairs_per_stratum, design.pairs - begins)
        half = [CONTROL, TREATMENT] * (size // 2) + ([random.randrange(2)] if size % 2 else [])
        random.shuffle(half)
        yield from half
