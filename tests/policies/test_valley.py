"""Riding along with interactive traffic: how many, how fast, what happens in quiet, and what it costs the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest

from policies.base import Decision, InFlight, Policy, Tier, Waiting
from policies.passthrough import Passthrough
from policies.room import Room
from policies.simulate import Arrival, Run, Served, simulate
from policies.spread import Spread
from policies.strategy import Strategy
from policies.valley import Remembered, Valley
from telemetry.cost import Linear, StepModel, load_profile
from tests.policies.test_policies import view

H200 = load_profile()
# a step lasts 10 ms, 0.1 ms more for each sequence, and 1 ms for ten prompt tokens
MODEL = StepModel("toy", Linear(0.01, 1e-4, 1e-4, 0.0), Linear(2.0, 0.01, 0.01, 0.0), idle_power_w=100.0)
TALK = Waiting("talk", 0.0, 0.0, 10, 100)


def crowd(n: int, deadline: float = 60.0, tier: Tier = Tier.BATCH, tokens: int = 10) -> list[Waiting]:
    return [Waiting(f"{tier}{number}", 0.0, deadline + number, tokens, 100, tier=tier) for number in range(n)]


def ids(group: Sequence[Waiting]) -> list[str]:
    return [waiting.id for waiting in group]


def memory(decision: Decision) -> Remembered:
    assert isinstance(decision.memory, Remembered)
    return decision.memory


def test_they_ride_along_as_far_as_tokens_may_slow_down() -> None:
    # alone a step is 10.1 ms; half of a tenth of that is 0.505 ms, room for five sequences
    decision = Valley().decide(view(5.0, *crowd(9), in_flight=[TALK], model=MODEL), None)
    assert decision.release == ids(crowd(5))


def test_those_who_ride_already_count() -> None:
    riding = [Waiting(f"b{n}", 0.0, 9.0, 10, 100, tier=Tier.FLEX, sequences=2) for n in range(2)]
    decision = Valley().decide(view(5.0, *crowd(9), in_flight=[TALK, *riding], model=MODEL), None)
    assert decision.release == ids(crowd(1))


def test_prompts_are_paid_back_before_others_follow() -> None:
    first = Valley().decide(view(5.0, *crowd(9), in_flight=[TALK], model=MODEL), None)
    # fifty prompt tokens lengthen a step by 5 ms, which is half of a tenth of 100 ms
    assert first.wake_at == memory(first).pause_until == pytest.approx(5.1)
    waiting, riding = crowd(9)[5:], crowd(2)
    early = Valley().decide(view(5.09, *waiting, in_flight=[TALK, *riding], model=MODEL), first.memory)
    assert (early.release, early.wake_at) == ([], first.wake_at)
    later = Valley().decide(view(5.11, *waiting, in_flight=[TALK, *riding], model=MODEL), first.memory)
    assert later.release == ids(waiting[:3])


def test_a_release_has_so_many_prompt_tokens_at_most() -> None:
    decision = Valley(prompt_tokens=25).decide(view(5.0, *crowd(9), in_flight=[TALK], model=MODEL), None)
    assert decision.release == ids(crowd(2))


def test_a_long_prompt_waits_for_quiet_and_lets_others_by() -> None:
    who = [*crowd(1, tokens=2000), *crowd(1, tier=Tier.FLEX)]
    assert Valley().decide(view(5.0, *who, in_flight=[TALK], model=MODEL), None).release == ["flex0"]
    assert Valley().decide(view(61.0, *who, model=MODEL), None).release == ["batch0", "flex0"]


def test_flex_rides_before_batch() -> None:
    who = [*crowd(5), *crowd(3, tier=Tier.FLEX)]
    decision = Valley().decide(view(5.0, *who, in_flight=[TALK], model=MODEL), None)
    assert decision.release == ["flex0", "flex1", "flex2", "batch0", "batch1"]


def test_with_one_to_ride_with_they_let_its_prompt_go_first() -> None:
    talk = Waiting("talk", 5.0, 5.0, 10, 100)
    decision = Valley().decide(view(5.0, *crowd(2), talk, model=MODEL), None)
    assert (decision.release, memory(decision).inner) == (["talk"], "talk")
    assert decision.wake_at == 5.0 + MODEL.first_token_s(10)
    assert decision.wake_at is not None
    then = Valley().decide(view(decision.wake_at, *crowd(2), in_flight=[talk], model=MODEL), decision.memory)
    assert then.release == ["batch0", "batch1"]


def test_with_many_they_need_not() -> None:
    talk = Waiting("talk", 5.0, 5.0, 10, 100)
    decision = Valley().decide(view(5.0, *crowd(2), talk, in_flight=["a", "b"], model=MODEL), None)
    assert decision.release == ["talk", "batch0", "batch1"]


def test_nobody_rides_who_would_run_on_by_himself() -> None:
    flights = {"talk": InFlight(TALK, "a", 5.0)}  # which lasts a second
    who = [Waiting(f"b{tokens}", 0.0, 60.0, 10, tokens, tier=Tier.BATCH) for tokens in (200, 124, 60)]
    asked = replace(view(5.0, *who, model=MODEL), in_flight=flights)
    assert Valley().decide(asked, None).release == ["b124", "b60"]
    assert Valley().decide(replace(asked, now=5.5), None).release == ["b60"]
    two = {"talk": flights["talk"], "more": InFlight(replace(TALK, id="more"), "a", 5.0)}
    assert Valley().decide(replace(asked, now=5.9, in_flight=two), None).release == ["b200", "b124", "b60"]


def test_the_others_see_nothing_of_them() -> None:
    """Else their policy, Batch+, would let everybody go at a deadline of any."""
    talk = Waiting("talk", 5.0, 9.0, 10, 100)
    decision = Valley().decide(view(6.0, *crowd(1, deadline=6.0), talk, model=MODEL), None)
    assert (decision.release, decision.wake_at) == (["batch0"], pytest.approx(6.001))


def test_in_quiet_they_wait_for_company_until_one_must_leave() -> None:
    assert Valley().decide(view(5.0, *crowd(3), model=MODEL), None).release == []
    decision = Valley().decide(view(60.0, *crowd(3), model=MODEL), None)
    assert decision.release == ids(crowd(3))
    assert memory(decision).flag == "batch0"


def test_in_quiet_those_who_come_while_the_first_runs_join() -> None:
    asked = view(5.0, *crowd(3)[1:], in_flight=crowd(1), model=MODEL)
    assert Valley().decide(asked, Remembered(flag="batch0")).release == ["batch1", "batch2"]
    assert Valley().decide(asked, Remembered(flag="gone")).release == []


def test_in_quiet_as_many_as_may_run_need_not_wait() -> None:
    # one interactive request could bear ten
    assert Valley().decide(view(5.0, *crowd(10), model=MODEL), None).release == []
    decision = Valley().decide(view(5.0, *crowd(11), model=MODEL), None)
    assert decision.release == ids(crowd(10))
    assert memory(decision).flag == "batch0"


def test_a_deadline_wins_over_every_bound() -> None:
    decision = Valley().decide(view(80.0, *crowd(30), in_flight=[TALK], model=MODEL), Remembered(pause_until=90.0))
    assert sorted(decision.release) == sorted(ids(crowd(21)))


def test_nobody_gives_up_a_long_hold_for_a_short_wait_for_a_slot() -> None:
    room = Room(Valley(), Spread(), {"a": 4, "b": 4}, model=H200)
    for number in range(8):
        room.admit(Waiting(f"talk{number}", 0.0, 0.0, 200, 2000))
    assert len(room.tick(0.0).leaving) == 8
    for one in crowd(50, deadline=3600.0):
        room.admit(one)
    for second in range(1, 60):
        room.tick(float(second))
    assert (room.held, room.ready) == (50, 0)
    room.ended("talk0", 60.0)
    assert len(room.tick(60.0).leaving) == 1
    assert (room.held, room.ready) == (49, 0)


def test_without_a_model_so_many_sequences_are_in_flight() -> None:
    decision = Valley(sequences=4).decide(view(5.0, *crowd(9), in_flight=[TALK, *crowd(1, tier=Tier.FLEX)]), None)
    assert (decision.release, decision.wake_at) == (ids(crowd(3)), None)


# --- what it is worth, simulated -------------------------------------------------------------------------------------


def talks(per_s: float, until: float, seed: int) -> list[Arrival]:
    random, at, arrivals = Random(seed), 0.0, []
    while (at := at + random.expovariate(per_s)) < until:
        arrivals.append(Arrival(Waiting(f"talk{len(arrivals)}", at, at, 256, 128), 128))
    return arrivals


def batch(times: Sequence[float], slack_s: float) -> list[Arrival]:
    return [
        Arrival(Waiting(f"b{n}", at, at + slack_s, 256, 128, tier=Tier.BATCH), 128) for n, at in enumerate(sorted(times))
    ]  # fmt: skip


def run(arrivals: list[Arrival], policy: Policy) -> Run:
    return simulate(arrivals, Strategy(policy, Spread(), "", ""), H200)


def of(run: Run, tier: Tier) -> list[Served]:
    return [served for served in run.served.values() if served.waiting.tier is tier]


def token_s(run: Run) -> tuple[float, float]:
    """Seconds a token of interactive requests: the mean, and the 99th of a hundred."""
    times = sorted(served.tpot_s for served in of(run, Tier.INTERACTIVE))
    return sum(times) / len(times), times[len(times) * 99 // 100]


def active_j(run: Run) -> float:
    return sum(served.energy_j for served in run.served.values())


@pytest.mark.parametrize("seed", [1, 2])
def test_background_work_costs_a_third_while_tokens_stay_within_the_bound(seed: int) -> None:
    interactive = talks(2.0, 150.0, seed)
    random = Random(seed + 9)
    background = batch([random.uniform(0, 150) for _ in range(300)], 60.0)
    alone, straight, valley = (
        run(arrivals, policy)
        for arrivals, policy in (
            (interactive, Passthrough()),
            (interactive + background, Passthrough()),
            (interactive + background, Valley()),
        )
    )
    assert active_j(valley) - active_j(alone) < 0.45 * (active_j(straight) - active_j(alone))
    assert token_s(valley)[0] < 1.1 * token_s(alone)[0]


@pytest.mark.parametrize("per_s", [2.0, 8.0])
def test_a_burst_of_background_work_is_not_felt(per_s: float) -> None:
    """A thousand at once, with ten minutes of time: straight through, first tokens wait for eight seconds."""
    interactive, background = talks(per_s, 120.0, 1), batch([20.0] * 1000, 600.0)
    alone, straight, valley = (
        run(arrivals, policy)
        for arrivals, policy in (
            (interactive, Passthrough()),
            (interactive + background, Passthrough()),
            (interactive + background, Valley()),
        )
    )
    assert token_s(valley)[0] < 1.1 * token_s(alone)[0]
    assert token_s(valley)[1] < 1.12 * token_s(alone)[1] < 0.7 * token_s(straight)[1]
    slowest = [max(served.ttft_s for served in of(one, Tier.INTERACTIVE)) for one in (valley, straight)]
    assert slowest[0] < 0.1 < 4.0 < slowest[1]
    assert all(served.released_at <= served.waiting.deadline for served in of(valley, Tier.BATCH))
