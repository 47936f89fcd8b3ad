"""Batch+ by duration: who takes whom along, and what that is worth where lengths are mixed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.base import Decision, Policy, View, Waiting
from policies.cohort import Cohort, Flags, duration
from policies.passthrough import Passthrough
from policies.room import Room
from policies.simulate import Arrival, Run, simulate
from policies.span import Span
from policies.spread import Spread
from policies.strategy import Strategy
from telemetry.cost import StepModel, load_profile
from tests.policies.test_policies import view

H200 = load_profile()


def waiting(id: str, deadline: float, tokens: int, at: float = 0.0) -> Waiting:
    return Waiting(id, at, deadline, 10, tokens)


LONG = waiting("long", 50.0, 500)
SHORT = waiting("short", 8.0, 20)
LIKE_SHORT = waiting("like short", 60.0, 17)


def test_nobody_leaves_before_somebody_must() -> None:
    decision = Cohort().decide(view(7.9, LONG, SHORT, LIKE_SHORT), None)
    assert (list(decision.release), decision.wake_at) == ([], 8.0)


def test_a_short_one_takes_its_like_along_and_no_longer_one() -> None:
    decision = Cohort().decide(view(8.0, LONG, SHORT, LIKE_SHORT), None)
    assert decision.release == ["short", "like short"]
    assert decision.memory == Flags({4: "short"}, 8.0)  # 16 to 32 steps


def test_a_long_one_takes_the_shorter_along() -> None:
    decision = Cohort().decide(view(50.0, LONG, waiting("s", 70.0, 20), waiting("longer", 70.0, 2000)), None)
    assert decision.release == ["long", "s"]


def test_who_comes_while_a_flag_runs_joins_if_it_is_no_longer() -> None:
    running = view(9.0, LONG, LIKE_SHORT, in_flight=["short"])
    decision = Cohort().decide(running, Flags({4: "short"}))
    assert decision.release == ["like short"]
    assert decision.memory == Flags({4: "short"}, 9.0)


def test_a_flag_that_ended_takes_nobody_along() -> None:
    decision = Cohort().decide(view(9.0, LONG, LIKE_SHORT), Flags({4: "short"}))
    assert decision == Decision(wake_at=50.0, memory=Flags())


def test_the_flag_of_several_that_must_leave_is_the_first_of_its_class() -> None:
    decision = Cohort().decide(view(9.0, waiting("b", 9.0, 20), waiting("a", 8.0, 20), waiting("c", 9.0, 500)), None)
    assert decision.memory == Flags({4: "a", 8: "c"}, 9.0)


def test_a_large_ratio_is_batch_plus() -> None:
    one_class = Cohort(ratio=1e9)
    assert one_class.decide(view(8.0, LONG, SHORT), None).release == Span().decide(view(8.0, LONG, SHORT), None).release


def test_durations_are_seconds_by_the_model_and_else_steps() -> None:
    assert duration(waiting("x", 0.0, 128), None) == 128
    assert duration(Waiting("x", 0.0, 0.0, 10, 128, expected_tokens=32.0), None) == 32
    assert duration(waiting("x", 0.0, 128), H200) == H200.alone_s(10, 128)


def test_a_long_prompt_makes_a_long_request_by_the_model() -> None:
    reader, talker = Waiting("reader", 0.0, 90.0, 60_000, 20), Waiting("talker", 0.0, 5.0, 10, 20)
    assert Cohort().decide(view(5.0, reader, talker), None).release == ["reader", "talker"]
    assert Cohort().decide(view(5.0, reader, talker, model=H200), None).release == ["talker"]


def run(arrivals: list[Arrival], policy: Policy) -> Run:
    return simulate(arrivals, Strategy(policy, Spread(), "", ""), H200)


def active_j(run: Run) -> float:
    """Joules net of idle a request."""
    return sum(served.energy_j for served in run.served.values()) / run.completed


def poisson(name: str, per_s: float, n: int, slack_s: float, tokens: int, seed: int) -> list[Arrival]:
    random, at, arrivals = Random(seed), 0.0, []
    for number in range(n):
        at += random.expovariate(per_s)
        arrivals.append(Arrival(Waiting(f"{name}{number}", at, at + slack_s, 256, tokens), tokens))
    return arrivals


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_short_ones_without_slack_start_no_long_ones_that_have_it(seed: int) -> None:
    arrivals = poisson("short", 0.5, 100, 0.0, 20, seed) + poisson("long", 0.3, 60, 30.0, 500, seed + 100)
    straight, span, cohort = (active_j(run(arrivals, policy)) for policy in (Passthrough(), Span(), Cohort()))
    assert cohort < 0.6 * span < 0.6 * straight


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_where_all_have_the_same_slack_it_costs_little(seed: int) -> None:
    """There a group of its own for each length is what it pays with; plain Batch+ is better by a bit."""
    arrivals = poisson("short", 0.5, 100, 30.0, 20, seed) + poisson("long", 0.3, 60, 30.0, 500, seed + 100)
    span, cohort = (active_j(run(arrivals, policy)) for policy in (Span(), Cohort()))
    assert cohort < 1.25 * span


def test_while_nobody_must_leave_it_looks_at_nobody() -> None:
    class Unlooked(Waiting):
        __slots__ = ()

        @property
        def output_tokens(self) -> float:
            raise AssertionError("was looked at")

    room = Room(Cohort(), Spread(), {"a": None})
    for number in range(100):
        room._held.add(Unlooked(f"r{number}", 0.0, 9.0, 10, 20))
    assert room.tick(1.0).fault is None
    assert room.held == 100


@dataclass(frozen=True, slots=True)
class Thorough:
    """The same, but it looks at everybody each time."""

    policy: Cohort

    def decide(self, view: View, memory: object) -> Decision:
        return self.policy.decide(view, replace(memory, looked_at=-inf) if isinstance(memory, Flags) else None)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 20), st.sampled_from([0.0, 1.0, 9.0]), st.sampled_from([3, 30, 300])), max_size=25))
def test_nobody_is_missed_by_looking_only_at_who_came_since(people: list[tuple[float, float, int]]) -> None:
    arrivals = [Arrival(Waiting(f"r{n}", at, at + slack, 10, tokens), tokens) for n, (at, slack, tokens) in enumerate(people)]
    runs = [run(arrivals, policy) for policy in (Cohort(), Thorough(Cohort()))]
    released = [{id: served.released_at for id, served in one.served.items()} for one in runs]
    assert released[0] == released[1]


def test_who_was_looked_at_is_not_looked_at_again() -> None:
    """While a flag runs, a tick that lets nobody go costs as much as those who came since the last."""
    old = [Waiting(f"old{n}", 0.0, 900.0, 10, 500) for n in range(50)]
    looked = {"old": 0}

    class Counting(Cohort):
        __slots__ = ()

        def _class(self, waiting: Waiting, model: StepModel | None) -> int:
            looked["old"] += waiting.id.startswith("old")
            return super()._class(waiting, model)

    asked = view(9.0, *old, waiting("new", 70.0, 17, at=8.9), in_flight=["short"])
    assert Counting().decide(asked, Flags({4: "short"}, 8.0)).release == ["new"]
    assert looked == {"old": 0}


def test_equal_lengths_are_batch_plus_to_the_instant() -> None:
    arrivals = poisson("r", 1.0, 80, 4.0, 100, 5)
    released = [
        {id: served.released_at for id, served in run(arrivals, policy).served.items()} for policy in (Cohort(), Span())
    ]
    assert released[0] == released[1]
    assert max(released[0].values()) < inf
