"""One switchback in slices: strata of one design, each run as an experiment of its own when there is time for it.

Device time comes in pieces, and an experiment's blocks are bound to the clock, so all that fell between two pieces would be
lost. So each stratum of the whole design is its own short experiment; its seed is the first that draws just the orders
which the whole design's seed drew for that stratum. Put side by side again they are the whole design's blocks, in the order and
under the arms that were decided before the first, and are analysed as if nothing had been between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from bench.ab.document import FINISHED, RUNNING, STOPPED, Document
from telemetry.blocks import Block
from telemetry.design import Design, orders

SEEDS_TRIED = 100_000


def strata(whole: Design) -> range:
    """Numbers of its slices."""
    return range(-(-whole.pairs // whole.pairs_per_stratum))


def slice_of(whole: Design, number: int) -> Design:
    """The design of one slice, but for when it begins.

    Raises:
        ValueError: no seed draws these orders, which can only be if a stratum is very long.
    """
    first = number * whole.pairs_per_stratum
    wanted = orders(whole)[first : first + whole.pairs_per_stratum]
    like = replace(whole, pairs=len(wanted))
    for seed in range(SEEDS_TRIED):
        if orders(found := replace(like, seed=seed)) == wanted:
            return found
    raise ValueError(f"no seed below {SEEDS_TRIED} draws the orders of slice {number}; make strata shorter")


def joined(whole: Design, name: str, slices: Sequence[tuple[int, Document]]) -> Document:
    """The slices that are over as one experiment; blocks of those that were not run, or not to their ends, are lost.

    Args:
        whole: the design that they are slices of.
        name: of the whole.
        slices: their numbers, and what they came to.

    Raises:
        ValueError: there is none.
    """
    if not slices:
        raise ValueError("no slice is over yet")
    done = [document for _, document in slices]
    began = min(document.design.began_unix_s for document in done)
    state, why = _state(slices, len(strata(whole)))
    return replace(
        done[-1],
        name=name,
        state=state,
        why=why,
        design=replace(whole, began_unix_s=began),
        now=None,
        blocks=tuple(sorted(_renumbered(whole, slices), key=lambda block: block.index)),
        logged=tuple(line for document in done for line in document.logged),
    )


def _state(slices: Sequence[tuple[int, Document]], planned: int) -> tuple[str, str]:
    """Finished is what all of its slices are; what was cut off is not made again, so it never will be."""
    cut = [f"slice {number} is {one.state}{f' ({one.why})' if one.why else ''}" for number, one in slices if not one.finished]
    if len(slices) < planned:
        return RUNNING, "; ".join([f"{planned - len(slices)} of {planned} slices are still to come", *cut])
    return (STOPPED, "; ".join(cut)) if cut else (FINISHED, "")


def _renumbered(whole: Design, slices: Sequence[tuple[int, Document]]) -> Iterator[Block]:
    for number, document in slices:
        first = 2 * number * whole.pairs_per_stratum
        yield from (replace(block, index=first + block.index) for block in document.blocks)
