"""How many may wait: the limit in numbers, where it is of no use, and that it is near the best of all limits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, inf, sqrt
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.adaptive import Adaptive, Remembered, own_s
from policies.base import Decision, Policy, View, Waiting
from policies.passthrough import Passthrough
from policies.simulate import Arrival, Run, simulate
from policies.span import Span
from policies.spread import Spread
from policies.strategy import Strategy
from telemetry.cost import Linear, StepModel, load_profile
from telemetry.traffic import Traffic
from tests.policies.test_policies import view

H200 = load_profile()
# a step lasts 10 ms and costs 4 J, whoever is in it: a busy engine burns 400 W
FLAT = StepModel("flat", Linear(0.01, 0.0, 0.0, 0.0), Linear(4.0, 0.0, 0.0, 0.0), idle_power_w=100.0)


def traffic(per_s: float, prompt_tokens: float = 10.0, output_tokens: float = 100.0) -> Traffic:
    return Traffic(per_s, per_s, prompt_tokens, output_tokens, 60.0)


def crowd(n: int, deadline: float = 60.0) -> list[Waiting]:
    return [Waiting(f"r{number}", 0.0, deadline + number, 10, 100) for number in range(n)]


def test_the_limit_in_numbers() -> None:
    # one request a second of one second each: L = 1, P/w = 40, t/T = exp(-1)
    limit = Adaptive(10.0).limit(view(0.0, model=FLAT, traffic=traffic(1.0)))
    assert limit == pytest.approx(sqrt(1 + 2 * 40 * (1 + exp(-1)) - 1) - 1)
    assert limit == pytest.approx(9.46, abs=0.01)


@pytest.mark.parametrize(("n", "leave"), [(9, False), (10, True)])
def test_all_leave_once_the_limit_is_reached(n: int, leave: bool) -> None:
    decision = Adaptive(10.0).decide(view(5.0, *crowd(n), model=FLAT, traffic=traffic(1.0)), None)
    holds = Decision(wake_at=10.0, memory=Remembered(None, 9, 5.0))
    assert decision == (Decision([f"r{n}" for n in range(10)], memory=Remembered("r0")) if leave else holds)


def test_at_the_earliest_deadline_all_leave_however_few() -> None:
    decision = Adaptive(10.0).decide(view(60.0, *crowd(3), model=FLAT, traffic=traffic(1.0)), None)
    assert decision == Decision(["r0", "r1", "r2"], memory=Remembered("r0"))


def test_who_comes_while_the_flag_runs_joins_at_once() -> None:
    asked = view(5.0, *crowd(2), model=FLAT, traffic=traffic(1.0), in_flight=["flag"])
    assert Adaptive(10.0).decide(asked, Remembered("flag")) == Decision(["r0", "r1"], memory=Remembered("flag"))
    assert list(Adaptive(10.0).decide(asked, Remembered("another")).release) == []


def test_when_traffic_stops_nobody_waits_for_it() -> None:
    def ask(now: float, n: int, memory: object) -> Decision:
        return Adaptive(10.0).decide(view(now, *crowd(n), model=FLAT, traffic=traffic(1.0)), memory)

    first = ask(1.0, 1, None)
    assert first.wake_at == 6.0  # five mean gaps
    second = ask(3.0, 2, first.memory)
    assert second.wake_at == 8.0  # somebody came
    assert ask(7.9, 2, second.memory) == Decision(wake_at=8.0, memory=second.memory)
    assert ask(8.0, 2, second.memory).release == ["r0", "r1"]
    assert ask(7.0, 1, second.memory).wake_at == 8.0  # that a client left is no arrival


@pytest.mark.parametrize(
    ("per_s", "in_flight", "why"),
    [
        (100.0, 0, "saturation: the engine is busy all the time"),
        (0.001, 0, "nobody is likely to come"),
        (1.0, 40, "so many run that none's share of the base is worth a wait"),
    ],
)
def test_where_nothing_is_to_be_saved_nobody_waits(per_s: float, in_flight: int, why: str) -> None:
    asked = view(0.0, *crowd(1), model=FLAT, traffic=traffic(per_s), in_flight=[f"f{n}" for n in range(in_flight)])
    assert Adaptive(10.0).decide(asked, None).release == ["r0"], why


def test_overload_is_no_time_to_wait() -> None:
    assert own_s(H200, traffic(1.0, 256, 128)) * 100 == pytest.approx(0.9, abs=0.1)  # so 150/s cannot be served
    assert Adaptive().limit(view(0.0, model=H200, traffic=traffic(150.0, 256, 128))) <= 0


@pytest.mark.parametrize("known", [{"model": FLAT}, {"traffic": traffic(1.0)}, {}])
def test_what_is_unknown_makes_it_span(known: dict[str, object]) -> None:
    asked = view(5.0, *crowd(50), **known)  # type: ignore[arg-type]
    assert Adaptive().limit(asked) == inf
    for now in (5.0, 59.9, 60.0):
        decision, span = (policy.decide(replace(asked, now=now), None) for policy in (Adaptive(), Span()))
        assert (list(decision.release), decision.wake_at) == (list(span.release), span.wake_at)


rates = st.floats(1e-6, 1e4)


@given(rates, st.floats(1e-3, 1e6), st.floats(0, 1e5), st.floats(0, 1e5), st.sampled_from([FLAT, H200]))
def test_there_is_always_a_limit(rate: float, wait_j_per_s: float, prompt: float, output: float, model: StepModel) -> None:
    limit = Adaptive(wait_j_per_s).limit(view(0.0, model=model, traffic=traffic(rate, prompt, output)))
    assert 0 <= limit < inf


@given(rates, st.floats(1.0, 100.0), st.floats(1.01, 10.0))
def test_dearer_waits_are_shorter(rate: float, wait_j_per_s: float, dearer: float) -> None:
    asked = view(0.0, model=H200, traffic=traffic(rate, 256, 128))
    assert Adaptive(wait_j_per_s * dearer).limit(asked) <= Adaptive(wait_j_per_s).limit(asked)


# --- what it is worth, simulated -------------------------------------------------------------------------------------


def poisson(per_s: float, n: int, slack_s: float, seed: int) -> list[Arrival]:
    random, at, arrivals = Random(seed), 0.0, []
    for number in range(n):
        at += random.expovariate(per_s)
        arrivals.append(Arrival(Waiting(f"r{number}", at, at + slack_s, 256, 128), 128))
    return arrivals


def run(arrivals: list[Arrival], policy: Policy) -> Run:
    return simulate(arrivals, Strategy(policy, Spread(), "", ""), H200)


def told(run: Run) -> tuple[float, float]:
    """Joules net of idle, and seconds of wait, a request."""
    return (
        sum(served.energy_j for served in run.served.values()) / run.completed,
        sum(served.wait_s for served in run.served.values()) / run.completed,
    )


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("per_s", [0.5, 2.0])
def test_where_there_is_much_to_save_it_saves_what_span_does(per_s: float, seed: int) -> None:
    arrivals = poisson(per_s, 300, 2.0, seed)
    straight, span, adaptive = (told(run(arrivals, policy)) for policy in (Passthrough(), Span(), Adaptive()))
    assert adaptive[0] < 1.05 * span[0] < 0.7 * straight[0]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("per_s", [40.0, 80.0])
def test_where_there_is_little_to_save_nobody_waits(per_s: float, seed: int) -> None:
    arrivals = poisson(per_s, 1500, 8.0, seed)
    straight, span, adaptive = (told(run(arrivals, policy)) for policy in (Passthrough(), Span(), Adaptive()))
    assert adaptive[1] < 0.02 * span[1]
    assert adaptive[0] < 1.02 * straight[0]


@dataclass(frozen=True, slots=True)
class Limit(Adaptive):
    """The same with a limit that is set."""

    n: int = 1

    def limit(self, view: View) -> float:
        return self.n


@pytest.mark.parametrize("per_s", [1.0, 5.0, 20.0, 30.0])
def test_the_limit_is_near_the_best_of_all_limits(per_s: float) -> None:
    """The best is found afterwards and for these very arrivals, so it has luck that no rule can have."""
    crowds = [poisson(per_s, 400, 60.0, seed) for seed in (1, 2, 3)]

    def cost_j(policy: Policy) -> float:
        both = [told(run(arrivals, policy)) for arrivals in crowds]
        return sum(joules + 10.0 * wait_s for joules, wait_s in both)

    best = min(cost_j(Limit(n=n)) for n in (1, 3, 5, 7, 10, 14, 20, 28, 40))
    assert cost_j(Adaptive()) < 1.1 * best
