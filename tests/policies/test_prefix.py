"""Prefix: who shares a beginning with one who leaves leaves with it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.base import Decision, InFlight, ServerView, View, Waiting
from policies.held import Held
from policies.pace import Pace
from policies.passthrough import Passthrough
from policies.prefix import Prefix
from policies.size import Size
from policies.span import Span


def waiting(id: str, prefix: bytes | None, deadline: float = 100.0) -> Waiting:
    return Waiting(id, 0.0, deadline, 10, 20, prefix=prefix)


def view(who: Iterable[Waiting], flying: Iterable[Waiting] = ()) -> View:
    held = Held()
    for one in who:
        held.add(one)
    return View(5.0, 0.0, held, {one.id: InFlight(one, "s", 0.0) for one in flying}, [ServerView("s", 0, 0, None)])


A, B, C = waiting("a", b"p"), waiting("b", b"q"), waiting("c", b"p")


def test_who_shares_the_prefix_goes_along() -> None:
    decision = Prefix(Pace(1.0)).decide(view([A, B, C]), None)
    assert decision == Decision(["a", "c"], wake_at=6.0, memory=5.0)


def test_an_unknown_prefix_takes_nobody_along() -> None:
    assert Prefix(Pace(1.0)).decide(view([waiting("x", None), waiting("y", None)]), None).release == ["x"]


def test_who_leaves_by_the_deadline_takes_others_along() -> None:
    """The room ends his hold, whatever the inner policy says."""
    due = waiting("due", b"p", deadline=5.0)
    assert Prefix(Size(9, 90.0)).decide(view([A, B, due]), None) == Decision(["a"], wake_at=90.0)


def test_no_more_than_most_of_one_prefix_and_the_oldest_first() -> None:
    who = [waiting(f"p{n}", b"p") for n in range(5)] + [waiting(f"q{n}", b"q") for n in range(5)]
    assert Prefix(Pace(1.0), most=3).decide(view(who), None).release == ["p0", "p1", "p2"]
    assert Prefix(Passthrough(), most=1).decide(view(who), None).release == [one.id for one in who]  # they leave anyway


def test_nobody_leaves_when_the_inner_policy_lets_nobody_go() -> None:
    assert Prefix(Span()).decide(view([A, B, C]), None) == Decision([], wake_at=100.0)


crowds = st.lists(st.tuples(st.sampled_from([b"p", b"q", None]), st.sampled_from([5.0, 100.0])), min_size=1, max_size=15)


@given(crowd=crowds, most=st.integers(1, 5))
def test_all_that_leave_have_a_reason(crowd: list[tuple[bytes | None, float]], most: int) -> None:
    who = {f"r{n}": waiting(f"r{n}", prefix, deadline) for n, (prefix, deadline) in enumerate(crowd)}
    inner = set(Pace(1.0).decide(view(who.values()), None).release)
    released = Prefix(Pace(1.0), most).decide(view(who.values()), None).release
    anyway = inner | {id for id, one in who.items() if one.deadline <= 5.0}
    assert inner <= set(released)
    assert len(set(released)) == len(released)
    reasons = {who[id].prefix for id in anyway} - {None}
    assert {who[id].prefix for id in set(released) - anyway} <= reasons
    for prefix in reasons:  # as many as may go, and no more
        sharing = {id for id, one in who.items() if one.prefix == prefix}
        together = sharing & (set(released) | anyway)
        assert len(together) == max(min(len(sharing), most), len(sharing & anyway))


def test_a_group_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="most must be at least 1"):
        Prefix(Span(), most=0)
