"""Shadows against the simulator: fed with what was, in whatever pieces, they come to what it comes to."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.base import Action, Decision, View, Waiting
from policies.lived import AS_RUN, STRAIGHT, Lived, Tended, Totals
from policies.shadow import Episode
from policies.simulate import Arrival, Run, simulate
from policies.strategy import Choice, Strategy, build
from telemetry.cost import Linear, StepModel

MODEL = StepModel("toy", Linear(0.05, 0.001, 0.0001, 0.0), Linear(2.0, 0.02, 0.01, 0.0), idle_power_w=100.0, max_sequences=8)
SLEEPER = replace(MODEL, sleep_power_w=40.0, sleep_s=1.0, wake_s=2.0, wake_j=50.0)


def strategy(policy: str, placement: str = "spread", **params: object) -> Strategy:
    return build(Choice(policy, params), Choice(placement, {}))


def arrival(number: int, at: float, slack: float = 0.0, output: int = 10) -> Arrival:
    return Arrival(Waiting(f"r{number:03}", at, at + slack, 50, 64), output)


def arrivals(gaps: list[float], slack: float) -> list[Arrival]:
    at, made = 0.0, []
    for number, gap in enumerate(gaps):
        at += gap
        made.append(arrival(number, at, slack, 5 + number % 7))
    return made


def lived(run: Run, came: list[Arrival], policy: str = "p") -> list[Lived]:
    """As a live proxy would have seen a run."""
    return [
        was(one, run.served[one.waiting.id].released_at, run.served[one.waiting.id].server, policy, 0.5)
        for one in came
        if run.served[one.waiting.id].ended_at < float("inf")
    ]


def was(one: Arrival, *where: object) -> Lived:
    return Lived(one.waiting, one.waiting.prompt_tokens, one.output_tokens, *where)  # type: ignore[arg-type]


def episode(
    strategies: dict[str, Strategy] | None = None, servers: int = 1, model: StepModel = MODEL, **more: object
) -> Episode:
    names = {f"engine-{number}": None for number in range(servers)}
    totals = {name: Totals() for name in (STRAIGHT, AS_RUN, *(strategies or {}))}
    return Episode(model, names, strategies or {}, totals, 0.0, **more)  # type: ignore[arg-type]


def through(shadows: Episode, until: float) -> None:
    for _ in shadows.advance(until):
        pass


GAPS = st.lists(st.floats(0.0, 3.0), min_size=1, max_size=25)


@settings(deadline=None, max_examples=40)
@given(GAPS, st.sampled_from(["span", "passthrough"]), st.integers(1, 3))
def test_the_gain_is_what_two_simulations_differ_by(gaps: list[float], policy: str, servers: int) -> None:
    came = arrivals(gaps, slack=1.5)
    ran = simulate(came, strategy(policy), MODEL, servers=servers)
    straight = simulate(came, strategy("passthrough"), MODEL, servers=servers)
    shadows = episode(servers=servers)
    shadows.feed(lived(ran, came))
    through(shadows, 1000.0)
    totals = shadows.totals[AS_RUN]
    active = [sum(served.energy_j for served in run.served.values()) for run in (straight, ran)]
    assert totals.saved_j == pytest.approx(active[0] - active[1], abs=1e-6)
    assert (totals.compared, totals.requests) == (len(came), len(came))
    assert totals.saved_by["p"] == totals.saved_j
    assert shadows.totals[STRAIGHT].energy_j == pytest.approx(active[0] + servers * 100.0 * 1000.0)
    if policy == "passthrough":
        assert totals.saved_j == pytest.approx(0, abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(GAPS, st.lists(st.floats(0.1, 20.0), min_size=1, max_size=10))
def test_fed_in_pieces_it_is_the_same(gaps: list[float], pieces: list[float]) -> None:
    came = arrivals(gaps, slack=2.0)
    whole = lived(simulate(came, strategy("span"), MODEL, servers=2), came)
    at_once, in_pieces = (episode({"w": strategy("window", every_s=1.0)}, servers=2) for _ in range(2))
    at_once.feed(whole)
    through(at_once, 1000.0)
    until = 0.0
    for piece in [*pieces, 1000.0]:
        told = [one for one in whole if until < one.waiting.arrived_at <= until + piece]
        if until == 0.0:
            told += [one for one in whole if one.waiting.arrived_at == 0.0]
        in_pieces.feed(reversed(told))
        until += piece
        through(in_pieces, until)
    for name, totals in at_once.totals.items():
        other = in_pieces.totals[name]
        assert (other.requests, other.compared, other.releases) == (totals.requests, totals.compared, totals.releases)
        assert other.saved_j == pytest.approx(totals.saved_j, abs=1e-6)
        assert sorted(other.waits_s) == pytest.approx(sorted(totals.waits_s))
    assert in_pieces.open == in_pieces.unfinished == 0


def test_a_shadow_is_the_simulation_of_its_strategy() -> None:
    came = arrivals([0.3] * 40, slack=2.0)
    shadows = episode({"grouped": strategy("window", every_s=1.0)})
    shadows.feed(lived(simulate(came, strategy("passthrough"), MODEL), came))
    through(shadows, 500.0)
    alone = simulate(came, strategy("window", every_s=1.0), MODEL)
    totals = shadows.totals["grouped"]
    assert totals.active_j == pytest.approx(sum(served.energy_j for served in alone.served.values()))
    assert list(totals.waits_s) == pytest.approx([served.wait_s for served in alone.served.values()])
    assert totals.saved_j > 0
    assert totals.releases == {"policy": 40}


def test_while_requests_are_held_nothing_is_counted_as_saved() -> None:
    """A strategy that holds is behind: what it has not begun is no saving."""
    came = [arrival(number, 0.1 * number, slack=100.0) for number in range(10)]
    shadows = episode({"held": strategy("span")})
    shadows.feed(lived(simulate(came, strategy("passthrough"), MODEL), came))
    through(shadows, 50.0)
    assert shadows.totals[STRAIGHT].requests == 10
    assert (shadows.totals["held"].requests, shadows.totals["held"].saved_j) == (0, 0.0)
    through(shadows, 300.0)
    assert shadows.totals["held"].compared == 10
    assert shadows.totals["held"].saved_j > 0


def test_what_sleeping_servers_save_is_rest_and_is_the_policys_in_force() -> None:
    shadows = episode(servers=2, model=SLEEPER, in_force="span")
    sleep, wake = Tended(10.0, "engine-1", Action.SLEEP), Tended(111.0, "engine-1", Action.WAKE)
    shadows.feed([], [wake, sleep])
    through(shadows, 200.0)
    slept_j = (100.0 - 40.0) * (111.0 - 10.0 - 1.0) - 50.0
    assert shadows.totals[AS_RUN].saved_by == {"span": pytest.approx(slept_j)}
    assert shadows.totals[STRAIGHT].energy_j == pytest.approx(2 * 100.0 * 200.0)
    assert shadows.totals[AS_RUN].energy_j == pytest.approx(2 * 100.0 * 200.0 - slept_j)


def test_who_is_told_too_late_comes_late_and_is_not_lost() -> None:
    shadows = episode()
    through(shadows, 10.0)
    shadows.feed([was(arrival(0, 4.0), 5.0, "engine-0"), was(arrival(1, 11.0), 11.0, "engine-0")])
    through(shadows, 60.0)
    assert shadows.totals[STRAIGHT].requests == shadows.totals[AS_RUN].compared == 2


def test_who_came_before_it_began_is_left_out() -> None:
    shadows = episode()
    shadows.feed([was(arrival(0, -1.0), 5.0, "engine-0")])
    through(shadows, 60.0)
    assert shadows.totals[STRAIGHT].requests == shadows.open == 0


def test_as_run_late_and_waits_are_those_that_were_seen() -> None:
    shadows = episode()
    shadows.feed([was(arrival(0, 1.0, slack=1.0), 3.0, "engine-0", "span", 2.5)])
    through(shadows, 60.0)
    totals = shadows.totals[AS_RUN]
    assert (list(totals.waits_s), list(totals.ttfts_s), totals.late) == ([2.0], [2.5], 1)
    assert (list(shadows.totals[STRAIGHT].waits_s), shadows.totals[STRAIGHT].late) == ([0.0], 0)


class Raises:
    def decide(self, view: View, memory: object) -> Decision:
        raise RuntimeError("a policy of somebody's")


def test_a_policy_that_raises_is_counted_and_lets_go() -> None:
    bad = Strategy(Raises(), strategy("span").placement, "bad", "spread")
    shadows = episode({"bad": bad})
    shadows.feed([was(arrival(0, 1.0, slack=5.0), 1.0, "engine-0")])
    through(shadows, 60.0)
    totals = shadows.totals["bad"]
    assert (totals.faults, totals.requests, totals.releases) == (1, 1, {"fault": 1})


def test_a_server_that_is_gone_stands_for_another() -> None:
    shadows = episode(servers=2)
    shadows.feed([was(arrival(0, 1.0), 1.0, "http://gone")])
    through(shadows, 60.0)
    assert shadows.totals[AS_RUN].compared == 1
