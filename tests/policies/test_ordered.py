"""Ordered: the inner policy says who, this one says in which order."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.base import InFlight, ServerView, View, Waiting
from policies.capped import Capped
from policies.fairness import service
from policies.held import Held
from policies.ordered import Ordered
from policies.passthrough import Passthrough
from policies.simulate import Arrival, simulate
from policies.size import Size
from policies.span import Span
from policies.spread import Spread
from policies.strategy import Strategy
from telemetry.cost import Linear, StepModel

MODEL = StepModel("toy", Linear(0.25, 0.0, 0.0, 0.0), Linear(2.0, 0.01, 0.01, 0.0), idle_power_w=100.0)

A = Waiting("a", 0.0, 90.0, 10, 90, tenant="t", priority=0)
B = Waiting("b", 1.0, 70.0, 10, 90, tenant="t", priority=1)
C = Waiting("c", 2.0, 80.0, 10, 90, tenant="u", priority=1)
D = Waiting("d", 3.0, 70.0, 10, 90, tenant="v", priority=0)


def view(who: Iterable[Waiting], flying: Iterable[Waiting] = ()) -> View:
    held = Held()
    for waiting in who:
        held.add(waiting)
    flights = {waiting.id: InFlight(waiting, "s", 0.0) for waiting in flying}
    return View(5.0, 0.0, held, flights, [ServerView("s", len(flights), 0, None)])


@pytest.mark.parametrize(
    ("by", "order"),
    [("fifo", "abcd"), ("priority", "bcad"), ("deadline", "bdca"), ("fair", "acdb")],
)
def test_orders(by: str, order: str) -> None:
    assert Ordered(Passthrough(), by).decide(view([A, B, C, D]), None).release == list(order)  # type: ignore[arg-type]


def test_fair_counts_what_is_in_flight_and_weights() -> None:
    flying = [Waiting("f", 0.0, 0.0, 10, 190, tenant="t"), Waiting("g", 0.0, 0.0, 10, 90, tenant="u", weight=4.0)]
    # u has 25, v nothing, t 200
    assert Ordered(Passthrough(), "fair").decide(view([A, B, C, D], flying), None).release == ["d", "c", "a", "b"]


def test_only_those_whom_the_inner_policy_lets_go() -> None:
    assert Ordered(Span(), "deadline").decide(view([A, B, C, D]), None).release == []


def test_whoever_was_let_go_and_is_still_there_keeps_his_place_by_the_order() -> None:
    policy = Ordered(Size(n=2, wait_s=50.0), "deadline")
    first = policy.decide(view([A, B]), None)
    assert first.release == ["b", "a"]
    assert policy.decide(view([A]), first.memory).release == ["a"]  # held back by whoever is around it
    assert policy.decide(view([A, C]), first.memory).release == ["c", "a"]


def test_under_a_cap_the_most_urgent_leaves_next() -> None:
    """Ten at once, two at a time: by deadline they leave in the order of their deadlines, whenever they came."""
    arrivals = [Arrival(Waiting(f"r{n}", n / 1000, 100.0 - n, 10, 4), 4) for n in range(10)]
    strategy = Strategy(Capped(Ordered(Passthrough(), "deadline"), in_flight=2), Spread(), "", "")
    run = simulate(arrivals, strategy, MODEL)
    left = sorted(run.served.values(), key=lambda served: served.released_at)
    assert [served.waiting.id for served in left[:2]] == ["r0", "r1"]  # they found it empty
    assert [served.waiting.id for served in left[2:]] == [f"r{n}" for n in range(9, 1, -1)]


requests = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 2), st.sampled_from("tuvw"), st.integers(1, 50))


@given(crowd=st.lists(requests, max_size=20), by=st.sampled_from(["fifo", "priority", "deadline", "fair"]))
def test_nobody_is_added_or_lost_and_tenants_take_turns(crowd: list[tuple[int, int, int, str, int]], by: str) -> None:
    who = [
        Waiting(f"r{n}", at, 10.0 + slack, tokens, tokens, priority=priority, tenant=tenant)
        for n, (at, slack, priority, tenant, tokens) in enumerate(sorted(crowd))
    ]
    release = Ordered(Passthrough(), by).decide(view(who), None).release  # type: ignore[arg-type]
    assert sorted(release) == sorted(waiting.id for waiting in who)
    if by == "fair":
        served = dict.fromkeys("tuvw", 0.0)
        by_id = {waiting.id: waiting for waiting in who}
        for n, id in enumerate(release):
            still = {by_id[other].tenant for other in release[n:]}
            assert served[by_id[id].tenant] == min(served[tenant] for tenant in still)
            served[by_id[id].tenant] += service(by_id[id])


def test_an_order_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="by must be fifo, priority, deadline or fair"):
        Ordered(Span(), "size")  # type: ignore[arg-type]
