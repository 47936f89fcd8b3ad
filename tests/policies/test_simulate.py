"""The simulator: small worlds whose every instant and joule can be reckoned by hand."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.base import Decision, Outcome, Plan, View, Waiting
from policies.pack import Pack
from policies.passthrough import Passthrough
from policies.simulate import Arrival, Run, simulate
from policies.size import Size
from policies.span import Span
from policies.spread import Spread
from policies.strategy import Strategy
from policies.window import Window
from telemetry.cost import Linear, StepModel

# a step lasts a second and costs 10 J, whoever is in it; idle power is 1 W
MODEL = StepModel("toy", Linear(1.0, 0.0, 0.0, 0.0), Linear(10.0, 0.0, 0.0, 0.0), idle_power_w=1.0)


def arrival(id: str, at: float, *, slack: float = 0.0, tokens: int = 2, priority: int = 0) -> Arrival:
    return Arrival(Waiting(id, at, at + slack, 1, tokens, priority=priority), tokens)


def strategy(policy: object, placement: object = Spread()) -> Strategy:
    return Strategy(policy, placement, "", "")  # type: ignore[arg-type]


def times(run: Run) -> dict[str, tuple[float, float, float]]:
    """Released, first token, end."""
    return {id: (served.released_at, served.first_token_at, served.ended_at) for id, served in run.served.items()}


def test_one_request() -> None:
    run = simulate([arrival("x", 3.0, tokens=4)], strategy(Passthrough()), MODEL)
    (served,) = run.served.values()
    assert times(run) == {"x": (3.0, 4.0, 7.0)}
    assert (served.wait_s, served.ttft_s, served.tpot_s) == (0.0, 1.0, 1.0)
    assert (served.outcome, served.server, served.energy_j) == (Outcome.POLICY, "engine-0", 40.0)
    assert (run.ended_at, run.energy_j, run.joules_per_request) == (7.0, {"engine-0": 47.0}, 47.0)
    assert run.groups() == [1]


def test_nothing_happens_without_arrivals() -> None:
    run = simulate([], strategy(Span()), MODEL, until=10.0)
    assert (run.served, run.completed, run.energy_j) == ({}, 0, {"engine-0": 10.0})


def test_waiting_for_each_other_halves_the_joules() -> None:
    arrivals = [arrival("x", 0.0, slack=2.0), arrival("y", 2.0)]
    apart = simulate(arrivals, strategy(Passthrough()), MODEL, until=4.0)
    assert times(apart) == {"x": (0.0, 1.0, 2.0), "y": (2.0, 3.0, 4.0)}
    assert apart.joules_per_request == (40 + 4) / 2
    together = simulate(arrivals, strategy(Span()), MODEL, until=4.0)
    assert times(together) == {"x": (2.0, 3.0, 4.0), "y": (2.0, 3.0, 4.0)}
    assert together.joules_per_request == (20 + 4) / 2
    assert together.groups() == [2]


def test_who_comes_while_the_flag_runs_joins_at_once() -> None:
    arrivals = [arrival("flag", 0.0, tokens=4), arrival("joins", 1.5, slack=50.0), arrival("waits", 4.5, slack=2.0)]
    run = simulate(arrivals, strategy(Span()), MODEL)
    assert times(run)["joins"] == (1.5, 3.0, 4.0)  # its prompt is in the step from 2 to 3
    assert times(run)["waits"] == (6.5, 7.5, 8.5)


def test_outcomes_tell_the_policy_from_the_deadline() -> None:
    run = simulate([arrival("x", 0.5, slack=0.25), arrival("y", 0.5, slack=9.0)], strategy(Window(2.0)), MODEL)
    assert {id: (served.outcome, served.released_at) for id, served in run.served.items()} == {
        "x": (Outcome.DEADLINE, 0.75),
        "y": (Outcome.POLICY, 2.0),
    }


def test_one_slot_serves_by_priority_and_then_in_order() -> None:
    arrivals = [arrival("a", 0.0), arrival("b", 0.5), arrival("c", 0.75), arrival("first", 1.0, priority=1)]
    run = simulate(arrivals, strategy(Passthrough()), MODEL, slots=1)
    assert [run.served[id].released_at for id in ("a", "first", "b", "c")] == [0.0, 2.0, 4.0, 6.0]


def test_who_finds_no_slot_in_time_is_sent_away() -> None:
    run = simulate(
        [arrival("a", 0.0, tokens=9), arrival("b", 1.0)], strategy(Passthrough()), MODEL, slots=1, queue_timeout_s=3.0
    )
    assert (run.served["b"].outcome, run.served["b"].ended_at, run.completed) == (Outcome.EXPIRED, inf, 1)
    assert run.joules_per_request == 90 + 9


def test_a_request_of_several_answers_is_several_sequences_and_ends_with_the_longest() -> None:
    several = Arrival(Waiting("n", 0.0, 0.0, 1, 9, sequences=3), 7)  # of 3, 2 and 2 tokens
    run = simulate([several, arrival("x", 2.5, tokens=2)], strategy(Passthrough()), MODEL, slots=3)
    assert times(run)["n"] == (0.0, 1.0, 3.0)
    assert times(run)["x"] == (3.0, 4.0, 5.0)  # its three slots are free together
    assert run.served["n"].energy_j == pytest.approx(30.0)
    assert run.served["n"].tpot_s == pytest.approx(2 / (7 / 3 - 1))


def test_refused_to_the_last_ends_with_the_last() -> None:
    run = simulate([arrival("a", 1.0)], strategy(Passthrough()), MODEL, slots=0, queue_timeout_s=3.0)
    assert (run.served["a"].outcome, run.ended_at, run.energy_j) == (Outcome.EXPIRED, 4.0, {"engine-0": 4.0})


def test_spreading_and_packing() -> None:
    arrivals = [arrival("x", 0.0, tokens=4), arrival("y", 1.5, tokens=2)]
    spread = simulate(arrivals, strategy(Passthrough(), Spread()), MODEL, servers=2, until=4.0)
    packed = simulate(arrivals, strategy(Passthrough(), Pack(2)), MODEL, servers=2, until=4.0)
    assert [served.server for served in spread.served.values()] == ["engine-0", "engine-1"]
    assert spread.energy_j == {"engine-0": 44.0, "engine-1": 24.0}
    assert [served.server for served in packed.served.values()] == ["engine-0", "engine-0"]
    assert packed.energy_j == {"engine-0": 44.0, "engine-1": 4.0}


def test_faults_are_counted_and_cost_nobody() -> None:
    @dataclass(frozen=True)
    class Broken:
        def decide(self, view: View, memory: object) -> Decision:
            raise RuntimeError("broken")

    run = simulate([arrival("x", 0.0, slack=9.0), arrival("y", 5.0, slack=9.0)], strategy(Broken()), MODEL)
    assert (run.faults, run.completed) == (2, 2)
    assert {served.outcome for served in run.served.values()} == {Outcome.FAULT}


def test_arrivals_may_be_told_in_any_order() -> None:
    forward = [arrival(f"r{n}", float(n), slack=2.0) for n in range(5)]
    there, back = (simulate(told, strategy(Size(2, 1.5)), MODEL) for told in (forward, forward[::-1]))
    assert times(there) == times(back)


quarters = st.integers(0, 40).map(lambda n: n / 4)
crowds = st.lists(st.tuples(quarters, quarters, st.integers(1, 9)), min_size=1, max_size=15)
strategies = st.builds(
    strategy,
    st.sampled_from([Passthrough(), Span(), Window(1.5), Size(3, 2.0)]),
    st.sampled_from([Spread(), Pack(2)]),
)


@settings(deadline=None)
@given(crowd=crowds, chosen=strategies, servers=st.integers(1, 3), slots=st.sampled_from([None, 1, 2]))
def test_everybody_is_served_and_every_joule_is_somebodys(
    crowd: list[tuple[float, float, int]], chosen: Strategy, servers: int, slots: int | None
) -> None:
    arrivals = [arrival(f"r{n}", at, slack=slack, tokens=tokens) for n, (at, slack, tokens) in enumerate(crowd)]
    run = simulate(arrivals, chosen, MODEL, servers=servers, slots=slots)
    assert run.completed == len(arrivals)
    assert sum(run.groups()) == len(arrivals)
    assert run.ended_at == max(served.ended_at for served in run.served.values())
    active_j = sum(served.energy_j for served in run.served.values())
    assert sum(run.energy_j.values()) == pytest.approx(active_j + servers * MODEL.idle_power_w * run.ended_at)
    for served in run.served.values():
        assert served.waiting.arrived_at <= served.released_at < served.first_token_at <= served.ended_at
        if slots is not None:
            here = [other for other in run.served.values() if other.server == served.server]
            assert sum(other.released_at <= served.released_at < other.ended_at for other in here) <= slots


class Nowhere:
    def place(self, group: object, view: View) -> Plan:
        return Plan()


def test_who_is_sent_nowhere_is_told_and_not_waited_for_for_ever() -> None:
    with pytest.raises(ValueError, match="2 requests never leave"):
        simulate([arrival("x", 0.0), arrival("y", 1.0)], strategy(Passthrough(), Nowhere()), MODEL)
