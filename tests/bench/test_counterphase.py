"""Splits in counterphase, simulated: who counts where, what is false, what is found, and servers that are not alike."""

from __future__ import annotations

from math import log
from random import Random
from statistics import fmean, stdev

import pytest

from bench.experiments import simulated_blocks
from bench.truth.serving import counterphase_experiment, sides_apart, strategy, true_effect
from bench.truth.study import HOLDING, HUNGRIER, cells
from bench.truth.trials import trial
from policies.base import Waiting
from policies.sides import SplitRefused
from policies.simulate import Arrival
from telemetry.cost import Linear, StepModel
from telemetry.design import Design
from tests.bench.test_truth import bound

# a step lasts a second and costs 10 J, whoever is in it; idle power is 1 W
TOY = StepModel("toy", Linear(1.0, 0.0, 0.0, 0.0), Linear(10.0, 0.0, 0.0, 0.0), idle_power_w=1.0)
EXPERIMENTS, SHORT = 60, {"pairs": 8, "block_s": 20.0, "burn_in_s": 4.0}
UNLIKE = HUNGRIER["unlike"]


def on(server: str, id: str, at: float, tokens: int = 2) -> Arrival:
    """One that only this server can serve."""
    return Arrival(Waiting(id, at, at, 1, tokens, server=server), tokens)


def test_a_block_is_one_sides_requests_and_joules() -> None:
    design = Design(0.0, 10.0, 4.0, 1, parallel=True)
    coming = [
        on("engine-0", "burn-in", 3.0),  # its second step is in the analysed part
        on("engine-0", "inside", 6.0),
        on("engine-1", "other", 7.0, tokens=1),
        on("engine-1", "crossing", 8.0, tokens=4),
    ]
    same = strategy("passthrough")
    first, second = simulated_blocks(coming, same, same, design, TOY, servers=2)
    assert (first.index, second.index, {first.arm, second.arm}) == (0, 1, {0, 1})
    assert (first.start_unix_s, first.end_unix_s) == (second.start_unix_s, second.end_unix_s) == (0.0, 10.0)
    assert (first.burn_in_requests, first.requests, first.output_tokens) == (1, 1, 2)
    assert (first.burn_in_j, first.energy_j) == (4.0 + 10, 6.0 + 10 + 20)
    assert (first.carried_j, first.boundary_j) == (10.0, 0.0)
    assert (second.requests, second.output_tokens, second.crossing) == (2, 5, 1)
    assert (second.burn_in_j, second.energy_j) == (4.0, 6.0 + 10 + 20)
    assert (second.carried_j, second.boundary_j) == (0.0, 20.0)


def test_every_request_is_counted_once_and_one_server_has_no_sides() -> None:
    random, same = Random(1), strategy("span")
    design = Design(5.0, 10.0, 2.0, 4, 2, parallel=True)
    coming = [Arrival(Waiting(f"r{n}", at := 45 * random.random(), at + 2, 1, 3), 3) for n in range(200)]
    blocks = simulated_blocks(coming, same, strategy("passthrough"), design, TOY, servers=4)
    inside = sum(design.window_at(one.waiting.arrived_at) is not None for one in coming)
    assert [block.index for block in blocks] == list(range(8))
    assert sum(block.requests + block.burn_in_requests for block in blocks) == inside
    with pytest.raises(SplitRefused, match="each side needs a server"):
        simulated_blocks(coming, same, same, design, TOY)


@pytest.mark.timeout(300)
def test_where_nothing_differs_but_the_servers_nothing_is_found() -> None:
    """In half of the experiments they are alike; in the others fixed sides would call the hungrier server an effect."""
    found, apart = [], []
    for seed in range(EXPERIMENTS):
        times = (1.0, UNLIKE)[seed % 2]
        design, blocks = counterphase_experiment("passthrough", "passthrough", seed, hungrier=times, **SHORT)  # type: ignore[arg-type]
        found.append(trial(design, blocks, 0.0, HOLDING))
        apart += [sides_apart(design, blocks)] * (times == UNLIKE)
    for mark in ("watched", "adjusted_watched", "student", "randomised", "tripped"):
        assert sum(getattr(one, mark) for one in found) <= bound(EXPERIMENTS, 0.05), mark
    estimates = [one.estimate for one in found]
    assert abs(fmean(estimates)) < 4 * stdev(estimates) / EXPERIMENTS**0.5
    assert fmean(apart) == pytest.approx(log(UNLIKE), abs=0.05)
    assert fmean(value > 0 for value in apart) > 0.8


@pytest.mark.timeout(120)
def test_an_effect_is_found_and_is_the_same_on_servers_that_are_not_alike() -> None:
    truth, said = true_effect("passthrough", "span", seeds=1), []
    for seed in range(3):
        trials = [
            trial(*counterphase_experiment("passthrough", "span", seed, hungrier=times), truth, HOLDING)
            for times in HUNGRIER.values()
        ]
        alike, unlike = trials
        assert unlike.estimate == pytest.approx(alike.estimate, abs=1e-6), "what is the server's cancels in balanced strata"
        assert unlike.adjusted_found, "with equal servers it is seen at once"
        said.append(alike)
    assert sum(one.watched for one in said) >= 2
    assert all(one.covered for one in said)
    assert fmean(one.estimate for one in said) == pytest.approx(truth, abs=0.08)


def test_the_study_has_splits() -> None:
    kinds = {(cell.kind, cell.name) for cell in cells(20)}
    assert {(kind, "span against span") for kind in HUNGRIER} < kinds
