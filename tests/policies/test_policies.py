"""Each policy in numbers, and what all of them have in common."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.adaptive import Adaptive
from policies.base import Decision, InFlight, Policy, ServerView, Tier, View, Waiting
from policies.capped import Capped
from policies.carbon import Carbon
from policies.cohort import Cohort
from policies.ordered import Ordered
from policies.pace import Pace
from policies.part import DEFERRABLE, PROMPT, Part
from policies.passthrough import Passthrough
from policies.prefix import Prefix
from policies.room import Held
from policies.simulate import Arrival, simulate
from policies.size import Size
from policies.span import Span
from policies.spread import Spread
from policies.strategy import POLICIES, Strategy
from policies.valley import Valley
from policies.window import Window
from telemetry.cost import Linear, StepModel
from telemetry.traffic import UNKNOWN_TRAFFIC, Traffic

MODEL = StepModel("toy", Linear(0.25, 0.0, 0.0, 0.0), Linear(2.0, 0.01, 0.01, 0.0), idle_power_w=100.0)


def view(
    now: float,
    *who: Waiting,
    in_flight: Iterable[str | Waiting] = (),
    model: StepModel | None = None,
    traffic: Traffic = UNKNOWN_TRAFFIC,
    wall_s: float | None = None,
) -> View:
    """A pool of one server; who is in flight left just now, and is interactive if only its id is given."""
    held = Held()
    for waiting in who:
        held.add(waiting)
    running = [Waiting(one, 0.0, 0.0, 1, 1) if isinstance(one, str) else one for one in in_flight]
    flights = {one.id: InFlight(one, "a", now) for one in running}
    servers = [ServerView("a", sum(one.sequences for one in running), 0, None)]
    return View(now, 1e9 + now if wall_s is None else wall_s, held, flights, servers, model=model, traffic=traffic)


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
        (Cohort, {"ratio": 1}),
        (Cohort, {"ratio": nan}),
        (Cohort, {"ratio": inf}),
        (Adaptive, {"wait_j_per_s": 0}),
        (Adaptive, {"wait_j_per_s": nan}),
        (Adaptive, {"wait_j_per_s": inf}),
        (Valley, {"slowdown": 0}),
        (Valley, {"slowdown": nan}),
        (Valley, {"prompt_tokens": 0}),
        (Valley, {"sequences": 0}),
    ],
)
def test_parameters_without_a_meaning_are_refused(policy: Any, params: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(params))):
        policy(**params)


# --- what all have in common -----------------------------------------------------------------------------------------


def hours(file: Path) -> Path:
    """Values that fall, rise, are unknown and fall again within the ten seconds in which things happen here."""
    file.write_text("when,grams\n1e9,400\n1000000003,300\n1000000005,\n1000000007,200\n1000000009,500\n")
    return file


@pytest.fixture(scope="module")
def grams(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(hours(tmp_path_factory.mktemp("carbon") / "hours.csv"))


quarters = st.integers(0, 40).map(lambda n: n / 4)
simple: st.SearchStrategy[Policy] = st.one_of(
    st.just(Passthrough()),
    st.just(Span()),
    st.builds(Window, st.sampled_from([0.3, 1.0, 7.0, inf])),
    st.builds(Size, st.integers(1, 4), quarters),
    st.builds(Pace, st.sampled_from([0.25, 1.0, 7.0])),
    st.builds(Cohort, st.sampled_from([1.1, 2.0, 100.0])),
    st.builds(Adaptive, st.sampled_from([0.01, 1.0, 10.0, 1000.0])),
)


def made_of(inner: st.SearchStrategy[Policy]) -> st.SearchStrategy[Policy]:
    return st.one_of(
        st.builds(Valley, inner, st.sampled_from([0.01, 0.1, 5.0]), st.sampled_from([1, 25, 1000]), st.integers(1, 4)),
        st.builds(Capped, inner, st.integers(1, 4)),
        st.builds(Capped, inner, st.none(), st.sampled_from([1, 40, 1000])),
        st.builds(Ordered, inner, st.sampled_from(["fifo", "priority", "deadline", "fair"])),
        st.builds(Prefix, inner, st.integers(1, 3)),
        st.builds(lambda policy, gain: ("carbon", policy, gain), inner, st.sampled_from([0.0, 0.1, 0.6])),
    )


def told(drawn: Any, file: str) -> Policy:
    """What was drawn, `carbon` with its file."""
    return Carbon(file, drawn[2], policy=told(drawn[1], file)) if isinstance(drawn, tuple) else drawn


anybody = st.one_of(simple, made_of(simple))
tiers = st.sampled_from(Tier)
crowds = st.lists(st.tuples(quarters, quarters, tiers, st.integers(1, 60)), min_size=1, max_size=12)
Crowd = list[tuple[float, float, Tier, int]]
memories = st.one_of(st.none(), quarters, st.just("r0"), st.just((None, "r0", inf)))
traffics = st.one_of(
    st.just(UNKNOWN_TRAFFIC), st.builds(lambda r: Traffic(r, r, 10, 20, 5.0), st.sampled_from([1e-9, 1.0, 1e3]))
)


def people(crowd: Crowd) -> list[Waiting]:
    """A crowd as requests, in order of arrival; some share a tenant, some a prefix."""
    return [
        Waiting(
            f"r{n + 1}", at, at + slack, prompt_tokens=lengths, max_new_tokens=lengths % 9 + 1, tier=tier,
            priority=lengths % 3, tenant="ab"[n % 2], prefix=(b"x", None)[lengths % 2],
        )
        for n, (at, slack, tier, lengths) in enumerate(sorted(crowd))
    ]  # fmt: skip


def test_all_built_in_policies_are_held_to_it() -> None:
    held_to_it = {"Passthrough", "Span", "Window", "Size", "Pace", "Cohort", "Adaptive", "Valley", "Carbon"}
    assert {path.rpartition(":")[2] for path in POLICIES.values()} == held_to_it | {"Capped", "Ordered", "Prefix"}


@settings(deadline=None)
@given(
    drawn=anybody,
    crowd=crowds,
    late=quarters,
    memory=memories,
    running=st.booleans(),
    model=st.sampled_from([None, MODEL]),
    traffic=traffics,
)
def test_equal_questions_have_equal_answers_about_those_who_wait(
    drawn: Any,
    crowd: Crowd,
    late: float,
    memory: object,
    running: bool,
    model: StepModel | None,
    traffic: Traffic,
    grams: str,
) -> None:
    policy, who = told(drawn, grams), people(crowd)
    now = who[-1].arrived_at + late
    asked = view(now, *who, in_flight=["r0"] if running else [], model=model, traffic=traffic)
    for _ in range(2):  # the second time it remembers what it said the first time
        first, second = policy.decide(asked, memory), policy.decide(asked, memory)
        assert first == second
        assert list(asked.waiting) == who
        assert len(set(first.release)) == len(first.release)
        assert set(first.release) <= {waiting.id for waiting in who}
        assert first.wake_at is None or not first.wake_at <= now
        memory = first.memory


@settings(deadline=None)
@given(drawn=anybody, crowd=crowds, hours_known=st.booleans())
def test_nobody_leaves_after_the_deadline_and_everybody_leaves(drawn: Any, crowd: Crowd, hours_known: bool, grams: str) -> None:
    arrivals = [Arrival(waiting, 3) for waiting in people(crowd)]
    run = simulate(arrivals, Strategy(told(drawn, grams), Spread(), "", ""), MODEL, wall_offset_s=1e9 if hours_known else 0.0)
    assert run.completed == len(arrivals)
    assert run.faults == 0
    assert all(0 <= served.wait_s <= served.waiting.deadline - served.waiting.arrived_at for served in run.served.values())


@given(crowd=crowds, instant=quarters, split=st.sampled_from([PROMPT, DEFERRABLE, tuple(Tier)]))
def test_a_part_of_a_queue_is_a_queue(crowd: Crowd, instant: float, split: tuple[Tier, ...]) -> None:
    who = people(crowd)
    part = Part(view(0.0, *who).waiting, split)
    own = [waiting for waiting in who if waiting.tier in split]
    assert sorted(part, key=who.index) == own
    assert [waiting.arrived_at for waiting in part] == [waiting.arrived_at for waiting in own]
    assert (len(part), part.prompt_tokens, part.max_new_tokens) == (
        len(own), sum(waiting.prompt_tokens for waiting in own), sum(waiting.max_new_tokens for waiting in own),
    )  # fmt: skip
    assert part.earliest_deadline == min((waiting.deadline for waiting in own), default=inf)
    assert part.oldest_arrival == min((waiting.arrived_at for waiting in own), default=inf)
    assert sorted(part.due_before(instant), key=who.index) == [waiting for waiting in own if waiting.deadline < instant]
    assert all((waiting.id in part) == (waiting in own) for waiting in who)
    for tier in Tier:
        assert list(part.of(tier)) == [waiting for waiting in own if waiting.tier is tier]
