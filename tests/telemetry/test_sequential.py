"""Student's t, the always-valid interval and the power of both, against tables and by trial."""

from __future__ import annotations

from math import exp, log, sqrt
from random import Random
from statistics import stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.detection import detectable, needed, probability
from telemetry.sequential import always_valid, asymptotic, fewest, standard_errors
from telemetry.student import Interval, deviation, mean_interval, power, quantile, within


@pytest.mark.parametrize(
    ("probability", "freedom", "t"),
    [(0.975, 1, 12.7062), (0.975, 2, 4.3027), (0.95, 5, 2.0150), (0.995, 7, 3.4995), (0.975, 30, 2.0423), (0.975, 120, 1.9799)],
)
def test_quantiles_are_those_of_the_tables(probability: float, freedom: int, t: float) -> None:
    assert quantile(probability, freedom) == pytest.approx(t, abs=1e-4)
    assert within(quantile(probability, freedom), freedom) == pytest.approx(2 * probability - 1)
    assert quantile(1 - probability, freedom) == pytest.approx(-t, abs=1e-4)


def test_power_is_what_trials_find() -> None:
    random, critical, found = Random(4), quantile(0.975, 9), 0
    for _ in range(4000):
        values = [random.gauss(0.9, 1) for _ in range(10)]
        found += abs(sum(values) / 10) > critical * stdev(values) / sqrt(10)
    assert found / 4000 == pytest.approx(power(0.9 * sqrt(10), 9, critical), abs=0.025)
    assert power(0, 9, critical) == pytest.approx(0.05, abs=1e-6)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=30))
def test_the_deviation_is_pythons(values: list[float]) -> None:
    assert deviation(values) == pytest.approx(stdev(values), abs=1e-9)


def test_the_interval_ends_where_the_mixture_says_one_in_alpha() -> None:
    """The Bayes factor of Rouder, Speckman, Sun, Morey and Iverson (2009) with a fixed g, reckoned by itself."""
    for pairs, spread, alpha in ((6, 4.0, 0.05), (12, 1.0, 0.05), (40, 0.25, 0.01)):
        t = standard_errors(pairs, spread, alpha)
        assert t is not None
        freedom, reach = pairs - 1, 1 + pairs * spread
        alternative = (1 + t * t / (reach * freedom)) ** (-pairs / 2)
        assert alternative / sqrt(reach) / (1 + t * t / freedom) ** (-pairs / 2) == pytest.approx(1 / alpha)


def test_watched_after_every_pair_it_errs_no_more_than_it_says_and_others_do() -> None:
    """Fixed seed; of 400 experiments without an effect the bound of 5 % would show 34 with a chance of one in a thousand."""
    random = Random(7)
    wrong = {"always_valid": 0, "asymptotic": 0, "student": 0}
    for _ in range(400):
        values = [random.gauss(0, 1) for _ in range(24)]
        first = [values[:pairs] for pairs in range(2, 25)]
        wrong["always_valid"] += any((found := always_valid(seen, 24)) and found.excludes(0) for seen in first)
        wrong["asymptotic"] += any((found := asymptotic(seen, 24)) and found.excludes(0) for seen in first)
        wrong["student"] += any((found := mean_interval(seen)) and found.excludes(0) for seen in first)
    assert wrong["always_valid"] <= 34
    assert wrong["asymptotic"] > 60
    assert wrong["student"] > 60


@given(st.lists(st.floats(-3, 3), min_size=6, max_size=30), st.floats(-10, 10), st.floats(0.01, 100))
def test_it_moves_and_scales_with_the_values(values: list[float], shift: float, scale: float) -> None:
    one, other = always_valid(values, 12), always_valid([shift + scale * value for value in values], 12)
    assert one is not None
    assert other is not None
    assert one.low is not None
    assert other.low is not None
    assert other.low == pytest.approx(shift + scale * one.low, abs=1e-6 * (1 + abs(shift) + scale))


def test_few_pairs_have_no_bounds() -> None:
    assert always_valid([], 12) is None
    assert always_valid([0.3] * 5, 12) == Interval(0.3)
    found = always_valid([0.3] * 6, 12)
    assert found is not None
    assert found.bounded
    assert (fewest(0.05), fewest(0.01)) == (6, 8)


def test_what_is_detectable_is_detected_as_often_as_asked() -> None:
    least = detectable(0.05, 12)
    assert probability(-least, 0.05, 12) == pytest.approx(0.8, abs=1e-6)
    assert detectable(0.05, 12, watched=False) < least < detectable(0.1, 12)
    assert detectable(0.05, 24) < least
    assert detectable(0.05, 4) == 1.0, "four pairs find nothing, whatever it is"
    pairs = needed(-least, 0.05)
    assert pairs == 12
    assert needed(-1e-6, 1.0) is None
    shift = -log(1 - least) / 0.05 * sqrt(12)
    assert exp(-shift * 0.05 / sqrt(12)) == pytest.approx(1 - least)


@pytest.mark.parametrize("wrong", [(-1.0, 0.1, 5), (0.1, -1.0, 5), (0.1, 0.1, 1), (0.1, float("nan"), 5)])
def test_power_of_nonsense_is_refused(wrong: tuple[float, float, int]) -> None:
    with pytest.raises(ValueError, match="power needs"):
        probability(*wrong)
