"""What has been told of an experiment, brought together and compared; a function of its arguments, for a thread."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from proxy.experiments.plan import Plan
from proxy.replicas import merge
from telemetry.blocks import Block
from telemetry.comparison import Comparison, compare
from telemetry.design import Design

log = logging.getLogger("paceline.experiment")

DRAWS = 10_000
SAME_S = 1e-3  # instants of one design, told by different replicas


def merged(
    parts: Mapping[int, Mapping[str, Block]], expected: Callable[[Block], Collection[str]], design: Design
) -> list[Block]:
    """Blocks as all replicas saw them, in order.

    Two replicas may have begun it under one name before they knew of each other: what the one counted that gave way is in
    blocks of another design, and those are not whole.
    """
    told = [index for index in sorted(parts) if 0 <= index < design.blocks]
    blocks = [merge(parts[index], expected(next(iter(parts[index].values())))).block for index in told]
    return [one if _is_of(one, design) else replace(one, arm=design.arm_of(one.index), complete=False) for one in blocks]


def seen(
    parts: Mapping[int, Mapping[str, Block]], replica: str, expected: Callable[[Block], Collection[str]], design: Design
) -> tuple[list[Block], list[Block]]:
    """Blocks as all replicas saw them, and as one did."""
    own = {index: {replica: of[replica]} for index, of in parts.items() if replica in of}
    return merged(parts, expected, design), merged(own, lambda block: (), design)


def _is_of(block: Block, design: Design) -> bool:
    starts, ends = design.start_unix_s(block.index), design.end_unix_s(block.index)
    off_s = max(abs(block.start_unix_s - starts), abs(block.end_unix_s - ends))
    return block.arm == design.arm_of(block.index) and off_s < SAME_S


def compared(plan: Plan, blocks: Sequence[Block]) -> Comparison:
    """What the blocks show; tens of milliseconds of reckoning, in a thread."""
    began = time.monotonic()
    result = compare(blocks, plan.design, metric=plan.metric, alpha=plan.alpha, guardrails=plan.guardrails, draws=DRAWS)
    log.debug("experiment %s: compared %d blocks in %.2f s", plan.name, len(blocks), time.monotonic() - began)
    return result
