"""Guardrails see what hangs, what one block breaks by itself, and no percentile of a handful."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.replicas import merge
from telemetry.blocks import Block
from telemetry.comparison import compare
from telemetry.design import TREATMENT, Design
from telemetry.guardrails import Guardrails, breaches
from tests.telemetry.test_comparison import blocks_of, changed, designed, noisy

DESIGN = designed()
BLOCKS = blocks_of(DESIGN, noisy(0.0))
FIRST = next(block.index for block in BLOCKS if block.arm == TREATMENT)
WAITS = Guardrails(wait_p99_s=2.0)


def test_a_treatment_that_hangs_requests_trips_and_is_in_no_effect() -> None:
    hung = changed(BLOCKS[:2], lambda block: replace(block, unfinished=60, completed=40, energy_j=None))
    found = compare(hung, DESIGN)
    assert (found.tripped, found.pairs) == (("unfinished",), 0)
    assert "60 of the 100 requests of block" in found.lost[0].why
    assert "had not ended long after it" in found.lost[0].why
    both = [replace(block, unfinished=60) for block in BLOCKS[:2]]
    assert not compare(both, DESIGN).tripped, "an engine that hangs under either arm is none of the treatment's doing"
    assert compare([replace(block, unfinished=1) for block in BLOCKS[:2]], DESIGN).pairs == 1


def test_few_that_hang_trip_in_the_long_run() -> None:
    some = changed(BLOCKS, lambda block: replace(block, unfinished=5))
    assert compare(some, DESIGN).tripped == ("unfinished",)


@pytest.mark.parametrize(
    ("name", "worse", "guardrails"),
    [
        ("errors", {"errors": 30}, Guardrails()),
        ("late", {"late": 30}, Guardrails()),
        ("unfinished", {"unfinished": 30}, Guardrails()),
        ("wait_p99_s", {"wait_p99_s": 6.5}, WAITS),
    ],
)
def test_what_one_block_breaks_by_itself_waits_for_no_pair(name: str, worse: dict[str, float], guardrails: Guardrails) -> None:
    """Whichever of the pair comes first, and also where it is the very first block."""
    for pairs in range(4):
        index = next(block.index for block in BLOCKS[2 * pairs : 2 * pairs + 2] if block.arm == TREATMENT)
        told = [*BLOCKS[:index], replace(BLOCKS[index], **worse)]  # type: ignore[arg-type]
        assert compare(told, DESIGN, guardrails=guardrails).tripped == (name,)
        off = {name: None, "ttft_p95": None}
        assert not breaches(told, Guardrails.of(guardrails.as_json() | off))


def test_what_the_control_does_as_well_is_no_breach() -> None:
    second = next(b.index for b in BLOCKS if b.arm == TREATMENT and b.index > FIRST + 1)
    bad = [replace(block, errors=50, wait_p99_s=9.0) for block in BLOCKS[: second + 1]]
    assert not breaches(bad, WAITS)
    few = [*bad[:-1], replace(bad[-1], requests=10, errors=10)]
    assert not breaches(few, Guardrails()), "half of ten is a handful"
    assert not breaches([replace(bad[-1], complete=False)], WAITS)


def test_a_percentile_of_a_handful_is_not_known_and_says_of_how_many() -> None:
    slow = changed(BLOCKS, lambda block: replace(block, ttft_p95_s=1.0))
    few = [replace(block, ttft_of=19, tpot_of=100) for block in slow]
    verdicts = {one.name: one for one in compare(few, DESIGN).guardrails}
    assert (verdicts["ttft_p95"].judgement, verdicts["ttft_p95"].pairs) == ("unknown", 0)
    assert verdicts["ttft_p95"].why == "ttft_p95: no pair tells it: it takes 20 in each of its blocks, and the fullest has 19"
    assert verdicts["tpot_p95"].pairs == DESIGN.pairs
    enough = [replace(block, ttft_of=20) for block in slow]
    assert "ttft_p95" in compare(enough, DESIGN).tripped


def test_a_replica_with_a_handful_of_streams_does_not_tell_the_percentile_of_all() -> None:
    block = Block(0, 0, 0.0, 10.0, requests=300, ttft_p95_s=0.2, ttft_of=200, tpot_p95_s=0.01, tpot_of=5)
    other = replace(block, requests=3, ttft_p95_s=0.9, ttft_of=3, tpot_p95_s=0.02, tpot_of=7, unfinished=2)
    both = merge({"a": block, "b": other}).block
    assert (both.ttft_p95_s, both.ttft_of) == (0.2, 200)
    assert (both.tpot_p95_s, both.tpot_of) == (0.02, 7), "where all had a handful, it is told as that"
    assert both.unfinished == 2
    assert merge({"a": block, "b": replace(other, ttft_of=20)}).block.ttft_p95_s == 0.9


def test_a_design_of_two_sides_is_watched_alike() -> None:
    beside = Design(1000.0, 60.0, 10.0, 4, parallel=True)
    blocks = [replace(block, errors=40 * block.arm) for block in blocks_of(beside, noisy(0.0))[:2]]
    assert "errors" in breaches(blocks, Guardrails())
