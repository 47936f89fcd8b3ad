"""How long blocks should be: nothing that the former arm left is counted, and no block is too short to hold anything."""

from __future__ import annotations

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.block_length import advised, advised_block_s, advised_burn_in_s
from telemetry.ledger import Entry
from telemetry.traffic import Traffic


def entry(lasted_s: float, slack_s: float = 0.0, held_s: float = 0.0, *, ended: bool = True) -> Entry:
    return Entry(
        "x", 10.0, 1e9, slack_s=slack_s, held_s=held_s, released_at=10.0 + held_s, ended_at=10.0 + lasted_s if ended else None
    )  # fmt: skip


def test_the_recipe() -> None:
    assert advised_burn_in_s(20.0) == 80.0
    assert advised_block_s(1.0, 1.0) == 300.0, "the floor"
    assert advised_block_s(100.0, 1.0) == 500.0, "five latencies"
    assert advised_block_s(1.0, 200.0) == 520.0, "half of it analysed"
    assert advised_block_s(1.0, 40.0, per_s=0.05) == 500.0, "twenty requests after the burn-in"
    assert advised_block_s(1.0, 40.0, per_s=1e-6) == 3600.0, "nobody waits for a trickle for ever"
    assert advised_block_s(1.0, 1.0, floor_s=10.0) == 122.0


@given(st.floats(0, 1e5), st.floats(0, 1e5), st.one_of(st.none(), st.floats(0, 1e3)))
def test_at_least_half_of_a_block_is_analysed(p99_s: float, drain_s: float, per_s: float | None) -> None:
    assert advised_block_s(p99_s, drain_s, per_s=per_s) >= max(2 * advised_burn_in_s(drain_s), 5 * p99_s, 300.0)


@pytest.mark.parametrize("bad", [-1.0, inf, nan])
def test_what_is_no_length_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="p99_latency_s must be at least 0, and finite"):
        advised_block_s(bad, 1.0)
    with pytest.raises(ValueError, match="drain_s"):
        advised_burn_in_s(bad)


def test_from_what_ended_lately() -> None:
    entries = [entry(float(n)) for n in range(1, 101)] + [entry(1e6, ended=False)]
    found = advised(entries)
    assert (found.requests, found.p99_latency_s, found.drain_s) == (100, 99.0, 99.0)
    assert (found.block_s, found.burn_in_s) == (495, 159)
    assert found.why == "of 100 requests 99 % took at most 99.0 s, and 99.0 s if held as long as they allow"


def test_another_arm_may_hold_each_to_its_deadline() -> None:
    found = advised([entry(2.0, slack_s=30.0), entry(25.0, slack_s=30.0, held_s=24.0)])
    assert found.drain_s == 32.0
    assert found.burn_in_s == 92
    assert advised([entry(40.0, slack_s=30.0, held_s=38.0)]).drain_s == 40.0, "no hold longer than its slack is taken off"


def test_before_anybody_has_ended() -> None:
    found = advised([entry(5.0, ended=False)], Traffic(per_s=0.1, slack_s=45.0))
    assert (found.p99_latency_s, found.requests, found.burn_in_s, found.block_s) == (None, 0, 105, 305)
    assert "no request has ended yet" in found.why
