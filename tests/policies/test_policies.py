"""Each policy in numbers, and what all of them have in common."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.base import Decision, InFlight, Policy, ServerView, View, Waiting
from policies.pace import Pace
from policies.passthrough import Passthrough
from policies.room import Held
from policies.simulate import Arrival, simulate
from policies.size import Size
from policies.span import Span
from policies.spread import Spread
from policies.strategy import POLICIES, Strategy
from policies.window import Window
from telemetry.cost import Linear, StepModel

MODEL = StepModel("toy", Linear(0.25, 0.0, 0.0, 0.0), Linear(2.0, 0.01, 0.01, 0.0), idle_power_w=100.0)


def view(now: float, *who: Waiting, in_flight: Iterable[str] = ()) -> View:
    held = Held()
    for waiting in who:
        held.add(waiting)
    flights = {id: InFlight(Waiting(id, 0.0, 0.0, 1, 1), "a", 0.0) for id in in_flight}
    return View(now, 1e9 + now, held, flights, [ServerView("a", len(flights), 0, None)])


def waiting(id: str, at: float = 0.0, deadline: float = 100.0) -> Waiting:
    return Waiting(id, at, deadline, 10, 20)


def test_passthrough_releases_everybody_at_once() -> None:
    assert Passthrough().decide(view(3.0, waiting("x"), waiting("y", 3.0)), None) == Decision(["x", "y"])


@pytest.mark.parametrize(
    ("now", "arrived", "released", "wake_at"),
    [
        (0.0, [0.0], ["r0"], 2.0),  # an instant that is a multiple belongs to the window that it closes
        (0.5, [0.5], [], 2.0),
        (1.999, [0.5, 1.0], [], 2.0),
        (2.0, [0.5, 1.0, 2.0], ["r0", "r1", "r2"], 4.0),
        (2.5, [0.5, 2.5], ["r0"], 4.0),  # asked late: who came after the instant waits for the next
        (9.0, [7.0], ["r0"], 10.0),
    ],
)
def test_window(now: float, arrived: list[float], released: list[str], wake_at: float) -> None:
    decision = Window(2.0).decide(view(now, *(waiting(f"r{n}", at) for n, at in enumerate(arrived))), None)
    assert decision == Decision(released, wake_at)


@pytest.mark.parametrize("every_s", [0.1, 0.3, 0.7, 1 / 3, 2.0])
def test_window_opens_at_every_instant_that_it_asked_to_be_woken_at(every_s: float) -> None:
    policy, now = Window(every_s), 0.05
    for _ in range(1000):
        wake_at = policy.decide(view(now), None).wake_at
        assert wake_at is not None
        assert now < wake_at <= now + every_s * 1.000001
        assert policy.decide(view(wake_at, waiting("x", now)), None).release == ["x"]
        now = wake_at


@pytest.mark.parametrize(
    ("now", "arrived", "decision"),
    [
        (0.0, [0.0], Decision(wake_at=5.0)),
        (4.0, [0.0, 4.0], Decision(wake_at=5.0)),
        (4.0, [0.0, 3.0, 4.0], Decision(["r0", "r1", "r2"])),
        (5.0, [0.0, 3.0], Decision(["r0", "r1"])),
        (6.0, [3.0], Decision(wake_at=8.0)),
    ],
)
def test_size(now: float, arrived: list[float], decision: Decision) -> None:
    assert Size(3, 5.0).decide(view(now, *(waiting(f"r{n}", at) for n, at in enumerate(arrived))), None) == decision


@pytest.mark.parametrize(
    ("now", "memory", "decision"),
    [
        (3.0, None, Decision(["x"], wake_at=3.5, memory=3.0)),
        (3.25, 3.0, Decision(wake_at=3.5, memory=3.0)),
        (3.5, 3.0, Decision(["x"], wake_at=4.0, memory=3.5)),
        (9.0, 3.0, Decision(["x"], wake_at=9.5, memory=9.0)),
        (3.0, "another policy's", Decision(["x"], wake_at=3.5, memory=3.0)),
    ],
)
def test_pace_releases_the_oldest_and_then_waits(now: float, memory: object, decision: Decision) -> None:
    assert Pace(0.5).decide(view(now, waiting("x"), waiting("y", 1.0)), memory) == decision


@pytest.mark.parametrize(
    ("now", "in_flight", "memory", "decision"),
    [
        (3.0, [], None, Decision(wake_at=8.0)),  # nobody must leave yet
        (8.0, [], None, Decision(["x", "y"], memory="y")),  # y must, and takes x along
        (9.0, [], None, Decision(["x", "y"], memory="y")),  # asked late
        (3.0, ["flag"], "flag", Decision(["x", "y"], memory="flag")),  # the one that set it off still runs
        (3.0, ["other"], "flag", Decision(wake_at=8.0)),  # it has ended; who came meanwhile and runs does not count
        (3.0, ["other"], None, Decision(wake_at=8.0)),
    ],
)
def test_span(now: float, in_flight: list[str], memory: object, decision: Decision) -> None:
    assert Span().decide(view(now, waiting("x", 0.0, 50.0), waiting("y", 1.0, 8.0), in_flight=in_flight), memory) == decision


def test_span_without_slack_is_a_straight_line_through() -> None:
    assert Span().decide(view(3.0, waiting("x", 3.0, 3.0)), None).release == ["x"]


@pytest.mark.parametrize(
    ("policy", "params"),
    [
        (Window, {"every_s": 0}),
        (Window, {"every_s": nan}),
        (Size, {"n": 0}),
        (Size, {"wait_s": -1}),
        (Size, {"wait_s": nan}),
        (Pace, {"every_s": 0}),
        (Pace, {"every_s": nan}),
    ],
)
def test_parameters_without_a_meaning_are_refused(policy: Any, params: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(params))):
        policy(**params)


# --- what all have in common -----------------------------------------------------------------------------------------

quarters = st.integers(0, 40).map(lambda n: n / 4)
anybody: st.SearchStrategy[Policy] = st.one_of(
    st.just(Passthrough()),
    st.just(Span()),
    st.builds(Window, st.sampled_from([0.3, 1.0, 7.0, inf])),
    st.builds(Size, st.integers(1, 4), quarters),
    st.builds(Pace, st.sampled_from([0.25, 1.0, 7.0])),
)
crowds = st.lists(st.tuples(quarters, quarters), min_size=1, max_size=12)


def test_all_built_in_policies_are_held_to_it() -> None:
    assert {path.rpartition(":")[2] for path in POLICIES.values()} == {"Passthrough", "Span", "Window", "Size", "Pace"}


@given(policy=anybody, crowd=crowds, late=quarters, memory=st.one_of(st.none(), quarters, st.just("r0")), running=st.booleans())
def test_equal_questions_have_equal_answers_about_those_who_wait(
    policy: Policy, crowd: list[tuple[float, float]], late: float, memory: object, running: bool
) -> None:
    who = [waiting(f"r{n + 1}", at, at + slack) for n, (at, slack) in enumerate(sorted(crowd))]
    now = who[-1].arrived_at + late
    asked = view(now, *who, in_flight=["r0"] if running else [])
    first, second = policy.decide(asked, memory), policy.decide(asked, memory)
    assert first == second
    assert list(asked.waiting) == who
    assert len(set(first.release)) == len(first.release)
    assert set(first.release) <= {waiting.id for waiting in who}
    assert first.wake_at is None or not first.wake_at <= now


@settings(deadline=None)
@given(policy=anybody, crowd=crowds)
def test_nobody_leaves_after_the_deadline_and_everybody_leaves(policy: Policy, crowd: list[tuple[float, float]]) -> None:
    arrivals = [Arrival(waiting(f"r{n}", at, at + slack), 3) for n, (at, slack) in enumerate(sorted(crowd))]
    run = simulate(arrivals, Strategy(policy, Spread(), "", ""), MODEL)
    assert run.completed == len(arrivals)
    assert run.faults == 0
    assert all(0 <= served.wait_s <= served.waiting.deadline - served.waiting.arrived_at for served in run.served.values())
