"""Capped: what passes a bound stays, whatever the inner policy says, and nobody is forgotten."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.base import InFlight, Outcome, Policy, ServerState, ServerView, View, Waiting
from policies.capped import Capped, LetGo
from policies.held import Held
from policies.ordered import Ordered
from policies.passthrough import Passthrough
from policies.simulate import Arrival, Served, Simulation
from policies.size import Size
from policies.span import Span
from policies.spread import Spread
from policies.strategy import Strategy
from policies.window import Window
from telemetry.cost import Linear, StepModel
from telemetry.snapshot import UNKNOWN, DeviceState, Snapshot, Source

MODEL = StepModel("toy", Linear(0.25, 0.0, 0.0, 0.0), Linear(2.0, 0.01, 0.01, 0.0), idle_power_w=100.0)


def waiting(id: str, *, tokens: int = 30, sequences: int = 1, at: float = 0.0) -> Waiting:
    return Waiting(id, at, 100.0, 10, tokens - 10, sequences=sequences)


def view(who: Iterable[Waiting], flying: int = 0, *, slots: int | None = None, telemetry: Snapshot = UNKNOWN) -> View:
    """Of one server, on which `flying` requests of 30 tokens have been since second 1; it is second 3."""
    held = Held()
    for one in who:
        held.add(one)
    flights = {f"f{n}": InFlight(waiting(f"f{n}"), "a", 1.0) for n in range(flying)}
    return View(3.0, 0.0, held, flights, [ServerView("a", flying, 30 * flying, slots)], telemetry, MODEL)


def watts(power_w: float, at: float, **more: Any) -> Snapshot:
    return Snapshot(at, {"0": DeviceState("0", Source.COUNTER, 10**9, power_w, at, **more)})


def crowd(*names: str, **kinds: int) -> list[Waiting]:
    return [waiting(name, **kinds) for name in names]


@pytest.mark.parametrize(
    ("bounds", "flying", "released"),
    [
        ({}, 0, ["x", "y", "z"]),
        ({"in_flight": 5}, 3, ["x", "y"]),
        ({"in_flight": 3}, 3, []),
        ({"in_flight": 2}, 3, []),  # others came by their deadlines
        ({"tokens": 150}, 3, ["x", "y"]),
        ({"tokens": 149}, 3, ["x"]),
        ({"in_flight": 9, "tokens": 120}, 3, ["x"]),
        ({"tokens": 20}, 0, ["x"]),  # larger than the bound, with nobody there
        ({"tokens": 20}, 1, []),
    ],
)
def test_who_would_pass_a_bound_stays(bounds: dict[str, Any], flying: int, released: list[str]) -> None:
    assert list(Capped(Passthrough(), **bounds).decide(view(crowd("x", "y", "z"), flying), None).release) == released


def test_a_request_of_several_sequences_counts_as_many() -> None:
    assert list(Capped(Passthrough(), in_flight=4).decide(view(crowd("x", "y", sequences=2), 1), None).release) == ["x"]


def test_nobody_overtakes_one_who_does_not_fit() -> None:
    who = [waiting("large", tokens=200), waiting("small")]
    assert list(Capped(Passthrough(), tokens=100).decide(view(who, 1), None).release) == []


def test_who_would_find_no_slot_stays() -> None:
    assert list(Capped(Passthrough(), in_flight=9).decide(view(crowd("x", "y", "z"), 3, slots=5), None).release) == ["x", "y"]
    assert list(Capped(Passthrough(), in_flight=9).decide(view(crowd("large", sequences=8), 0, slots=5), None).release) == [
        "large"
    ]


def test_one_leaves_to_wake_a_sleeper_and_no_more_while_it_wakes() -> None:
    asleep = view(crowd("x", "y"))
    policy = Capped(Passthrough(), in_flight=9)
    for state, released in ((ServerState.ASLEEP, ["x"]), (ServerState.WAKING, []), (ServerState.AWAKE, ["x", "y"])):
        servers = [replace(asleep.servers[0], state=state)]
        assert list(policy.decide(replace(asleep, servers=servers), None).release) == released


def test_whom_the_inner_policy_let_go_leaves_once_there_is_room_though_it_names_them_no_more() -> None:
    policy = Capped(Size(n=3, wait_s=50.0), in_flight=2)
    first = policy.decide(view(crowd("x", "y", "z")), None)
    assert list(first.release) == ["x", "y"]
    assert list(policy.decide(view(crowd("z"), 2), first.memory).release) == []
    assert list(policy.decide(view(crowd("z", "new"), 1), first.memory).release) == ["z"]
    gone = policy.decide(view(crowd("new"), 1), first.memory)  # its client left, or its deadline came
    assert list(gone.release) == []
    assert gone.memory is not None


def test_wakes_when_the_inner_policy_wants_to() -> None:
    policy = Capped(Window(2.0), in_flight=9)
    assert policy.decide(view([waiting("x", at=2.5)]), None).wake_at == 4.0


def test_memory_of_the_inner_policy_is_its_own() -> None:
    policy = Capped(Span(), in_flight=9)
    first = policy.decide(replace(view(crowd("x", "y")), now=100.0), None)
    assert list(first.release) == ["x", "y"]
    flights = {"x": InFlight(waiting("x"), "a", 100.0)}
    later = replace(view(crowd("late")), now=100.0, in_flight=flights)
    assert list(policy.decide(later, first.memory).release) == ["late"]  # the flag still runs
    assert list(policy.decide(replace(later, now=50.0), "another's memory").release) == []


# --- watts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("telemetry", "flying", "released", "wake_at"),
    [
        (watts(500.0, 2.5), 4, [], 4.5),  # at the bound: until a reading says less, or it is stale
        (watts(300.0, 2.5), 4, ["x", "y", "z"], None),  # 50 W each, so there is room for four
        (watts(400.0, 2.5), 4, ["x"], 4.5),  # 75 W each, room for one
        (watts(460.0, 2.5), 4, [], 4.5),  # 90 W each, room for none
        (watts(491.95, 2.5), 0, ["x"], 4.5),  # nobody there: by the model one draws 8.04 W, two 8.08 W
        (watts(491.9, 2.5), 0, ["x", "y"], 4.5),
        (watts(499.0, 2.5), 0, ["x"], 4.5),  # not even one has room; what it draws has to be seen
        (watts(500.0, 0.9), 4, ["x", "y", "z"], None),  # stale: caps nothing
        (watts(500.0, 2.5, frozen=True), 4, ["x", "y", "z"], None),
        (UNKNOWN, 4, ["x", "y", "z"], None),
    ],
)
def test_watts(telemetry: Snapshot, flying: int, released: list[str], wake_at: float | None) -> None:
    seen = view(crowd("x", "y", "z"), flying, telemetry=telemetry)
    decision = Capped(Passthrough(), power_w=500.0, stale_s=2.0).decide(seen, LetGo(read_at=1.5))
    assert (list(decision.release), decision.wake_at) == (released, wake_at)


def test_a_group_is_seen_by_the_second_reading_after_it_left() -> None:
    """The first is a mean over a time in which it was not there yet."""
    policy = Capped(Passthrough(), power_w=500.0)
    memory: object = None
    for now, stepped_at, left_at, released in (
        (3.0, 2.5, 2.6, []),  # from before it left
        (3.1, 2.7, 2.6, []),  # the first
        (3.2, 2.7, 2.6, []),  # the same once more
        (3.3, 2.9, 2.6, ["x"]),  # the second
        (3.4, 2.9, 3.3, []),  # of another group
        (3.5, 3.4, 3.3, []),
        (3.6, 3.5, 3.3, ["x"]),
    ):
        seen = view(crowd("x"), 2, telemetry=watts(200.0, stepped_at))
        flights = {id: replace(flight, released_at=left_at) for id, flight in seen.in_flight.items()}
        decision = policy.decide(replace(seen, now=now, in_flight=flights), memory)
        memory = decision.memory
        assert list(decision.release) == released, now


# --- always ---------------------------------------------------------------------------------------------------------


quarters = st.integers(0, 40).map(lambda n: n / 4)
requests = st.tuples(
    quarters, st.sampled_from([0.0, 0.0, 1.0, 500.0]), st.integers(1, 3), st.integers(1, 40), st.integers(1, 9)
)
inner: st.SearchStrategy[Policy] = st.sampled_from(
    [Passthrough(), Span(), Window(0.5), Size(3, 1.0), Ordered(Span(), "fair"), Ordered(Passthrough(), "deadline")]
)


@settings(deadline=None, max_examples=80)
@given(
    inner=inner,
    crowd=st.lists(requests, min_size=1, max_size=25),
    in_flight=st.integers(1, 5) | st.none(),
    tokens=st.integers(40, 200) | st.none(),
    slots=st.integers(1, 4) | st.none(),
)
def test_only_a_deadline_passes_a_bound_and_everybody_leaves(
    inner: Policy, crowd: list[Any], in_flight: int | None, tokens: int | None, slots: int | None
) -> None:
    flying: dict[str, Waiting] = {}
    policy = Capped(inner, in_flight=in_flight, tokens=tokens)
    left: list[Served] = []

    def gone(served: Served) -> None:
        left.append(served)
        flying.pop(served.waiting.id, None)

    def leaves(served: Served) -> None:
        flying[served.waiting.id] = served.waiting
        alone = len(flying) == 1
        if served.outcome is Outcome.POLICY and not alone and not any(s.outcome is Outcome.DEADLINE for s in flights()):
            assert sum(w.sequences for w in flying.values()) <= (in_flight or inf)
            assert sum(w.prompt_tokens + w.max_new_tokens for w in flying.values()) <= (tokens or inf)

    def flights() -> list[Served]:
        return [simulation.open[id] for id in flying]

    simulation = Simulation(Strategy(policy, Spread(), "", ""), MODEL, {"a": slots}, on_served=gone, on_release=leaves)
    for n, (at, slack, sequences, most, output) in enumerate(sorted(crowd)):
        one = Waiting(f"r{n}", at, at + slack, 10, most, sequences=sequences)
        simulation.arrive(Arrival(one, output))
    while not simulation.over:
        assert simulation.next_at < inf
        simulation.advance(simulation.next_at)
    assert simulation.faults == 0
    assert {served.outcome for served in left} <= {Outcome.POLICY, Outcome.DEADLINE}
    patient = [served for served in left if served.waiting.deadline - served.waiting.arrived_at == 500]
    if "Span" not in repr(inner):  # which lets nobody go before the deadline, of whom the bound then keeps all but some
        assert all(served.outcome is Outcome.POLICY for served in patient)


@pytest.mark.parametrize("bounds", [{"in_flight": 0}, {"tokens": -1}, {"power_w": 0.0}, {"stale_s": 0.0}])
def test_bounds_without_a_meaning_are_refused(bounds: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bounds))):
        Capped(Span(), **bounds)
