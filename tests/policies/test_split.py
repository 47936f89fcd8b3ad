"""A split by request: refused wherever the arms would meet, and where it is built they do not."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.base import Action, Tier, View, Waiting
from policies.held import Held
from policies.room import Room
from policies.sides import Side, Sides
from policies.simulate import Arrival, simulate
from policies.split import Split, SplitRefused, cautions, refusals, split_strategy
from policies.strategy import Choice, Strategy, build
from telemetry.cost import Linear, StepModel
from telemetry.design import CONTROL, TREATMENT

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


def of_arm(split: Split, arm: int, at: float = 0.0, slack: float = 0.0, count: int = 1) -> list[Arrival]:
    drawn = (waiting(f"r{n}-{at}", at, slack) for n in range(1000))
    return [Arrival(one, 8) for one in drawn if split.arm_of(one) == arm][:count]


# --- what is refused ------------------------------------------------------------------------------------------------


def test_arms_never_share_a_server_or_have_none() -> None:
    with pytest.raises(SplitRefused, match="b would serve both arms, which then share its queue and its batch"):
        Split(("a", "b"), ("b", "c"))
    with pytest.raises(SplitRefused, match="each arm needs a server of its own"):
        Split((), ("a",))
    with pytest.raises(SplitRefused, match="share must be between 0 and 1"):
        Split(("a",), ("b",), share=1.0)


@pytest.mark.parametrize(
    ("domains", "reason"),
    [
        (APART, None),
        ({"engine-0": ["box"], "engine-1": ["box"]}, "both arms are metered together in box"),
        ({"engine-0": ["gpu-0", "host"], "engine-1": ["gpu-1", "host"]}, "metered together in host"),
        ({"engine-0": ["gpu-0"], "engine-1": []}, "engine-1 is in no energy domain"),
        ({"engine-0": ["gpu-0"]}, "there is no server engine-1; there are engine-0"),
        ({**APART, "engine-2": ["gpu-2"]}, "engine-2 is in no arm"),
    ],
)
def test_what_would_let_the_arms_meet_is_refused_with_the_reason(domains: dict[str, list[str]], reason: str | None) -> None:
    found = refusals(HALF, domains)
    if reason is None:
        assert found == []
        split_strategy(HALF, domains, strategy("passthrough"), strategy("span"))
        return
    assert len(found) == 1
    assert reason in found[0]
    with pytest.raises(SplitRefused, match=r"engine|metered"):
        split_strategy(HALF, domains, strategy("passthrough"), strategy("span"))


def test_what_is_to_be_looked_at_is_said() -> None:
    (always,) = cautions(HALF, {"engine-0": None, "engine-1": None})
    assert "swapped" in always
    assert "slots of engine-1 are limited" in cautions(HALF, {"engine-0": None, "engine-1": 8})[1]
    uneven = Split(("engine-0",), ("engine-1",), share=0.9)
    assert "more to do" in cautions(uneven, {"engine-0": None, "engine-1": None})[1]
    assert HALF.swapped == Split(("engine-1",), ("engine-0",))


# --- who belongs where ----------------------------------------------------------------------------------------------


def test_sessions_stay_together_then_tenants_and_the_rest_is_by_request() -> None:
    by_session = {HALF.arm_of(waiting(f"r{n}", session="s", tenant="t")) for n in range(50)}
    by_tenant = {HALF.arm_of(waiting(f"r{n}", tenant="t")) for n in range(50)}
    assert (len(by_session), len(by_tenant)) == (1, 1)
    assert {HALF.arm_of(waiting(f"r{n}")) for n in range(50)} == {CONTROL, TREATMENT}
    assert HALF.arm_of(waiting("x", server="engine-0")) == CONTROL
    assert HALF.arm_of(waiting("x", server="engine-1")) == TREATMENT


@pytest.mark.parametrize(
    ("split", "share"), [(HALF, 0.5), (Split(("a", "b", "c"), ("d",)), 0.25), (replace(HALF, share=0.9), 0.9)]
)
def test_shares_are_met_and_another_seed_is_another_draw(split: Split, share: float) -> None:
    arms = [split.arm_of(waiting(f"r{n}")) for n in range(4000)]
    assert arms.count(TREATMENT) / 4000 == pytest.approx(share, abs=0.03)
    other = [replace(split, seed=1).arm_of(waiting(f"r{n}")) for n in range(4000)]
    both = sum(one == another == TREATMENT for one, another in zip(arms, other, strict=True))
    assert both / 4000 == pytest.approx(share**2, abs=0.03), "independent of the first"


# --- the arms do not meet -------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000), count=st.integers(1, 25),
    policies=st.tuples(*[st.sampled_from(["span", "passthrough", "cohort"])] * 2),
    placements=st.tuples(*[st.sampled_from(["spread", "pack"])] * 2),
)  # fmt: skip
def test_each_arm_runs_as_if_it_were_alone(
    seed: int, count: int, policies: tuple[str, str], placements: tuple[str, str]
) -> None:
    random, split = Random(seed), Split(("engine-0", "engine-1"), ("engine-2", "engine-3"), seed)
    drawn = [waiting(f"r{n}", random.randrange(40) / 4, random.randrange(12) / 4) for n in range(count)]
    # how long answers are is learnt from both arms, which is no way to each other's joules; here it is known
    coming = [Arrival(replace(one, expected_tokens=random.randint(1, 8)), random.randint(1, 8)) for one in drawn]
    arms = [strategy(policy, placement) for policy, placement in zip(policies, placements, strict=True)]
    domains = {f"engine-{n}": [f"gpu-{n}"] for n in range(4)}
    both = simulate(coming, split_strategy(split, domains, *arms), MODEL, servers=4)
    assert both.faults == 0
    for arm in (CONTROL, TREATMENT):
        own = [one for one in coming if split.arm_of(one.waiting) == arm]
        alone = simulate(own, arms[arm], MODEL, servers=2)
        for id, served in alone.served.items():
            told = both.served[id]
            assert (told.released_at, told.outcome) == (served.released_at, served.outcome)
            assert told.ended_at == pytest.approx(served.ended_at)
            assert told.energy_j == pytest.approx(served.energy_j)
            assert told.server in split.servers(arm)


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10), st.sampled_from(Tier)), max_size=20), st.floats(0, 20))
def test_a_side_of_a_queue_is_a_queue(drawn: list[tuple[float, float, Tier]], instant: float) -> None:
    queue, alone = Held(), {CONTROL: Held(), TREATMENT: Held()}
    for n, (at, slack, tier) in enumerate(sorted(drawn, key=lambda one: one[0])):
        one = Waiting(f"r{n}", at, at + slack, n + 1, n + 2, tier)
        queue.add(one)
        alone[HALF.arm_of(one)].add(one)
    room = Room(strategy("span").policy, strategy("span").placement, {"engine-0": None, "engine-1": None})
    sides = Sides(HALF, replace(room.view(0.0), waiting=queue))
    for arm, expected in alone.items():
        for side, plain in (
            (Side(queue, sides, arm), expected),
            (Side(queue, sides, arm).of(Tier.FLEX), expected.of(Tier.FLEX)),
        ):
            assert list(side) == list(plain)
            assert len(side) == len(plain)
            assert all((f"r{n}" in side) == (f"r{n}" in plain) for n in range(21))
            assert (side.earliest_deadline, side.oldest_arrival) == (plain.earliest_deadline, plain.oldest_arrival)
            assert (side.prompt_tokens, side.max_new_tokens) == (plain.prompt_tokens, plain.max_new_tokens)
            assert {one.id for one in side.due_before(instant)} == {one.id for one in plain.due_before(instant)}


def test_an_arm_without_a_healthy_server_costs_nobody_a_request() -> None:
    chosen = split_strategy(HALF, APART, strategy("passthrough"), strategy("span"))
    room = Room(chosen.policy, chosen.placement, {"engine-0": None, "engine-1": None})
    room.set_health("engine-1", healthy=False)
    (treated,) = of_arm(HALF, TREATMENT)
    assert room.admit(treated.waiting)
    (leaving,) = room.tick(0.0).leaving
    assert leaving.server == "engine-0"


def test_an_arm_that_sleeps_is_woken_by_its_own_and_not_kept_awake_by_the_other() -> None:
    sleepy = build(Choice("passthrough", {}), Choice("sleepy", {"after_s": 1.0, "awake": 0}))
    chosen = split_strategy(HALF, APART, strategy("passthrough"), sleepy)
    coming = [*of_arm(HALF, CONTROL, 0.0), *of_arm(HALF, CONTROL, 4.0), *of_arm(HALF, TREATMENT, 10.0)]
    run = simulate(coming, chosen, MODEL, servers=2)
    assert all(served.ended_at < 20.0 for served in run.served.values())
    assert {server for _, server, _ in run.actions} == {"engine-1"}
    assert (10.0, "engine-1", Action.WAKE) in run.actions
    assert not any(action is Action.WAKE and at < 10.0 for at, _, action in run.actions)


def test_an_arm_sees_its_own_servers_requests_and_part_of_the_traffic() -> None:
    split = Split(("engine-0", "engine-1", "engine-2"), ("engine-3",))
    chosen = split_strategy(
        split, {f"engine-{n}": [str(n)] for n in range(4)}, strategy("passthrough"), strategy("passthrough")
    )
    room = Room(chosen.policy, chosen.placement, dict.fromkeys((f"engine-{n}" for n in range(4)), None))
    for n in range(40):
        room.admit(waiting(f"r{n}", n / 10))
        room.tick(n / 10)
    whole: View = room.view(4.0)
    for arm, servers, part in ((CONTROL, 3, 0.75), (TREATMENT, 1, 0.25)):
        seen = Sides(split, whole).view(arm)
        assert len(seen.servers) == servers
        assert {flight.server for flight in seen.in_flight.values()} <= set(split.servers(arm))
        assert seen.traffic.per_s == pytest.approx(part * (whole.traffic.per_s or 0))
    assert len(whole.in_flight) == 40
