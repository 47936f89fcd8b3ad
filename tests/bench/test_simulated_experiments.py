"""Simulated experiments: every request once, every joule in its block, and an effect that is there is found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.experiments import simulated_blocks
from policies.base import Plan, View, Waiting
from policies.simulate import Arrival, simulate
from policies.strategy import Choice, Strategy, build
from policies.switchback import switchback
from telemetry.blocks import Block
from telemetry.cost import Linear, StepModel, load_profile
from telemetry.design import CONTROL, TREATMENT, Design

# a step lasts a second and costs 10 J, whoever is in it; idle power is 1 W
TOY = StepModel("toy", Linear(1.0, 0.0, 0.0, 0.0), Linear(10.0, 0.0, 0.0, 0.0), idle_power_w=1.0)
EPOCH_S = 1.7e9
STEP_J = 80.0  # no step of the built-in profile in which twenty of these prompts are costs more


def strategy(name: str, **params: object) -> Strategy:
    return build(Choice(name, params), Choice("spread", {}))


def arrival(id: str, at: float, *, slack: float = 0.0, tokens: int = 2) -> Arrival:
    return Arrival(Waiting(id, at, at + slack, 1, tokens), tokens)


def poisson(seed: int, per_s: float, until_s: float, slack_s: float = 0.0) -> list[Arrival]:
    random, at, coming = Random(seed), 0.0, list[Arrival]()
    while (at := at + random.expovariate(per_s)) < until_s:
        coming.append(Arrival(Waiting(f"r{len(coming)}", at, at + slack_s, 256, 128), random.randint(32, 128)))
    return coming


def test_a_small_world_reckoned_by_hand() -> None:
    design = Design(0.0, 10.0, 4.0, 1)
    coming = [
        arrival("burn-in", 3.0, tokens=2),  # its second step is in the analysed part
        arrival("inside", 6.0, tokens=2),
        arrival("crossing", 8.0, tokens=4),  # two steps in this block, two in the next one's burn-in
        arrival("next", 17.0, tokens=1),
        arrival("after", 21.0, tokens=1),
    ]
    first, second = simulated_blocks(coming, strategy("passthrough"), strategy("span"), design, TOY)
    assert (first.requests, first.burn_in_requests, first.completed, first.crossing, first.output_tokens) == (2, 1, 2, 1, 6)
    assert (first.burn_in_j, first.energy_j) == (14.0, 6.0 + 10 + 20 + 20)
    assert (first.boundary_j, first.carried_j) == (20.0, 10.0)
    assert (first.ttft_p95_s, first.tpot_p95_s, first.wait_p99_s, first.arrival_rate) == (1.0, 1.0, 0.0, 2 / 6)
    assert (second.requests, second.burn_in_j, second.energy_j) == (1, 4.0 + 20, 6.0 + 10)
    assert (second.boundary_j, second.carried_j, second.crossing, second.source) == (0.0, 0.0, 0, "simulated")
    assert {first.arm, second.arm} == {CONTROL, TREATMENT}
    assert (first.end_unix_s, second.start_unix_s, second.end_unix_s) == (10.0, 10.0, 20.0)
    assert Block.of(first.as_json()) == first


def test_who_gets_no_slot_in_time_is_an_error_and_late() -> None:
    coming = [arrival("long", 1.0, tokens=8), arrival("waits", 2.0), arrival("in vain", 2.0)]
    design = Design(0.0, 30.0, 0.0, 1)
    blocks = simulated_blocks(
        coming, strategy("passthrough"), strategy("passthrough"), design, TOY, slots=1, queue_timeout_s=8.0
    )  # fmt: skip
    assert (blocks[0].requests, blocks[0].completed, blocks[0].errors, blocks[0].late) == (3, 2, 1, 2)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000), per_s=st.sampled_from([0.2, 1.0, 3.0]), burn_in_s=st.sampled_from([0.0, 2.5]),
    offset_s=st.sampled_from([0.0, EPOCH_S]),
    treatment=st.sampled_from(["span", "passthrough", "adaptive"]), servers=st.integers(1, 2),
)  # fmt: skip
def test_requests_and_joules_are_conserved(
    seed: int, per_s: float, burn_in_s: float, offset_s: float, treatment: str, servers: int
) -> None:
    model = load_profile()
    design = Design(offset_s, 12.5, burn_in_s, 4, seed)
    coming = poisson(seed, per_s, 100.0, slack_s=3.0)
    blocks = simulated_blocks(
        coming, strategy("passthrough"), strategy(treatment), design, model, wall_offset_s=offset_s, servers=servers
    )  # fmt: skip
    assert [block.index for block in blocks] == list(range(8))
    assert sum(block.requests + block.burn_in_requests for block in blocks) == len(coming)
    assert sum(block.completed for block in blocks) == sum(block.requests for block in blocks)
    chosen = switchback(design, strategy("passthrough"), strategy(treatment))
    served = simulate(coming, chosen, model, servers=servers, wall_offset_s=offset_s).served.values()
    idle_j = servers * model.idle_power_w * (design.block_s - burn_in_s)
    for block in blocks:
        since = block.start_unix_s + burn_in_s
        own_j = sum(one.energy_j for one in served if since <= one.waiting.arrived_at + offset_s < block.end_unix_s)
        # all that is above idle is somebody's; a step that is under way at a border is in the counter and nobody's yet
        assert block.energy_j == pytest.approx(idle_j + own_j - block.boundary_j + block.carried_j, abs=servers * STEP_J)


def test_of_several_sequences_each_is_charged_up_to_the_border() -> None:
    both = Arrival(Waiting("two", 7.0, 7.0, 1, 6, sequences=2), 8)
    uneven = Arrival(Waiting("uneven", 7.0, 7.0, 1, 6, sequences=2), 6 + 1)
    first, second = simulated_blocks([both], strategy("passthrough"), strategy("passthrough"), Design(0.0, 10.0, 0.0, 1), TOY)
    assert (first.boundary_j, second.carried_j, first.energy_j) == (10.0, 10.0, 10.0 + 30)
    first, _ = simulated_blocks([uneven], strategy("passthrough"), strategy("passthrough"), Design(0.0, 9.0, 0.0, 1), TOY)
    assert (first.boundary_j, first.output_tokens) == (20.0, 7), "the shorter one ended with the third step"


def test_an_a_a_test_is_of_the_same_blocks_whatever_was_drawn() -> None:
    coming = poisson(1, 1.0, 200.0)
    same = strategy("passthrough")
    found = [simulated_blocks(coming, same, same, Design(0.0, 20.0, 5.0, 5, seed), load_profile()) for seed in (1, 2)]
    assert [block.arm for block in found[0]] != [block.arm for block in found[1]]
    for one, other in zip(*found, strict=True):
        assert one.energy_j == pytest.approx(other.energy_j)
        assert replace(one, arm=0, energy_j=0, burn_in_j=0) == replace(other, arm=0, energy_j=0, burn_in_j=0)


def test_holding_for_company_shows() -> None:
    coming = poisson(4, 1.0, 1_250.0, slack_s=5.0)
    design = Design(10.0, 60.0, 15.0, 10, seed=3)
    borders: list[float] = []
    blocks = simulated_blocks(coming, strategy("passthrough"), strategy("span"), design, load_profile(), watch=borders.append)
    joules = [sum(b.energy_j or 0 for b in blocks if b.arm == arm) for arm in (CONTROL, TREATMENT)]
    tokens = [sum(b.output_tokens for b in blocks if b.arm == arm) for arm in (CONTROL, TREATMENT)]
    assert joules[TREATMENT] / tokens[TREATMENT] < 0.8 * joules[CONTROL] / tokens[CONTROL]
    assert all((block.wait_p99_s or 0) > 3.0 for block in blocks if block.arm == TREATMENT)
    assert all(block.wait_p99_s == 0.0 for block in blocks if block.arm == CONTROL)
    assert borders[:2] == [10.0, 25.0]


def test_somebody_who_is_sent_nowhere_is_told() -> None:
    @dataclass(frozen=True)
    class Nowhere:
        def place(self, group: object, view: View) -> Plan:
            return Plan()

    nowhere = Strategy(strategy("span").policy, Nowhere(), "span", "nowhere")
    with pytest.raises(ValueError, match="1 requests never leave"):
        simulated_blocks([arrival("x", 1.0)], nowhere, nowhere, Design(0.0, 10.0, 0.0, 1), TOY)


def test_no_arrivals_are_blocks_that_only_idle() -> None:
    blocks = simulated_blocks([], strategy("span"), strategy("passthrough"), Design(5.0, 10.0, 4.0, 1), TOY)
    assert [(b.energy_j, b.burn_in_j, b.requests, b.ttft_p95_s, b.j_per_token) for b in blocks] == [
        (6.0, 4.0, 0, None, None)
    ] * 2
