"""Each placement in numbers: the servers' load and the group in, assignments out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.affine import Affine
from policies.base import Placement, ServerState, ServerView, View, Waiting
from policies.pack import Pack
from policies.room import Held
from policies.sleepy import Sleepy
from policies.spread import Spread
from telemetry.cost import Linear, StepModel


def view(*servers: ServerView) -> View:
    return View(0.0, 0.0, Held(), {}, servers)


def server(name: str, in_flight: int = 0, slots: int | None = None, tokens: int = 0, *, healthy: bool = True) -> ServerView:
    return ServerView(name, in_flight, tokens, slots, healthy)


def group(n: int, tokens: int = 10) -> list[Waiting]:
    return [Waiting(f"r{i}", 0.0, 0.0, tokens, tokens) for i in range(n)]


def placed(placement: Placement, n: int, *servers: ServerView) -> str:
    """Each one's server in order, "-" for who goes on waiting; servers have names of one letter."""
    plan = placement.place(group(n), view(*servers)).assignments
    assert plan.keys() <= {waiting.id for waiting in group(n)}
    return "".join(plan.get(f"r{i}", "-") for i in range(n))


@pytest.mark.parametrize(
    ("n", "servers", "expected"),
    [
        (4, [server("a"), server("b")], "abab"),
        (3, [server("a", 2), server("b", 0)], "bba"),
        (3, [server("a", 2), server("b", 0), server("c", 2)], "bba"),
        (2, [server("a", 1, tokens=500), server("b", 1, tokens=100)], "ba"),  # as many requests: the fewer tokens
        (3, [server("a", 0, slots=1), server("b", 5)], "abb"),
        (3, [server("a", 0, slots=1), server("b", 1, slots=2)], "ab-"),
        (2, [server("a", healthy=False), server("b", 9)], "bb"),
        (2, [server("a", 3, slots=2), server("b", 2, slots=2)], "--"),  # slots were lowered meanwhile
        (2, [], "--"),
    ],
)
def test_spread(n: int, servers: list[ServerView], expected: str) -> None:
    assert placed(Spread(), n, *servers) == expected


@pytest.mark.parametrize(
    ("n", "servers", "expected"),
    [
        (3, [server("a"), server("b")], "aaa"),
        (3, [server("a", 2), server("b", 0)], "abb"),  # knee 3: one more for a, then b is the fullest below
        (3, [server("a", 1), server("b", 2)], "baa"),
        (4, [server("a", 3), server("b", 2)], "baba"),  # past the knee: the emptiest
        (3, [server("a", 0, slots=1), server("b", 0)], "abb"),
        (3, [server("a", 2, slots=2), server("b", 1, slots=3)], "bb-"),
        (2, [server("a", 2, healthy=False), server("b", 0)], "bb"),
        (2, [], "--"),
    ],
)
def test_pack_with_a_knee_of_three(n: int, servers: list[ServerView], expected: str) -> None:
    assert placed(Pack(3), n, *servers) == expected


@pytest.mark.parametrize("params", [{"knee": 0}, {"tokens": 0}, {"tpot_ms": 0.0}, {"tpot_ms": float("nan")}])
def test_parameters_that_would_leave_every_server_full_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(params))):
        Pack(**params)


@pytest.mark.parametrize(
    ("n", "servers", "expected"),
    [
        (4, [server("a"), server("b")], "aaab"),  # each has 20
        (2, [server("a", 1, tokens=50), server("b")], "bb"),
        (1, [server("a", 1, tokens=40), server("b")], "a"),
        (2, [server("a", 9, tokens=60), server("b", 2, tokens=60)], "bb"),  # all are full: the emptiest
    ],
)
def test_a_server_is_full_with_more_tokens_than_it_shall_have(n: int, servers: list[ServerView], expected: str) -> None:
    assert placed(Pack(tokens=60), n, *servers) == expected


def test_one_that_is_larger_than_the_bound_on_tokens_goes_to_an_empty_server() -> None:
    assert placed(Pack(tokens=5), 2, server("a"), server("b")) == "ab"


# a step takes 10 ms, and 1 ms more for each sequence
STEPS = StepModel("steps", Linear(0.010, 0.001, 0.0, 0.0), Linear(1.0, 0.0, 0.0, 0.0), idle_power_w=1.0)


@pytest.mark.parametrize(
    ("tpot_ms", "observed_s", "model", "expected"),
    [
        (15.0, None, STEPS, "aaab"),  # two and three more make 15 ms there, and the next would be too many
        (15.0, 0.024, STEPS, "bbbb"),  # twice as slow as the model says of the two that are there
        (30.0, 0.024, STEPS, "aaab"),  # ... and so is what it says of more: 26, 28 and 30 ms
        (15.0, 0.024, None, "bbbb"),  # what was observed will do
        (15.0, 0.012, None, "aaaa"),
        (15.0, None, None, "aaaa"),  # nobody knows
    ],
)
def test_a_server_that_is_too_slow_is_full(
    tpot_ms: float, observed_s: float | None, model: StepModel | None, expected: str
) -> None:
    slow = replace(server("a", 2), tpot_s=observed_s)
    plan = Pack(tpot_ms=tpot_ms).place(group(4), replace(view(slow, server("b")), model=model)).assignments
    assert "".join(plan.values()) == expected


def test_nobody_is_placed_on_a_server_that_is_not_awake() -> None:
    for state in ServerState:
        servers = [replace(server("a", 0), state=state), server("b")]
        assert placed(Pack(), 1, *servers) == ("a" if state is ServerState.AWAKE else "b")


PLACEMENTS = [Spread(), Pack(1), Pack(3), Pack(), Pack(3, tokens=50, tpot_ms=5.0), Affine(), Affine(by="session"), Sleepy()]
loads = st.lists(st.tuples(st.integers(0, 6), st.one_of(st.none(), st.integers(0, 6)), st.booleans()), max_size=4)


@given(placement=st.sampled_from(PLACEMENTS), n=st.integers(0, 20), loads=loads)
def test_no_slot_is_given_twice_and_none_is_left_while_somebody_waits(placement: Placement, n: int, loads: list[Any]) -> None:
    servers = [server(f"s{i}", busy, slots, healthy=healthy) for i, (busy, slots, healthy) in enumerate(loads)]
    plan = placement.place(group(n), view(*servers)).assignments
    assert plan == placement.place(group(n), view(*servers)).assignments
    given_to = {one.name: sum(name == one.name for name in plan.values()) for one in servers}
    assert all(given_to[one.name] <= one.free for one in servers)
    assert len(plan) == min(n, sum(one.free for one in servers))
    assert list(plan) == [f"r{i}" for i in range(len(plan))]  # first come, first served
