"""Waiting for better hours: which hour, who cannot wait for it, and what it is worth in grams."""

from __future__ import annotations

from math import inf
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.base import Decision, Policy, Tier, View, Waiting
from policies.carbon import LAST_CALL_S, Carbon, Remembered, better_at, worse_at
from policies.held import Held
from policies.passthrough import Passthrough
from policies.simulate import Arrival, Run, simulate
from policies.span import Span
from policies.spread import Spread
from policies.strategy import Choice, Strategy, UnknownStrategy, build
from telemetry.cost import load_profile
from telemetry.factors import Rate
from tests.policies.test_policies import view

MIDNIGHT = 1_764_028_800.0  # 2025-11-25 00:00 UTC
HOUR = 3600.0
LAST_CALL = LAST_CALL_S / HOUR
# at 0, 1, 2, ... o'clock; from 5 to 6 nobody knows
DAY = [400, 390, 300, 350, 200, None, 190, 450]


@pytest.fixture
def day(tmp_path: Path) -> str:
    file = tmp_path / "day.csv"
    rows = [f"2025-11-25T{hour:02}:00Z,{'' if grams is None else grams}" for hour, grams in enumerate(DAY)]
    file.write_text("\n".join(["hour,g/kWh", *rows]))
    return str(file)


def waiting(id: str, hours: float, tier: Tier = Tier.BATCH) -> Waiting:
    return Waiting(id, 0.0, hours * HOUR, 10, 20, tier=tier)


def at(hours: float, *who: Waiting) -> View:
    return view(hours * HOUR, *who, wall_s=MIDNIGHT + hours * HOUR)


@pytest.mark.parametrize(
    ("now", "deadline", "leaves", "wake_at"),
    [
        (0.5, 20.0, False, 2.0),  # 390 is not better than 400 by a tenth, 300 at 2 is
        (0.5, 1.9, False, 1.9),  # it cannot wait for that, but for company
        (1.9, 1.9, True, 2.0),
        (2.0, 20.0, False, 4.0),  # at 2 it asks again, and 200 at 4 is better still
        (2.0, 3.5, False, 3.0 - LAST_CALL),  # 300 is the best that it can have, until 3
        (3.0 - LAST_CALL, 3.5, True, 4.0),
        (3.2, 20.0, False, 4.0),
        (4.0, 20.0, False, 5.0 - LAST_CALL),  # 190 at 6 is no tenth better: this is the hour
        (4.999, 20.0, True, None),
        (5.5, 20.0, True, None),  # nobody knows what it is now, so nobody waits
        (7.5, 20.0, False, 8.0 - LAST_CALL),  # the last value, which holds for an hour
        (8.5, 20.0, True, None),
        (-1.0, 20.0, True, None),  # before the file begins
    ],
)
def test_who_can_waits_for_the_next_better_hour_and_in_it_for_company(
    day: str, now: float, deadline: float, leaves: bool, wake_at: float | None
) -> None:
    decision = Carbon(day).decide(at(now, waiting("x", deadline)), None)
    assert list(decision.release) == (["x"] if leaves else [])
    assert decision.wake_at == pytest.approx(inf if wake_at is None else wake_at * HOUR)
    assert decision.memory == Remembered(None, "x" if leaves else None)


def test_one_that_must_leave_takes_along_who_waits_for_nothing_better(day: str) -> None:
    who = [waiting("must", 1.5), waiting("may", 1.9, Tier.FLEX), waiting("waits for two o'clock", 2.5)]
    decision = Carbon(day).decide(at(1.5, *who), None)
    assert sorted(decision.release) == ["may", "must"]
    later = view(1.5 * HOUR + 1, waiting("joins", 1.8), who[2], in_flight=["must"], wall_s=MIDNIGHT + 1.5 * HOUR + 1)
    assert Carbon(day).decide(later, decision.memory).release == ["joins"]


def test_a_clock_that_is_a_hair_early_is_in_the_new_hour(day: str) -> None:
    asked = view(2 * HOUR, waiting("x", 20.0), wall_s=MIDNIGHT + 2 * HOUR - 1e-6)
    assert Carbon(day).decide(asked, None).wake_at == pytest.approx(4 * HOUR)


def test_gain_says_what_is_worth_a_wait(day: str) -> None:
    who = waiting("x", 20.0)
    assert Carbon(day, gain=0.02).decide(at(4.0, who), None).wake_at == 6 * HOUR
    # until 5 it becomes no worse than it is now
    assert Carbon(day, gain=0.6).decide(at(0.0, who), None).wake_at == pytest.approx((5 - LAST_CALL) * HOUR)


def test_the_others_leave_by_their_own_policy(day: str) -> None:
    who = [waiting("batch", 20.0), waiting("soon", 0.6, Tier.INTERACTIVE), waiting("flex", 20.0, Tier.FLEX)]
    asked = at(0.5, *who)
    assert Carbon(day).decide(asked, None) == Decision((), 0.6 * HOUR, Remembered())
    assert Carbon(day, policy=Passthrough()).decide(asked, None) == Decision(["soon"], 2 * HOUR, Remembered())
    assert Carbon(day).decide(at(0.6, *who), None) == Decision(["soon"], 2 * HOUR, Remembered("soon"))


def test_the_inner_memory_outlives_instants_at_which_it_is_not_asked(day: str) -> None:
    assert Carbon(day).decide(at(0.5, waiting("batch", 20.0)), Remembered("flag")).memory == Remembered("flag")


def test_negative_and_zero_prices_have_better_hours_too() -> None:
    rate = Rate("EUR", "", (0.0, 1.0, 2.0, 3.0, 4.0), (10.0, 0.0, 0.0, -5.0, -5.2))
    assert better_at(rate, 0.1) == (1.0, 3.0, 3.0, inf, inf)
    assert better_at(rate, 0.0) == (1.0, 3.0, 3.0, 4.0, inf)
    assert worse_at(rate) == (inf, inf, inf, inf, inf)


prices = st.lists(st.one_of(st.none(), st.integers(-20, 20).map(float)), min_size=1, max_size=30)


@given(prices, st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_the_next_better_hour_is_what_a_search_finds(values: list[float | None], gain: float) -> None:
    def search(now: int) -> float:
        value = values[now]
        later = enumerate(values[now + 1 :], now + 1)
        good = (
            float(n)
            for n, v in later
            if None not in (v, value) and v < value and v <= value - gain * abs(value)  # type: ignore[operator,arg-type]
        )
        return inf if value is None else next(good, inf)

    rate = Rate("", "", tuple(map(float, range(len(values)))), tuple(values))
    assert list(better_at(rate, gain)) == [search(now) for now in range(len(values))]


@given(prices, st.sampled_from([0.7, 1.0, inf]))
def test_it_is_not_worse_until_it_is(values: list[float | None], step_s: float) -> None:
    def search(now: int) -> float:
        own, end = values[now], now
        while end + 1 < len(values) and step_s >= 1 and own is not None:
            following = values[end + 1]
            if following is None or following > own:
                break
            end += 1
        return min(end + step_s, end + 1 if end + 1 < len(values) else inf)

    rate = Rate("", "", tuple(map(float, range(len(values)))), tuple(values), step_s)
    assert list(worse_at(rate)) == [search(now) for now in range(len(values))]


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, day: str) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        Carbon(str(tmp_path / "nowhere.csv"))
    bad = tmp_path / "bad.csv"
    bad.write_text("2025-11-25T00:00Z,400\n2025-11-25T01:00Z,much\n")
    with pytest.raises(ValueError, match="line 2: 'much' is not a number"):
        Carbon(str(bad))
    for params in ({"gain": -0.1}, {"gain": 1.1}, {"step_s": 0.0}):
        with pytest.raises(ValueError, match=next(iter(params))):
            Carbon(day, **params)


def test_it_is_built_and_told_by_its_parameters(day: str) -> None:
    built = build(Choice("carbon", {"file": day, "policy": "passthrough"}), Choice("spread", {}))
    assert built.policy == Carbon(day, policy=Passthrough())
    params = {"file": day, "gain": 0.1, "step_s": HOUR, "policy": {"name": "passthrough", "params": {}}}
    assert built.describe()["policy"] == {"name": "carbon", "params": params}
    with pytest.raises(UnknownStrategy, match="file"):
        build(Choice("carbon", {}), Choice("spread", {}))


def test_a_file_with_other_values_makes_another_policy(tmp_path: Path) -> None:
    file = tmp_path / "hours.csv"
    file.write_text("0,400\n")
    before = Carbon(str(file))
    assert before == Carbon(str(file))
    file.write_text("0,300\n")
    assert before != Carbon(str(file))


def test_nobody_is_looked_at_who_has_time(day: str) -> None:
    class Watched(Held):
        def __iter__(self) -> None:  # type: ignore[override]
            raise AssertionError("was passed over")

    asked = at(0.5, *(waiting(f"r{n}", 20.0) for n in range(1000)), waiting("due", 0.5))
    held = asked.waiting
    assert isinstance(held, Held)
    held.of(Tier.BATCH).__class__ = Watched
    assert Carbon(day).decide(asked, None).release == ["due"]


# --- what it is worth, simulated -------------------------------------------------------------------------------------


def sun(file: Path) -> Path:
    """A day like those of a grid with much sun: 450 g at night, down to 150 at noon."""
    rows = [f"{MIDNIGHT + hour * HOUR},{450 - 300 * max(0.0, 1 - abs(hour - 12) / 6)}" for hour in range(25)]
    file.write_text("\n".join(rows))
    return file


def grams(run: Run, file: str) -> float:
    rate = Carbon(file)._rate
    factors = [(served, rate.at(MIDNIGHT + served.released_at)) for served in run.served.values()]
    return sum(served.energy_j / 3.6e6 * factor.per_kwh for served, factor in factors if factor)


@pytest.mark.parametrize("seed", [1, 2])
def test_grams_fall_and_nobody_leaves_late(tmp_path: Path, seed: int) -> None:
    file = str(sun(tmp_path / "sun.csv"))
    random = Random(seed)
    arrivals = []
    for n in range(1000):
        come, slack, tier = random.uniform(0, 12), random.uniform(3, 6), random.choice([Tier.FLEX, Tier.BATCH])
        arrivals.append(Arrival(Waiting(f"r{n}", come * HOUR, (come + slack) * HOUR, 256, 128, tier=tier), 128))

    def run(policy: Policy) -> Run:
        return simulate(arrivals, Strategy(policy, Spread(), "", ""), load_profile(), wall_offset_s=MIDNIGHT)

    carbon, straight, span = run(Carbon(file)), run(Passthrough()), run(Span())
    # most of what it saves over straight through is the groups; over Batch+ it is the hours
    assert grams(carbon, file) < 0.92 * grams(span, file) < 0.1 * grams(straight, file)
    rate = Carbon(file)._rate

    def per_kwh(at_s: float) -> float:
        factor = rate.at(MIDNIGHT + at_s)
        assert factor is not None
        return factor.per_kwh

    hours = [hour * HOUR for hour in range(25)]
    for served in carbon.served.values():
        come, latest = served.waiting.arrived_at, served.waiting.deadline
        assert served.released_at <= latest
        best = min(per_kwh(at_s) for at_s in (come, latest, *(hour for hour in hours if come < hour < latest)))
        assert per_kwh(served.released_at) * 0.9 <= best
