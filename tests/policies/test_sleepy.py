"""Who sleeps when: decisions in numbers, and whole days in a simulation whose joules can be reckoned by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.affine import Affine
from policies.base import Action, ServerState, ServerView, Upkeep, View, Waiting
from policies.held import Held
from policies.pack import Pack
from policies.passthrough import Passthrough
from policies.room import Room
from policies.simulate import Arrival, Run, simulate
from policies.sleepy import Sleepy, break_even_s
from policies.strategy import Strategy
from telemetry.cost import Linear, StepModel

AWAKE, ASLEEP, WAKING, FALLING = ServerState.AWAKE, ServerState.ASLEEP, ServerState.WAKING, ServerState.FALLING_ASLEEP

# a step lasts a second and costs 10 J; 5 W awake, 1 W asleep; 3 s and 40 J to wake
MODEL = StepModel(
    "toy",
    Linear(1.0, 0.0, 0.0, 0.0),
    Linear(10.0, 0.0, 0.0, 0.0),
    idle_power_w=5.0,
    sleep_power_w=1.0,
    sleep_s=1.0,
    wake_s=3.0,
    wake_j=40.0,
)


def server(name: str, in_flight: int = 0, *, empty: float | None = None, state: ServerState = AWAKE, **more: Any) -> ServerView:
    return ServerView(name, in_flight, 0, more.pop("slots", None), state=state, empty_since=empty, **more)


def tend(placement: Sleepy, *servers: ServerView, now: float = 100.0, held: tuple[Waiting, ...] = ()) -> Upkeep:
    waiting = Held()
    for one in held:
        waiting.add(one)
    return placement.tend(View(now, 0.0, waiting, {}, servers, model=MODEL))


def told(upkeep: Upkeep) -> str:
    return " ".join(f"{'+' if action is Action.WAKE else '-'}{name}" for name, action in upkeep.actions.items())


TEN = Sleepy(after_s=10.0, placement=Pack(4))  # full at 4, woken above 3


@pytest.mark.parametrize(
    ("servers", "expected", "wake_at"),
    [
        ([server("a", 1), server("b", empty=90.0)], "-b", inf),
        ([server("a", 1), server("b", empty=90.1)], "", 100.1),
        ([server("a", 1), server("b")], "", inf),  # nobody knows since when
        ([server("a", empty=0.0), server("b", empty=50.0)], "-b", inf),  # one stays awake: the first
        ([server("a", empty=0.0)], "", inf),
        ([server("a", 3), server("b", empty=0.0)], "-b", inf),
        ([server("a", 4), server("b", empty=0.0)], "", inf),  # it would have to wake at once
        ([server("a", 3), server("b", empty=0.0), server("c", empty=0.0)], "-c -b", inf),
        ([server("a", 3, slots=3), server("b", empty=0.0)], "", inf),  # it is full at its slots
        ([server("a", 4), server("b", state=ASLEEP)], "+b", inf),
        ([server("a", 3), server("b", state=ASLEEP)], "", inf),
        ([server("a", 4), server("b", state=WAKING), server("c", state=ASLEEP)], "", inf),  # one is on its way
        ([server("a", 9), server("b", state=ASLEEP), server("c", state=ASLEEP), server("d", state=ASLEEP)], "+b +c", inf),
        ([server("a", 4), server("b", state=FALLING)], "", inf),
        ([server("a", 4, healthy=False), server("b", state=ASLEEP)], "+b", inf),  # so many stay awake that work
        ([server("a", 1), server("b", empty=0.0, healthy=False)], "", inf),  # one that fails is no sleeper
        ([server("a", 4), server("b", state=ASLEEP, healthy=False)], "", inf),
        ([], "", inf),
    ],
)
def test_who_sleeps_and_who_wakes(servers: list[ServerView], expected: str, wake_at: float) -> None:
    upkeep = tend(TEN, *servers)
    assert (told(upkeep), upkeep.wake_at) == (expected, pytest.approx(wake_at))


def test_none_need_stay_awake() -> None:
    assert told(tend(replace(TEN, awake=0), server("a", empty=0.0), server("b", empty=0.0))) == "-b -a"
    assert told(tend(replace(TEN, awake=0), server("a", state=ASLEEP))) == ""
    assert told(tend(replace(TEN, awake=2), server("a", empty=0.0), server("b", state=ASLEEP))) == "+b"


def test_who_is_held_until_before_a_server_could_be_awake_counts() -> None:
    held = tuple(Waiting(f"h{i}", 0.0, 102.0 + i * 0.1, 1, 1) for i in range(4))
    servers = (server("a"), server("b", state=ASLEEP))
    assert told(tend(TEN, *servers, held=held)) == "+b"
    assert told(tend(TEN, *servers, held=held[:3])) == ""
    upkeep = tend(TEN, *servers, now=90.0, held=held)
    assert (told(upkeep), upkeep.wake_at) == ("", 99.0)  # 3 s before the first of them leaves


@pytest.mark.parametrize("share", [0.75, 1.0])
def test_who_waits_for_a_slot_is_load_too(share: float) -> None:
    room = Room(Passthrough(), Sleepy(after_s=10.0, wake_at_share=share), {"a": 8, "b": 8}, model=MODEL)
    room.tick(0.0)
    room.tick(10.0)
    room.set_state("b", ASLEEP)
    for number in range(9):
        room.admit(Waiting(f"r{number}", 11.0, 11.0, 1, 1))
    assert room.tick(11.0).actions == {"b": Action.WAKE}


@pytest.mark.parametrize(
    ("placement", "busy", "expected"),
    [
        (Pack(tokens=1000), {"tokens": 751}, "+b"),
        (Pack(tokens=1000), {"tokens": 750}, ""),
        (Pack(tpot_ms=500.0), {"tpot_s": 0.6}, "+b"),
        (Pack(tpot_ms=500.0), {"tpot_s": 0.4}, ""),
        (Pack(tpot_ms=500.0), {}, "+b"),  # the model says that a token takes a second
        (Affine(placement=Pack(tokens=1000)), {"tokens": 900}, "+b"),
    ],
)
def test_all_bounds_of_pack_say_when_a_server_is_full(placement: Any, busy: dict[str, Any], expected: str) -> None:
    servers = replace(server("a", 2), **busy), server("b", state=ASLEEP)
    assert told(tend(Sleepy(after_s=10.0, placement=placement), *servers)) == expected


@pytest.mark.parametrize("placement", [Pack(4), Affine(placement=Pack(4))])
def test_the_knee_is_the_one_of_who_places(placement: Any) -> None:
    assert told(tend(Sleepy(after_s=1.0, placement=placement), server("a", 4), server("b", state=ASLEEP))) == "+b"


def test_the_break_even() -> None:
    assert break_even_s(MODEL) == 10.0  # 40 J at 4 W
    assert break_even_s(replace(MODEL, sleep_power_w=None)) is None
    assert break_even_s(replace(MODEL, wake_j=0.0)) is None
    assert break_even_s(replace(MODEL, sleep_power_w=5.0)) == inf
    servers = server("a", 1), server("b", empty=80.0)
    assert told(tend(Sleepy(), *servers, now=90.0)) == "-b"
    assert told(tend(Sleepy(), *servers, now=89.9)) == ""
    unknown = View(139.0, 0.0, Held(), {}, servers)
    assert (Sleepy().tend(unknown).actions, Sleepy().tend(unknown).wake_at) == ({}, 140.0)


@pytest.mark.parametrize("params", [{"after_s": 0.0}, {"awake": -1}, {"wake_at_share": 0.0}, {"wake_at_share": 1.1}])
def test_nonsense_is_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(params))):
        Sleepy(**params)


states = st.sampled_from([AWAKE, AWAKE, ASLEEP, WAKING, FALLING])
some = st.builds(
    lambda n, state, since: (n if state is AWAKE else 0, state, since), st.integers(0, 6), states, st.floats(0.0, 100.0)
)


@given(servers=st.lists(some, max_size=6), awake=st.integers(0, 3), share=st.floats(0.1, 1.0))
def test_what_it_asks_for_it_does_not_take_back(servers: list[Any], awake: int, share: float) -> None:
    """Nobody who has work sleeps, enough stay awake, and once all is as it wanted it wants nothing more."""
    placement = Sleepy(after_s=10.0, awake=awake, wake_at_share=share, placement=Pack(4))
    before = [server(f"s{i}", n, state=state, empty=None if n else since) for i, (n, state, since) in enumerate(servers)]
    actions = tend(placement, *before).actions
    for one in before:
        if actions.get(one.name) is Action.SLEEP:
            assert one.in_flight == 0
            assert one.state is AWAKE
    after = [
        replace(one, state=ASLEEP if action is Action.SLEEP else AWAKE, empty_since=100.0)
        if (action := actions.get(one.name)) is not None
        else one
        for one in before
    ]
    usable = sum(one.state in (AWAKE, WAKING) for one in after)
    assert usable >= min(awake, sum(one.state is not FALLING for one in before))
    assert tend(placement, *after).actions == {}


def day(*arrivals: tuple[float, int], placement: Any, until: float, slots: int | None = None, model: StepModel = MODEL) -> Run:
    coming = [Arrival(Waiting(f"r{i}", at, at, 1, tokens), tokens) for i, (at, tokens) in enumerate(arrivals)]
    strategy = Strategy(Passthrough(), placement, "passthrough", "sleepy")
    return simulate(coming, strategy, model, servers=2, slots=slots, until=until)


def test_a_day_in_joules() -> None:
    """Four at once need both; the second then sleeps from 12 s (10 s empty) and is woken for four more at 50 s."""
    busy = [(0.0, 2)] * 8
    run = day(*busy, *[(50.0, 2)] * 8, placement=Sleepy(after_s=10.0, placement=Pack(4)), until=60.0)
    told = [(at, name, action.value) for at, name, action in run.actions]
    assert told == [(12.0, "engine-1", "sleep"), (50.0, "engine-1", "wake")]
    assert run.completed == 16
    # the second: awake and falling asleep until 13, asleep until 50, then awake again; 2 steps at 0 s, and who left at 50 s
    # found the first alone awake
    assert run.energy_j["engine-1"] == pytest.approx(13 * 5 + 37 * 1 + 40 + 10 * 5 + 2 * 10)
    plain = day(*busy, *[(50.0, 2)] * 8, placement=Pack(4), until=60.0)
    assert plain.energy_j["engine-1"] == pytest.approx(60 * 5 + 4 * 10)


def test_when_all_sleep_the_first_who_comes_waits_until_one_has_woken() -> None:
    run = day((0.0, 2), (60.0, 2), placement=Sleepy(after_s=10.0, awake=0), until=70.0)
    first, second = run.served.values()
    assert (first.wait_s, second.wait_s) == (0.0, 3.0)
    assert [action.value for _, _, action in run.actions].count("wake") == 1


def test_an_engine_that_cannot_sleep_is_told_so_no_more_often_than_it_could_have() -> None:
    run = day((0.0, 2), placement=Sleepy(after_s=10.0), until=100.0, model=replace(MODEL, sleep_power_w=None))
    assert run.energy_j["engine-1"] == 500.0
    assert len(run.actions) <= 10


@given(
    gaps=st.lists(st.tuples(st.integers(0, 4000).map(lambda hundredths: hundredths / 100), st.integers(1, 6)), max_size=25),
    awake=st.integers(0, 2),
    slots=st.sampled_from([None, 2, 5]),
)
def test_nobody_is_lost_and_no_server_flaps(gaps: list[Any], awake: int, slots: int | None) -> None:
    at, arrivals = 0.0, []
    for gap, tokens in gaps:
        at += gap
        arrivals.append((at, tokens))
    run = day(*arrivals, placement=Sleepy(awake=awake, placement=Pack(2)), until=at + 50.0, slots=slots)
    assert (run.completed, run.faults) == (len(arrivals), 0)
    for name in run.energy_j:
        own = [(at, action) for at, server, action in run.actions if server == name]
        assert [action for _, action in own] == [(Action.SLEEP, Action.WAKE)[i % 2] for i in range(len(own))]
        for (woken_at, action), (slept_at, _) in pairwise(own):
            if action is Action.WAKE:
                assert slept_at >= woken_at + MODEL.wake_s + 10.0  # the break-even
