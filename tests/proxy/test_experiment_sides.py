"""An experiment with two sides at a time: what its blocks count, what is kept of it, and what stands against it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from policies.sides import Split, SplitRefused
from policies.split import sides_of
from proxy.config import Experiment
from proxy.experiments.count import Counting, Joules, block_of
from proxy.experiments.devices import Devices
from proxy.experiments.plan import Plan, plan
from telemetry.design import Design
from telemetry.traffic import UNKNOWN_TRAFFIC
from tests.end_to_end.paceline import paceline
from tests.end_to_end.test_experiment import experiment
from tests.proxy.test_experiment import entry

DESIGN = Design(began_unix_s=1_000.0, block_s=10.0, burn_in_s=2.0, pairs=2, parallel=True)
SPLIT = Split(("a",), ("b",))
APART = {"a": ["0"], "b": ["1"]}


def part(named: Sequence[str], seed: int) -> Split:
    return sides_of(named, APART, seed)


def planned(**changes: Any) -> Plan:
    asked = Experiment.model_validate(experiment(**{"split": {}, **changes}))
    return plan(asked, "default", 1_000.0, [], UNKNOWN_TRAFFIC, part)


def test_a_request_is_of_its_sides_block_and_a_stranger_only_where_it_runs() -> None:
    counting = Counting(DESIGN, SPLIT.side_with)
    early, own, moved = (entry(id, 1_001.0 if id == "early" else 1_004.0, 9.0) for id in ("early", "own", "moved"))
    assert counting.arrived(early, 1_001.0, side=0) is None
    early.server, own.server, moved.server = "a", "b", "a"
    early.energy.active_uj = 1_000_000
    for index in (0, 1):
        counting.began(index)
    assert counting.arrived(own, 1_004.0, side=1) == counting.arrived(moved, 1_004.0, side=1) == 1
    early.energy.active_uj = 4_000_000
    for index in (0, 1):
        counting.ended(index)
    for one in (early, own, moved):
        counting.final(one)
    first, second = counting.of(0), counting.of(1)
    assert (first.burn_in_requests, first.requests, second.requests) == (1, 0, 2)
    assert (first.carried_uj, second.carried_uj) == (3_000_000, 0)
    assert (first.moved, second.moved) == (0, 1), "it went to a server of side A"
    block = block_of(1, DESIGN, second)
    assert (block.start_unix_s, block.end_unix_s, block.completed) == (1_000.0, 1_010.0, 2)


def test_joules_of_a_side_are_cut_at_its_own_borders() -> None:
    counting = Counting(DESIGN, SPLIT.side_with)
    for side, watts in ((0, 1), (1, 3)):
        meter = Joules(counting, 5.0, lambda since, upto, watts=watts: (round(watts * (upto - since) * 1e6), "counter"))  # type: ignore[misc]
        meter.begin(side, 1_000.0)
        for at in (1_004.0, 1_008.5, 1_013.0, 1_017.5, 1_020.0):
            meter.settled(at, 0.0)
    found = [(counting.of(index).burn_in_uj, counting.of(index).energy_uj) for index in range(DESIGN.blocks)]
    assert found == [(2_000_000, 8_000_000), (6_000_000, 24_000_000)] * 2


def test_a_split_is_the_same_after_it_was_kept_and_an_older_state_is_none() -> None:
    made = planned()
    assert made.split == Split(("a",), ("b",), seed=made.design.seed)
    assert Plan.of(made.as_json()) == made
    assert (made.strategy().policy_name, planned(split=None).strategy().policy_name) == ("split", "switchback")
    old = planned(split=None).as_json()
    del old["split"], old["design"]["parallel"]
    assert Plan.of(old) == planned(split=None)
    with pytest.raises(ValueError, match="needs the servers of both its sides"):
        Plan.of({**made.as_json(), "split": None})


def test_each_side_has_the_arm_that_the_other_has_not() -> None:
    made = planned()
    for window in range(made.design.windows):
        rules = made.ruling(made.design.window_starts_unix_s(window) + 1.0)
        assert {one.arm for one in rules} == {0, 1}
        assert [one.arm for one in rules] == [made.design.arm_of(index) for index in made.design.blocks_in(window)]
    assert [one.arm for one in made.ruling(made.design.ends_unix_s)] == [0, 0], "then control"


def test_what_cannot_be_parted_is_refused() -> None:
    with pytest.raises(SplitRefused, match="split: there is no server x; there are a, b"):
        planned(split={"side": ("x",)})
    asked = Experiment.model_validate(experiment(split={}))
    with pytest.raises(SplitRefused, match="servers are not parted here"):
        plan(asked, "default", 1_000.0, [], UNKNOWN_TRAFFIC)


async def test_devices_are_those_of_a_side_and_another_set_of_servers_is_told() -> None:
    async with paceline(engines=2) as running:
        assert running.app.energy is not None
        devices = Devices(running.app.energy, running.app.fleet.default)
        split = devices.split((), 3)
        assert [[domain.upstreams for domain in side.domains] for side in devices.of_sides(split)] == [
            [(engine.url,)] for engine in running.engines
        ]
        assert devices.of_sides(None) == (devices,)
        devices.check(split)
        with pytest.raises(SplitRefused, match="there is no server gone"):
            devices.check(Split((running.engines[0].url,), ("gone",)))
