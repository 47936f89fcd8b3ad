"""An experiment's blocks as pairs, which is what is analysed: one block of either arm, side by side in time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log

from telemetry.blocks import MOST_UNFINISHED, Block
from telemetry.design import CONTROL, Design

METRICS: Mapping[str, Callable[[Block], float | None]] = {
    "j_per_token": lambda block: block.j_per_token,
    "j_per_request": lambda block: block.j_per_request,
}
DIVISORS: Mapping[str, Callable[[Block], int]] = {
    "j_per_token": lambda block: block.output_tokens,
    "j_per_request": lambda block: block.completed,
}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two blocks that followed each other, one of either arm."""

    number: int
    control: Block
    treatment: Block

    @property
    def control_first(self) -> bool:
        return self.control.index < self.treatment.index

    @property
    def blocks(self) -> tuple[Block, Block]:
        return self.control, self.treatment

    def log_ratio(self, of: Callable[[Block], float | None]) -> float | None:
        """Treatment over control; None where either is unknown or nothing."""
        control, treatment = of(self.control), of(self.treatment)
        if control is None or treatment is None or control <= 0 or treatment <= 0:
            return None
        return log(treatment / control)

    def difference(self, of: Callable[[Block], float | None]) -> float | None:
        """Treatment less control; None where either is unknown."""
        control, treatment = of(self.control), of(self.treatment)
        return None if control is None or treatment is None else treatment - control


@dataclass(frozen=True, slots=True)
class Lost:
    """A pair that is over and cannot be analysed."""

    pair: int
    why: str


def paired(blocks: Sequence[Block], design: Design, metric: str) -> tuple[list[Pair], list[Lost]]:
    """The pairs that can be analysed, and those that were lost; one that is under way is neither.

    Raises:
        ValueError: a metric, a block or an arm that is not of this design.
    """
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}: it is one of {', '.join(METRICS)}")
    by_index = _by_index(blocks, design)
    latest = max(by_index, default=-1)
    pairs, lost = [], []
    for number in range(latest // 2 + 1):
        two = [by_index.get(2 * number + at) for at in range(2)]
        flaws = [_flaw(block, 2 * number + at, metric) for at, block in enumerate(two)]
        if not any(flaws):
            control, treatment = sorted((block for block in two if block is not None), key=lambda block: block.arm)
            pairs.append(Pair(number, control, treatment))
        elif flaws[0] or latest > 2 * number:  # else its second block is still to come
            lost.append(Lost(number, flaws[0] or flaws[1]))
    return pairs, lost


def guarded(blocks: Sequence[Block], design: Design) -> list[Pair]:
    """The pairs that guardrails look at: both blocks are whole, whether or not joules are known and any answer is there.

    A treatment under which nothing is answered, or ends, leaves nothing to divide by, and must be stopped for just that.

    Raises:
        ValueError: as `paired`.
    """
    whole = {index: block for index, block in _by_index(blocks, design).items() if block.complete}
    pairs = []
    for number in sorted({index // 2 for index in whole}):
        two = [whole[index] for index in (2 * number, 2 * number + 1) if index in whole]
        if len(two) == 2:
            control, treatment = sorted(two, key=lambda block: block.arm)
            pairs.append(Pair(number, control, treatment))
    return pairs


def _by_index(blocks: Sequence[Block], design: Design) -> dict[int, Block]:
    by_index: dict[int, Block] = {}
    for block in blocks:
        if not 0 <= block.index < design.blocks or block.index in by_index:
            raise ValueError(f"block {block.index}: the design has blocks 0 to {design.blocks - 1}, each once")
        if block.arm != (drawn := design.arm_of(block.index)):
            of = "control" if drawn == CONTROL else "treatment"
            raise ValueError(f"block {block.index} belongs to the {of} by this design's seed, and was run under the other arm")
        by_index[block.index] = block
    return by_index


def _flaw(block: Block | None, index: int, metric: str) -> str:
    """Why a block cannot be analysed; empty: it can."""
    if block is None:
        return f"block {index} is missing"
    if not block.complete:
        return f"block {index} is incomplete: the proxy or its arm did not run for the whole of it"
    if block.unfinished > MOST_UNFINISHED * block.requests:
        return f"{block.unfinished} of the {block.requests} requests of block {index} had not ended long after it"
    if block.energy_j is None:
        return f"nobody knows the energy of block {index}"
    value = METRICS[metric](block)
    if value is None or value <= 0:
        return f"block {index} has nothing to divide by, or no energy"
    return ""
