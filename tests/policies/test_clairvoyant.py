"""The clairvoyant optimum: exact where everything can be tried, and below whatever any policy does."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.base import Waiting
from policies.clairvoyant import Replay, clairvoyant
from policies.minimum_span import Flexible, TooLarge, minimum_span
from policies.pack import Pack
from policies.passthrough import Passthrough
from policies.simulate import Arrival, Run, simulate
from policies.size import Size
from policies.span import Span
from policies.spread import Spread
from policies.strategy import Strategy
from policies.window import Window
from telemetry.cost import Linear, StepModel

BASE_ONLY = StepModel("toy", Linear(1.0, 0.0, 0.0, 0.0), Linear(10.0, 0.0, 0.0, 0.0), idle_power_w=1.0)
WHOLE = StepModel(
    "whole",
    Linear(0.25, 0.03, 0.02, 0.001),
    Linear(2.0, 0.3, 0.1, 0.01),
    idle_power_w=5.0,
    request_s=0.1,
    max_sequences=4,
    max_step_tokens=16,
)


def strategy(policy: object, placement: object = Spread()) -> Strategy:
    return Strategy(policy, placement, "", "")  # type: ignore[arg-type]


def active_j(run: Run) -> float:
    return sum(served.energy_j for served in run.served.values())


def arrival(id: str, at: float, slack: float, prompt: int, out: int, sequences: int = 1) -> Arrival:
    return Arrival(Waiting(id, at, at + slack, prompt, 99, sequences=sequences), out)


flexible = st.builds(
    lambda earliest, window, length: Flexible(earliest, earliest + window, length),
    st.integers(0, 14),
    st.sampled_from((0, 0, 1, 2, 5, 7)),
    st.sampled_from((1, 1, 2, 3, 6, 9)),
)


def measure(intervals: list[tuple[float, float]]) -> float:
    """Of their union."""
    total, reached = 0.0, -inf
    for begin, end in sorted(intervals):
        total += max(end - max(begin, reached), 0)
        reached = max(reached, end)
    return total


@settings(max_examples=250, deadline=None)
@given(jobs=st.lists(flexible, min_size=1, max_size=5))
def test_the_span_is_the_least_of_all_that_can_be_tried(jobs: list[Flexible]) -> None:
    windows = [range(int(job.earliest), int(job.latest) + 1) for job in jobs]
    tried = (
        measure([(start, start + job.length) for start, job in zip(starts, jobs, strict=True)]) for starts in product(*windows)
    )
    found = minimum_span(jobs)
    assert found.span == min(tried)


def test_who_must_begin_the_next_interval_in_one_state_need_not_be_in_that_of_another() -> None:
    """The one of three rides with that of two at 4, though it could wait for 9, where only one short one must run."""
    jobs = [Flexible(1, 2, 1), Flexible(4, 4, 2), Flexible(4, 9, 3), Flexible(9, 9, 1)]
    assert minimum_span(jobs).span == 1 + 3 + 1


@given(jobs=st.lists(flexible, min_size=1, max_size=30))
def test_the_intervals_hold_every_job_and_add_up_to_the_span(jobs: list[Flexible]) -> None:
    found = minimum_span(jobs)
    assert measure(list(found.begins_ends)) == found.span == sum(end - begin for begin, end in found.begins_ends)
    for job in jobs:
        begin, end = found.begins_ends[found.group(job)]
        start = max(begin, job.earliest)
        assert start <= job.latest
        assert start + job.length <= end


def test_too_many_states_are_told() -> None:
    jobs = [Flexible(float(n), n + 5.0, 1 + n % 7) for n in range(50)]
    with pytest.raises(TooLarge, match="more than 3 states"):
        minimum_span(jobs, most_states=3)


whole = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3), st.integers(1, 5)), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(crowd=whole)
def test_the_steps_are_the_fewest_of_all_that_can_be_tried(crowd: list[tuple[int, int, int]]) -> None:
    """With steps of a second and arrivals at whole seconds, releases at whole seconds are all that matter."""
    arrivals = [arrival(f"r{n}", at, slack, 1, out) for n, (at, slack, out) in enumerate(crowd)]
    tried = product(*(range(at, at + slack + 1) for at, slack, _ in crowd))
    plans = ({f"r{n}": float(at) for n, at in enumerate(chosen)} for chosen in tried)
    best = min(active_j(simulate(arrivals, strategy(Replay(plan)), BASE_ONLY)) for plan in plans)
    optimum = clairvoyant(arrivals, BASE_ONLY)
    assert optimum.active_j == pytest.approx(best)
    assert active_j(simulate(arrivals, strategy(Replay(optimum.releases)), BASE_ONLY)) == pytest.approx(best)


quarters = st.integers(0, 40).map(lambda n: n / 4)
crowds = st.lists(
    st.tuples(quarters, quarters, st.integers(1, 40), st.integers(1, 12), st.integers(1, 3)), min_size=1, max_size=12
)
policies = st.sampled_from([Passthrough(), Span(), Window(1.5), Size(3, 2.0), "random"])


@settings(max_examples=200, deadline=None)
@given(
    crowd=crowds,
    policy=policies,
    placement=st.sampled_from([Spread(), Pack(2)]),
    servers=st.integers(1, 3),
    fractions=st.lists(st.floats(0, 1), min_size=12, max_size=12),
)
def test_no_schedule_is_below_the_bound(
    crowd: list[tuple[float, float, int, int, int]], policy: object, placement: object, servers: int, fractions: list[float]
) -> None:
    arrivals = [arrival(f"r{n}", *told) for n, told in enumerate(crowd)]
    if policy == "random":
        windows = zip(arrivals, fractions, strict=False)
        policy = Replay({a.waiting.id: a.waiting.arrived_at + part * _slack_s(a) for a, part in windows})
    run = simulate(arrivals, strategy(policy, placement), WHOLE, servers=servers)
    optimum = clairvoyant(arrivals, WHOLE)
    assert optimum.active_j <= active_j(run) * (1 + 1e-9)
    assert optimum.fixed_j == pytest.approx(active_j(run) - WHOLE.step_j.base * _steps(run, arrivals))


def _slack_s(one: Arrival) -> float:
    return one.waiting.deadline - one.waiting.arrived_at


def _steps(run: Run, arrivals: list[Arrival]) -> float:
    """How many steps the engines did, from the joules that are left when all else is taken away."""
    rest = active_j(run)
    for one in arrivals:
        prompt = one.waiting.prompt_tokens
        each, more = divmod(one.output_tokens, one.waiting.sequences)
        for number in range(one.waiting.sequences):
            tokens = max(each + (number < more), 1)
            context = sum(prompt + 1 + n for n in range(tokens - 1))
            rest -= WHOLE.step_j(tokens, prompt, context) - WHOLE.step_j.base
    steps = rest / WHOLE.step_j.base
    assert steps == pytest.approx(round(steps), abs=1e-6)
    return round(steps)


def test_nobody_is_late_in_the_schedule_that_it_gives() -> None:
    arrivals = [arrival(f"r{n}", n * 0.7, 2.0 + n % 3, 5 + n, 3 + 5 * (n % 4)) for n in range(40)]
    optimum = clairvoyant(arrivals, WHOLE)
    run = simulate(arrivals, strategy(Replay(optimum.releases)), WHOLE)
    for served in run.served.values():
        assert served.waiting.arrived_at <= served.released_at <= served.waiting.deadline
    straight = simulate(arrivals, strategy(Passthrough()), WHOLE)
    assert optimum.active_j <= active_j(run) < active_j(straight)


def test_nobody_costs_nothing() -> None:
    optimum = clairvoyant([], WHOLE)
    assert (optimum.active_j, optimum.steps, optimum.releases) == (0.0, 0.0, {})


def test_work_that_may_wait_long_is_not_counted_again_and_again() -> None:
    """Half may wait for ten minutes, half not at all: the bound stays near what its own schedule reaches."""
    light = replace(WHOLE, step_s=Linear(0.25, 0.003, 0.002, 0.0001), max_sequences=64)
    arrivals = [arrival(f"r{n}", n * 3.0, 600.0 * (n % 2), 8, 20) for n in range(200)]
    optimum = clairvoyant(arrivals, light)
    reached = active_j(simulate(arrivals, strategy(Replay(optimum.releases)), light))
    assert optimum.active_j <= reached <= 1.02 * optimum.active_j
