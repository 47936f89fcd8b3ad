"""Each placement in numbers: the servers' load and the group in, assignments out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.base import Placement, ServerView, View, Waiting
from policies.pack import Pack
from policies.room import Held
from policies.spread import Spread


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


def test_a_knee_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="knee"):
        Pack(0)


loads = st.lists(st.tuples(st.integers(0, 6), st.one_of(st.none(), st.integers(0, 6)), st.booleans()), max_size=4)


@given(placement=st.sampled_from([Spread(), Pack(1), Pack(3), Pack(64)]), n=st.integers(0, 20), loads=loads)
def test_no_slot_is_given_twice_and_none_is_left_while_somebody_waits(placement: Placement, n: int, loads: list[Any]) -> None:
    servers = [server(f"s{i}", busy, slots, healthy=healthy) for i, (busy, slots, healthy) in enumerate(loads)]
    plan = placement.place(group(n), view(*servers)).assignments
    assert plan == placement.place(group(n), view(*servers)).assignments
    given_to = {one.name: sum(name == one.name for name in plan.values()) for one in servers}
    assert all(given_to[one.name] <= one.free for one in servers)
    assert len(plan) == min(n, sum(one.free for one in servers))
    assert list(plan) == [f"r{i}" for i in range(len(plan))]  # first come, first served
