"""The design of a switchback: which arm rules which block of time, all of it decided by one seed.

Blocks of equal length follow each other in pairs; each arm has one block of every pair, and which goes first is drawn. Pairs
form strata (hours of the day, say), in each of which either order comes equally often, so that a trend within the hour
cannot favour an arm (Bojinov, Simchi-Levi and Zhao, "Design and analysis of switchback experiments", Management Science 2023:
inference is over the assignments that could have been drawn, so this is the very distribution that the test draws from).

In counterphase (`parallel`) the servers are two sides, and both blocks of a pair are the same window of time: one of either
side. What is drawn is then which side has which arm. A side is a device with its servers, so what is the device's is in
either arm equally often, and what comes and goes with time is in both arms of every pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import floor, isfinite, ulp
from random import Random

CONTROL, TREATMENT = 0, 1
SIDES = ("A", "B")  # of a design in counterphase: block 2 k is side A's in window k, block 2 k + 1 side B's


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
        parallel: the blocks of a pair are two sides' at the same time, and not one group's one after the other.
    """

    began_unix_s: float
    block_s: float
    burn_in_s: float
    pairs: int
    seed: int = 0
    pairs_per_stratum: int = 4
    parallel: bool = False

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
    def sides(self) -> int:
        """How many blocks there are at a time: 2 in counterphase, else 1."""
        return 2 if self.parallel else 1

    @property
    def windows(self) -> int:
        """Lengths of a block from the first begin to the last end."""
        return self.blocks // self.sides

    @property
    def lasts_s(self) -> float:
        return self.windows * self.block_s

    @property
    def ends_unix_s(self) -> float:
        return self.window_starts_unix_s(self.windows)

    def side_of(self, block: int) -> int:
        """0 or 1 in counterphase, else 0."""
        return block % self.sides

    def window_of(self, block: int) -> int:
        return block // self.sides

    def blocks_in(self, window: int) -> range:
        """The blocks that have a window: one, or one of each side."""
        return range(self.sides * window, self.sides * (window + 1))

    def window_starts_unix_s(self, window: int) -> float:
        """When a window begins; of the one after the last, when the last ends."""
        return self.began_unix_s + window * self.block_s

    def window_at(self, unix_s: float) -> int | None:
        """Which window an instant is in; None before the first and after the last."""
        # an instant counts that floating point puts a hair before its border: seconds since the epoch are a coarse grid
        late_s = unix_s + 2 * ulp(unix_s)
        window = floor((late_s - self.began_unix_s) / self.block_s + 1e-9)
        window += late_s >= self.window_starts_unix_s(window + 1)
        return window if 0 <= window < self.windows else None

    def start_unix_s(self, block: int) -> float:
        """When a block begins."""
        return self.window_starts_unix_s(self.window_of(block))

    def end_unix_s(self, block: int) -> float:
        """When a block ends."""
        return self.window_starts_unix_s(self.window_of(block) + 1)

    def block_at(self, unix_s: float, side: int = 0) -> int | None:
        """Which block of a side an instant is in; None before the first and after the last."""
        window = self.window_at(unix_s)
        return None if window is None else self.blocks_in(window)[side]

    def arm_of(self, block: int) -> int:
        """CONTROL or TREATMENT."""
        first = orders(self)[block // 2]
        return first if block % 2 == 0 else 1 - first

    def of_side(self, side: int) -> Design:
        """What one side sees of it: windows as its blocks. Not in counterphase, all of it."""
        if not self.parallel:
            return self
        own = (self.began_unix_s, self.block_s, self.burn_in_s, self.pairs, self.seed, self.pairs_per_stratum)
        return OfSide(*own, side=side)


@dataclass(frozen=True, slots=True)
class OfSide(Design):
    """One side's blocks of a design in counterphase, numbered as its windows are."""

    side: int = 0

    @property
    def blocks(self) -> int:
        return self.pairs

    def arm_of(self, block: int) -> int:
        first = orders(self)[block]
        return first if self.side == 0 else 1 - first


@cache
def orders(design: Design) -> tuple[int, ...]:
    """Of each pair, which arm goes first (in counterphase: which side A has), as it was drawn for this experiment."""
    return tuple(draw(design, Random(f"switchback {design.seed}")))


def draw(design: Design, random: Random) -> Iterator[int]:
    """An assignment as it could have been drawn: of each pair, which arm goes first."""
    for begins in range(0, design.pairs, design.pairs_per_stratum):
        size = min(design.pairs_per_stratum, design.pairs - begins)
        half = [CONTROL, TREATMENT] * (size // 2) + ([random.randrange(2)] if size % 2 else [])
        random.shuffle(half)
        yield from half
