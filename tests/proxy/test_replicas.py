"""What several replicas know, brought together: in any order the same, and nothing counted twice."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.experiments.store import Part
from proxy.replicas import Known, Presence, by_id, merge, there
from telemetry.blocks import Block

BLOCK = Block(4, 0, 100.0, 110.0, energy_j=500.0, burn_in_j=50.0, source="counter", requests=10, output_tokens=200)
SILENT = replace(BLOCK, energy_j=None, burn_in_j=None, source="")


def test_counts_add_up_and_quantiles_are_the_worst() -> None:
    slow = replace(SILENT, requests=3, output_tokens=7, late=2, ttft_p95_s=0.4, arrival_rate=0.5)
    merged = merge({"a": replace(BLOCK, late=1, ttft_p95_s=0.2, arrival_rate=1.0), "b": slow}).block
    assert (merged.requests, merged.output_tokens, merged.late, merged.arrival_rate) == (13, 207, 3, 1.5)
    assert (merged.ttft_p95_s, merged.tpot_p95_s) == (0.4, None)
    assert merged.complete


def test_joules_come_from_whoever_metered_and_only_once() -> None:
    charged = replace(BLOCK, boundary_j=5.0, carried_j=4.0, temperature_c=50.0)
    merged = merge({"a": SILENT, "b": charged}).block
    assert (merged.energy_j, merged.burn_in_j, merged.boundary_j, merged.carried_j) == (500.0, 50.0, 5.0, 4.0)
    assert (merged.source, merged.temperature_c) == ("counter", 50.0)
    twice = merge({"a": replace(BLOCK, energy_j=505.0, source="power_integral"), "b": BLOCK})
    assert twice.block.energy_j == 500.0, "the stronger source"
    assert twice.notes == ()


def test_meters_that_disagree_are_believed_neither() -> None:
    merged = merge({"a": BLOCK, "b": replace(BLOCK, energy_j=700.0)})
    assert merged.block.energy_j is None
    assert merged.notes == ("meters of a, b disagree: 500.0 to 700.0 J",)


def test_modelled_joules_of_one_replica_are_not_those_of_all() -> None:
    modelled = replace(BLOCK, source="modelled")
    assert merge({"a": modelled}).block == modelled, "of one alone they are"
    merged = merge({"a": modelled, "b": modelled})
    assert merged.block.energy_j is None
    assert "modelled" in merged.notes[0]
    assert merge({"a": modelled, "b": BLOCK}).block.energy_j == 500.0


def test_a_block_is_not_whole_that_one_has_not_told_of_or_not_had_whole_or_had_otherwise() -> None:
    assert merge({"a": BLOCK}, {"a", "b"}).missing == ("b",)
    assert not merge({"a": BLOCK}, {"a", "b"}).block.complete
    assert merge({"a": BLOCK}, {"a"}).block.complete
    assert not merge({"a": BLOCK, "b": replace(SILENT, complete=False)}).block.complete
    other = merge({"a": BLOCK, "b": replace(SILENT, arm=1)})
    assert not other.block.complete
    assert "different arms" in other.notes[0]


def test_who_was_there_during_a_block() -> None:
    seen = {
        "before": (10.0, 99.0),
        "left": (10.0, 105.0),
        "through": (10.0, 200.0),
        "came": (105.0, 200.0),
        "after": (110.0, 200.0),
    }
    presences = {name: Presence("", *instants) for name, instants in seen.items()}
    assert there(presences, BLOCK) == {"left", "through", "came"}


KNOWN = st.builds(
    lambda revision, over, began, blocks, lines: Known(
        {"state": "stopped" if over else "running", "design": {"began_unix_s": began}},
        revision,
        {(index, name): Part(name, replace(BLOCK, index=index)) for index, name in blocks},
        by_id({"what": line} for line in lines),
    ),
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from([1.0, 2.0]),
    st.sets(st.tuples(st.integers(0, 3), st.sampled_from("abc"))),
    st.sets(st.sampled_from(["started", "block", "stopped"])),
)


@given(st.lists(KNOWN, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_in_whatever_order_replicas_tell_the_same_is_known_and_telling_again_changes_nothing(told, random) -> None:  # type: ignore[no-untyped-def]
    def all_of(several: list[Known]) -> Known:
        known = Known()
        for one in several:
            known = known.joined(one, "a")
        return known

    other = random.sample(told, len(told))
    assert all_of(told) == all_of(other) == all_of(told + other)
    whole = all_of(told)
    assert all(one.parts.keys() <= whole.parts.keys() and one.lines.keys() <= whole.lines.keys() for one in told)


@pytest.mark.parametrize("revision", [0, 9])
def test_nobody_goes_back_from_what_is_over(revision: int) -> None:
    over = Known({"state": "tripped", "design": {"began_unix_s": 1.0}}, 1)
    running = Known({"state": "running", "design": {"began_unix_s": 1.0}}, revision)
    assert over.joined(running, "a").state == running.joined(over, "a").state == over.state
    again = Known({"state": "running", "design": {"began_unix_s": 2.0}}, 0)
    assert over.joined(again, "a").state == again.joined(over, "a").state == over.state, "a name is its own for ever"
    assert running.joined(again, "a").state == again.joined(running, "a").state == running.state, "the first of two"
