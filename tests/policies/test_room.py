"""The room by hand: who leaves when, what nonsense costs, and what ten thousand who wait cost."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import inf, nan
from typing import Any

import pytest

from policies.base import Decision, Outcome, Plan, Policy, View, Waiting
from policies.passthrough import Passthrough
from policies.room import SPARE, Held, Room, Tick
from policies.size import Size
from policies.span import Span
from policies.spread import Spread
from policies.window import Window


def room(policy: Any = None, slots: int | None = 1, **options: Any) -> Room:
    return Room(policy or Passthrough(), options.pop("placement", Spread()), {"a": slots}, **options)


def waiting(id: str, at: float = 0.0, slack: float = 0.0, priority: int = 0) -> Waiting:
    return Waiting(id, at, at + slack, 10, 20, priority=priority)


def left(tick: Tick) -> list[str]:
    return [leaving.waiting.id for leaving in tick.leaving]


@dataclass(frozen=True)
class Only:
    """Releases what it is told, and does nothing else."""

    release: tuple[Any, ...] = ()
    wake_at: Any = None

    def decide(self, view: View, memory: object) -> Decision:
        return Decision(self.release, self.wake_at)


def test_by_priority_and_then_by_readiness() -> None:
    full = room(slots=0)
    for id, priority in [("low", -1), ("first", 0), ("second", 0), ("high", 2)]:
        assert full.admit(waiting(id, priority=priority))
        full.tick(0.0)
    order = []
    full.set_slots("a", 1)
    for n in range(4):
        (id,) = left(full.tick(float(n)))
        full.ended(id, 0.0)
        order.append(id)
    assert order == ["high", "first", "second", "low"]


def test_readiness_counts_from_the_end_of_the_hold_and_not_from_arrival() -> None:
    full = room(Only(("later",)), slots=0)
    full.admit(waiting("earlier", slack=10))
    full.admit(waiting("later", slack=10))
    full.tick(0.0)
    full.use(Passthrough(), Spread())
    full.tick(1.0)
    full.set_slots("a", 1)
    assert left(full.tick(2.0)) == ["later"]


def test_the_two_waits_are_told_apart() -> None:
    pool = room(Size(2, 100.0))
    pool.admit(waiting("x", 0.0, 50))
    assert pool.tick(0.0).leaving == []
    pool.admit(waiting("y", 3.0, 50))
    (x,) = pool.tick(3.0).leaving
    assert (x.waiting.id, x.outcome, x.held_s, x.queued_s) == ("x", Outcome.POLICY, 3.0, 0.0)
    pool.ended("x", 0.0)
    (y,) = pool.tick(7.0).leaving
    assert (y.waiting.id, y.held_s, y.queued_s) == ("y", 0.0, 4.0)


def test_a_deadline_ends_the_hold_and_not_the_wait_for_a_slot() -> None:
    full = room(Only(), slots=0, queue_timeout_s=5.0)
    full.admit(waiting("x", 0.0, 2.0))
    assert full.tick(0.0).wake_at == 2.0
    tick = full.tick(2.0)
    assert (left(tick), full.ready, tick.wake_at) == ([], 1, 7.0)
    assert [expired.id for expired in full.tick(7.0).expired] == ["x"]


def test_who_was_let_go_before_his_deadline_is_not_refused_before_it() -> None:
    full = room(slots=0, queue_timeout_s=5.0)
    full.admit(waiting("long", slack=3600.0))
    full.admit(waiting("short", 1.0))
    full.tick(1.0)
    assert [expired.id for expired in full.tick(6.0).expired] == ["short"]
    assert full.tick(3604.9).expired == []
    assert [expired.id for expired in full.tick(3605.0).expired] == ["long"]


def test_a_slot_at_the_very_instant_of_the_timeout_is_still_in_time() -> None:
    full = room(slots=0, queue_timeout_s=5.0)
    full.admit(waiting("x"))
    full.tick(0.0)
    full.set_slots("a", 1)
    tick = full.tick(5.0)
    assert (left(tick), tick.expired) == (["x"], [])


@pytest.mark.parametrize("wake_at", ["soon", [], object()])
def test_a_policy_that_wakes_at_nonsense_is_at_fault(wake_at: object) -> None:
    pool = room(Only(wake_at=wake_at))
    pool.admit(waiting("x", slack=9))
    tick = pool.tick(0.0)
    assert isinstance(tick.fault, TypeError | ValueError)
    assert [leaving.outcome for leaving in tick.leaving] == [Outcome.FAULT]


@pytest.mark.parametrize("wake_at", [-1.0, 0.0, nan, inf, -inf, None])
def test_a_wake_that_is_no_future_instant_is_ignored(wake_at: float | None) -> None:
    pool = room(Only(wake_at=wake_at))
    pool.admit(waiting("x", slack=9))
    tick = pool.tick(0.0)
    assert (tick.wake_at, tick.fault) == (9.0, None)


@dataclass(frozen=True)
class Places:
    """Answers with something that may be no plan."""

    plan: Any

    def place(self, group: Sequence[Waiting], view: View) -> Any:
        return self.plan


@pytest.mark.parametrize("plan", [None, Plan(None), 7])  # type: ignore[arg-type]
def test_a_placement_that_makes_no_plan_is_at_fault_and_costs_nobody(plan: object) -> None:
    pool = room(placement=Places(plan), slots=None)
    pool.admit(waiting("x"))
    tick = pool.tick(0.0)
    assert tick.fault is not None
    assert left(tick) == ["x"]


@pytest.mark.parametrize("server", ["nowhere", None, []])
def test_whom_a_placement_sends_nowhere_waits_on_and_is_not_lost(server: Any) -> None:
    pool = room(placement=Places(Plan({"x": server})), slots=None)
    pool.admit(waiting("x"))
    assert left(pool.tick(0.0)) == []
    pool.use(Passthrough(), Spread())
    assert left(pool.tick(1.0)) == ["x"]


def test_an_id_that_comes_back_has_a_new_deadline_and_a_new_turn() -> None:
    pool = room(Only(), slots=0, queue_timeout_s=5.0)
    pool.admit(waiting("x", 0.0, 1.0))
    pool.cancel("x")
    pool.admit(waiting("x", 0.0, 3.0))
    assert pool.tick(0.5).wake_at == 3.0
    assert (pool.tick(3.0).wake_at, pool.ready) == (8.0, 1)
    pool.cancel("x")
    pool.admit(waiting("x", 4.0, 0.0))
    assert pool.tick(4.0).wake_at == 9.0  # and not at 8, when the former x would have expired
    pool.set_slots("a", None)
    assert left(pool.tick(5.0)) == ["x"]
    assert pool.in_flight == 1


def test_a_new_strategy_remembers_nothing_of_the_former() -> None:
    @dataclass(frozen=True)
    class Remembers:
        seen: list[object] = field(default_factory=list)

        def decide(self, view: View, memory: object) -> Decision:
            self.seen.append(memory)
            return Decision(memory=view.now)

    policy = Remembers()
    pool = room(policy)
    pool.admit(waiting("x", slack=99))
    pool.tick(1.0)
    pool.tick(2.0)
    pool.use(policy, Spread())
    pool.tick(3.0)
    assert policy.seen == [None, 1.0, None]


# --- cost ------------------------------------------------------------------------------------------------------------


class CountedHeld(Held):
    """Counts how many of the held are looked at."""

    looks = 0

    def __iter__(self) -> Iterator[Waiting]:
        for waiting in super().__iter__():
            self.looks += 1
            yield waiting


@pytest.mark.parametrize("policy", [Span(), Size(n=20_000, wait_s=1e6), Window(every_s=1e6), Only()])
def test_a_tick_that_releases_nobody_looks_at_nobody_and_copies_nothing(policy: Policy) -> None:
    full = room(slots=0)
    held = full._held = CountedHeld()
    for n in range(10_000):
        full.admit(waiting(f"ready-{n}"))
    full.tick(1.0)
    for n in range(10_000):
        full.admit(waiting(f"held-{n}", at=2.0, slack=1000.0 + n))
    full.use(policy, Spread())
    full.tick(3.0)
    assert (full.held, full.ready) == (10_000, 10_000)
    held.looks = 0
    tracemalloc.start()
    tick = full.tick(4.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tick.leaving, tick.expired) == ([], [])
    assert held.looks <= 1  # the oldest
    assert peak < 10_000  # bytes: one list of those who wait would be 80,000


def test_a_room_keeps_nothing_of_those_who_are_gone() -> None:
    full = room(Only(("early",)), slots=0, queue_timeout_s=1e9)
    full.admit(waiting("stays", slack=1.0))
    full.admit(Waiting("first in line", 0.0, 0.0, 1, 1, priority=9))
    for n in range(5_000):
        full.admit(Waiting("early", 0.0, 1e6 + n, 1, 1))
        full.tick(0.0)
        assert full.cancel("early")
    for kept in (full._held._deadlines, full._turns, full._timeouts):
        assert len(kept) <= 2 * 2 + SPARE + 1


def test_who_comes_again_is_no_arrival() -> None:
    once, twice = room(slots=None), room(slots=None)
    for n in range(40):
        request = waiting(str(n), at=0.25 * n)
        for one in (once, twice):
            one.admit(request)
            one.tick(request.arrived_at)
        twice.ended(request.id, request.arrived_at)  # its server did not take it
        twice.admit(replace(request, again=True))
        twice.tick(request.arrived_at)
    assert once.arrivals.at(10.0).per_s is not None
    assert twice.arrivals.at(10.0) == once.arrivals.at(10.0)
