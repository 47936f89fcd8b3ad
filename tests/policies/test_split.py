"""A split by request: refused wherever the sides would meet, and where it is built they do not."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.base import Action, Tier, View, Waiting
from policies.held import Held
from policies.room import Room
from policies.sides import BOTH, A, B, Side, Sides
from policies.simulate import Arrival, simulate
from policies.split import Split, SplitRefused, cautions, counterphase, refusals, side_by_side, sides_of
from policies.strategy import Choice, Strategy, build
from telemetry.cost import Linear, StepModel
from telemetry.design import Design

MODEL = StepModel(
    "toy", Linear(0.25, 0.0, 0.0, 0.0), Linear(2.0, 0.01, 0.01, 0.0), idle_power_w=100.0,
    sleep_power_w=40.0, sleep_s=0.5, wake_s=0.75, wake_j=5.0,
)  # fmt: skip
HALF = Split(("engine-0",), ("engine-1",))
APART = {"engine-0": ["gpu-0"], "engine-1": ["gpu-1"]}


def strategy(name: str, placement: str = "spread", **params: object) -> Strategy:
    return build(Choice(name, params), Choice(placement, {}))


def waiting(id: str, at: float = 0.0, slack: float = 0.0, **more: str) -> Waiting:
    return Waiting(id, at, at + slack, 10, 8, **more)  # type: ignore[arg-type]


def of_side(split: Split, side: int, at: float = 0.0, slack: float = 0.0, count: int = 1) -> list[Arrival]:
    drawn = (waiting(f"r{n}-{at}", at, slack) for n in range(1000))
    return [Arrival(one, 8) for one in drawn if split.side_of(one) == side][:count]


# --- what is refused ------------------------------------------------------------------------------------------------


def test_sides_never_share_a_server_or_have_none() -> None:
    with pytest.raises(SplitRefused, match="b would be on both sides, which then share its queue and its batch"):
        Split(("a", "b"), ("b", "c"))
    with pytest.raises(SplitRefused, match="each side needs a server of its own"):
        Split((), ("a",))


@pytest.mark.parametrize(
    ("domains", "reason"),
    [
        (APART, None),
        ({"engine-0": ["box"], "engine-1": ["box"]}, "both sides are metered together in box"),
        ({"engine-0": ["gpu-0", "host"], "engine-1": ["gpu-1", "host"]}, "metered together in host"),
        ({"engine-0": ["gpu-0"], "engine-1": []}, "engine-1 is in no energy domain"),
        ({"engine-0": ["gpu-0"], "engine-2": ["gpu-2"]}, "there is no server engine-1; there are engine-0, engine-2"),
        ({**APART, "engine-2": ["gpu-2"]}, "engine-2 is on no side"),
    ],
)
def test_what_would_let_the_sides_meet_is_refused_with_the_reason(domains: dict[str, list[str]], reason: str | None) -> None:
    found = refusals(HALF, domains)
    assert len(found) == (reason is not None) or "engine-2" in domains
    assert reason is None or reason in found[0]


FOUR = {"a": ["0"], "b": ["1"], "c": ["0"], "d": ["1"]}


@pytest.mark.parametrize(
    ("named", "domains", "sides"),
    [
        ((), FOUR, (("a", "c"), ("b", "d"))),
        (("b", "d"), FOUR, (("b", "d"), ("a", "c"))),
        (("c",), {"a": ["0"], "b": ["1"], "c": ["2"]}, (("c",), ("a", "b"))),
        ((), {"a": ["0"], "b": ["1"], "c": ["2", "0"], "d": ["2"]}, (("a", "c", "d"), ("b",))),
    ],
)
def test_sides_are_whole_energy_domains(
    named: tuple[str, ...], domains: dict[str, list[str]], sides: tuple[tuple[str, ...], tuple[str, ...]]
) -> None:
    assert sides_of(named, domains, 7) == Split(*sides, seed=7)


@pytest.mark.parametrize(
    ("named", "domains", "reason"),
    [
        ((), {"a": ["0"]}, "a is the only server: a split needs two that share no meter; use a switchback"),
        ((), {"a": ["0"], "b": ["0"]}, "both sides are metered together in 0, so their joules cannot be told apart"),
        (
            (),
            {"a": ["0"], "b": ["1"], "c": ["2"]},
            r"3 sets of servers share no meter: name the servers of one side \(a; b; c\)",
        ),
        (("a", "b"), FOUR, "metered together in 0; 1"),
        (("x",), FOUR, "there is no server x; there are a, b, c, d"),
        (("a", "b", "c", "d"), FOUR, "are all servers of the group: leave some for the other side"),
        ((), {"a": ["0"], "b": []}, "b is in no energy domain"),
    ],
)
def test_sides_that_cannot_be_are_refused(named: tuple[str, ...], domains: dict[str, list[str]], reason: str) -> None:
    with pytest.raises(SplitRefused, match=reason):
        sides_of(named, domains, 0)


def test_what_is_to_be_looked_at_is_said() -> None:
    always = cautions(HALF, {"engine-0": None, "engine-1": None})
    assert "share one room" in always[0]
    assert "few tenants make uneven sides" in always[1]
    assert "slots of engine-1 are limited" in cautions(HALF, {"engine-0": None, "engine-1": 8})[-1]


# --- who belongs where ----------------------------------------------------------------------------------------------


def test_sessions_stay_together_then_tenants_and_the_rest_is_by_request() -> None:
    by_session = {HALF.side_of(waiting(f"r{n}", session="s", tenant="t")) for n in range(50)}
    by_tenant = {HALF.side_of(waiting(f"r{n}", tenant="t")) for n in range(50)}
    assert (len(by_session), len(by_tenant)) == (1, 1)
    assert {HALF.side_of(waiting(f"r{n}")) for n in range(50)} == {A, B}
    assert HALF.side_of(waiting("x", server="engine-0")) == A
    assert HALF.side_of(waiting("x", server="engine-1")) == B


@pytest.mark.parametrize(("split", "share"), [(HALF, 0.5), (Split(("a", "b", "c"), ("d",)), 0.25)])
def test_shares_are_those_of_servers_and_another_seed_is_another_draw(split: Split, share: float) -> None:
    sides = [split.side_of(waiting(f"r{n}")) for n in range(4000)]
    assert sides.count(B) / 4000 == pytest.approx(share, abs=0.03)
    other = [replace(split, seed=1).side_of(waiting(f"r{n}")) for n in range(4000)]
    both = sum(one == another == B for one, another in zip(sides, other, strict=True))
    assert both / 4000 == pytest.approx(share**2, abs=0.03), "independent of the first"


# --- the sides do not meet -------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000), count=st.integers(1, 25),
    policies=st.tuples(*[st.sampled_from(["span", "passthrough", "cohort"])] * 2),
    placements=st.tuples(*[st.sampled_from(["spread", "pack"])] * 2),
)  # fmt: skip
def test_each_side_runs_as_if_it_were_alone(
    seed: int, count: int, policies: tuple[str, str], placements: tuple[str, str]
) -> None:
    random, split = Random(seed), Split(("engine-0", "engine-1"), ("engine-2", "engine-3"), seed)
    drawn = [waiting(f"r{n}", random.randrange(40) / 4, random.randrange(12) / 4) for n in range(count)]
    # how long answers are is learnt from both arms, which is no way to each other's joules; here it is known
    coming = [Arrival(replace(one, expected_tokens=random.randint(1, 8)), random.randint(1, 8)) for one in drawn]
    own_strategies = [strategy(policy, placement) for policy, placement in zip(policies, placements, strict=True)]
    both = simulate(coming, side_by_side(split, *own_strategies), MODEL, servers=4)
    assert both.faults == 0
    for side in BOTH:
        own = [one for one in coming if split.side_of(one.waiting) == side]
        alone = simulate(own, own_strategies[side], MODEL, servers=2)
        for id, served in alone.served.items():
            told = both.served[id]
            assert (told.released_at, told.outcome) == (served.released_at, served.outcome)
            assert told.ended_at == pytest.approx(served.ended_at)
            assert told.energy_j == pytest.approx(served.energy_j)
            assert told.server in split.servers(side)


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10), st.sampled_from(Tier)), max_size=20), st.floats(0, 20))
def test_a_side_of_a_queue_is_a_queue(drawn: list[tuple[float, float, Tier]], instant: float) -> None:
    queue, alone = Held(), {A: Held(), B: Held()}
    for n, (at, slack, tier) in enumerate(sorted(drawn, key=lambda one: one[0])):
        one = Waiting(f"r{n}", at, at + slack, n + 1, n + 2, tier)
        queue.add(one)
        alone[HALF.side_of(one)].add(one)
    room = Room(strategy("span").policy, strategy("span").placement, {"engine-0": None, "engine-1": None})
    sides = Sides(HALF, replace(room.view(0.0), waiting=queue))
    for which, expected in alone.items():
        for side, plain in (
            (Side(queue, sides, which), expected),
            (Side(queue, sides, which).of(Tier.FLEX), expected.of(Tier.FLEX)),
        ):
            assert list(side) == list(plain)
            assert len(side) == len(plain)
            assert all((f"r{n}" in side) == (f"r{n}" in plain) for n in range(21))
            assert (side.earliest_deadline, side.oldest_arrival) == (plain.earliest_deadline, plain.oldest_arrival)
            assert (side.prompt_tokens, side.max_new_tokens) == (plain.prompt_tokens, plain.max_new_tokens)
            assert {one.id for one in side.due_before(instant)} == {one.id for one in plain.due_before(instant)}


def test_a_side_without_a_healthy_server_costs_nobody_a_request() -> None:
    chosen = side_by_side(HALF, strategy("passthrough"), strategy("span"))
    room = Room(chosen.policy, chosen.placement, {"engine-0": None, "engine-1": None})
    room.set_health("engine-1", healthy=False)
    (treated,) = of_side(HALF, B)
    assert room.admit(treated.waiting)
    (leaving,) = room.tick(0.0).leaving
    assert leaving.server == "engine-0"


def test_a_side_that_sleeps_is_woken_by_its_own_and_not_kept_awake_by_the_other() -> None:
    sleepy = build(Choice("passthrough", {}), Choice("sleepy", {"after_s": 1.0, "awake": 0}))
    chosen = side_by_side(HALF, strategy("passthrough"), sleepy)
    coming = [*of_side(HALF, A, 0.0), *of_side(HALF, A, 4.0), *of_side(HALF, B, 10.0)]
    run = simulate(coming, chosen, MODEL, servers=2)
    assert all(served.ended_at < 20.0 for served in run.served.values())
    assert {server for _, server, _ in run.actions} == {"engine-1"}
    assert (10.0, "engine-1", Action.WAKE) in run.actions
    assert not any(action is Action.WAKE and at < 10.0 for at, _, action in run.actions)


def test_a_side_sees_its_own_servers_requests_and_part_of_the_traffic() -> None:
    split = Split(("engine-0", "engine-1", "engine-2"), ("engine-3",))
    chosen = side_by_side(split, strategy("passthrough"), strategy("passthrough"))
    room = Room(chosen.policy, chosen.placement, dict.fromkeys((f"engine-{n}" for n in range(4)), None))
    for n in range(40):
        room.admit(waiting(f"r{n}", n / 10))
        room.tick(n / 10)
    whole: View = room.view(4.0)
    for side, servers, part in ((A, 3, 0.75), (B, 1, 0.25)):
        seen = Sides(split, whole).view(side)
        assert len(seen.servers) == servers
        assert {flight.server for flight in seen.in_flight.values()} <= set(split.servers(side))
        assert seen.traffic.per_s == pytest.approx(part * (whole.traffic.per_s or 0))
    assert len(whole.in_flight) == 40


def test_in_counterphase_each_side_has_the_arm_that_the_other_has_not() -> None:
    """Whoever comes to a side in a window is held as the arm does that it has then; requests keep their sides."""
    design = Design(0.0, 20.0, 0.0, 6, 3, parallel=True)
    chosen = counterphase(design, HALF, strategy("passthrough"), strategy("window", every_s=2.0))
    coming = [Arrival(waiting(f"r{n}", n / 2 + 0.3, 5.0), 2) for n in range(240)]
    run = simulate(coming, chosen, MODEL, servers=2)
    seen = set()
    for one in run.served.values():
        side = HALF.side_of(one.waiting)
        block = design.block_at(one.waiting.arrived_at, side)
        assert one.server == HALF.servers(side)[0]
        if block is None or design.end_unix_s(block) - one.waiting.arrived_at < 3.0:
            continue  # let go by the next window's arm
        arm = design.arm_of(block)
        assert (one.wait_s > 0) == (arm == 1), (block, one)
        seen.add((side, arm))
    assert seen == {(side, arm) for side in BOTH for arm in (0, 1)}
