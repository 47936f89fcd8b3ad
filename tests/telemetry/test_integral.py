"""A counter bridged by its power: what is told never goes back, is exact where the counter is good, and is power elsewhere."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.integral import Bridge, PowerIntegral
from telemetry.snapshot import Source

LOOK_S = 0.02
powers = st.none() | st.floats(0.0, 1000.0)


def watch(bridge: Bridge, looks: list[tuple[int | None, float | None]], every_s: float = LOOK_S) -> list[tuple[int, Source]]:
    told = []
    for n, (counter_uj, power_w) in enumerate(looks):
        bridge.observe(counter_uj, power_w, n * every_s)
        told.append((bridge.energy_uj, bridge.source))
    return told


@given(
    st.lists(st.tuples(st.none() | st.integers(0, 10**12), powers), min_size=1, max_size=80),
    st.floats(0.001, 3.0),
)
def test_whatever_comes_it_never_goes_back(looks: list[tuple[int | None, float | None]], every_s: float) -> None:
    told = [energy_uj for energy_uj, _ in watch(Bridge("gpu"), looks, every_s)]
    assert all(before <= after for before, after in pairwise(told))


@given(st.integers(0, 10**15), st.lists(st.tuples(st.integers(1, 10**8), st.booleans(), powers), max_size=80))
def test_a_good_counter_is_told_exactly(start_uj: int, steps: list[tuple[int, bool, float | None]]) -> None:
    bridge, counter_uj = Bridge("gpu"), start_uj
    bridge.observe(start_uj, None, 0.0)
    for n, (step_uj, hidden, power_w) in enumerate(steps, 1):
        counter_uj += step_uj
        bridge.observe(None if hidden else counter_uj, power_w, n * LOOK_S)
        if not hidden:
            assert (bridge.energy_uj, bridge.source) == (counter_uj, Source.COUNTER)


@given(st.lists(st.floats(0.0, 1000.0), min_size=2, max_size=80))
def test_without_a_counter_it_is_the_integral(powers_w: list[float]) -> None:
    bridge, integral = Bridge("gpu", emit_every_s=0.0), PowerIntegral()
    for n, power_w in enumerate(powers_w):
        bridge.observe(None, power_w, n * LOOK_S)
        integral.add(power_w, n * LOOK_S)
        assert bridge.energy_uj == integral.energy_uj == bridge.integral_uj
    assert bridge.source is Source.POWER_INTEGRAL


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=6),
    st.floats(50.0, 700.0),
)
def test_a_counter_that_goes_back_costs_no_joule(moves_between: list[int], power_w: float) -> None:
    """The truth is constant power; the counter follows it, and is set to nothing now and then."""
    bridge, counter_uj, looks = Bridge("gpu"), 10**9, []
    for moves in moves_between:
        for _ in range(moves):
            counter_uj += round(power_w * LOOK_S * 1e6)
            looks.append((counter_uj, power_w))
        counter_uj = 0
    told = watch(bridge, [(c, p) for c, p in looks])
    true_uj = power_w * LOOK_S * 1e6 * (len(looks) - 1)
    # where it goes back and never moves again, what is not handed out yet is at most 100 ms of it
    rounded_uj = len(looks)  # each of them is a whole number
    assert true_uj - power_w * 0.1e6 - rounded_uj <= told[-1][0] - told[0][0] <= true_uj + rounded_uj


def test_power_is_the_trapezoid_over_time() -> None:
    integral = PowerIntegral()
    assert not integral.known
    for at_s, power_w in ((0.0, 100.0), (1.0, 200.0), (3.0, 200.0)):
        integral.add(power_w, at_s)
    assert integral.energy_uj == 550_000_000


def test_a_frozen_counter_is_left_after_two_seconds_and_nothing_of_them_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    bridge = Bridge("gpu")
    told = watch(bridge, [(5_000_000, 300.0)] * 251)
    assert told[99] == (5_000_000, Source.COUNTER)
    assert told[100] == (605_000_000, Source.POWER_INTEGRAL)  # two seconds of 300 W, at once
    assert 1_505_000_000 - 36_000_000 <= told[-1][0] <= 1_505_000_000  # the latest 100 ms are not handed out yet
    assert len({energy_uj for energy_uj, _ in told[101:]}) <= 31  # steps of 100 ms, not of every look
    assert len(caplog.records) == 1
    assert "gpu stood still for 2 s: its power is added up" in caplog.text


def test_a_counter_that_moves_again_is_read_again(caplog: pytest.LogCaptureFixture) -> None:
    bridge = Bridge("gpu")
    told = watch(bridge, [(5_000_000, 300.0)] * 126 + [(6_000_000, 300.0), (7_000_000, 300.0)])
    assert told[126] == (761_000_000, Source.POWER_INTEGRAL)  # up to the look that saw it move: 2.52 s of 300 W
    assert told[127] == (762_000_000, Source.COUNTER)
    assert "it is read again" in caplog.text


def test_a_counter_may_stand_still_while_nothing_is_drawn_or_no_power_is_told() -> None:
    for power_w in (0.0, None):
        bridge = Bridge("gpu")
        assert set(watch(bridge, [(5, power_w)] * 500)) == {(5, Source.COUNTER)}


def test_a_counter_that_appears_late_counts_from_its_first_move() -> None:
    told = watch(Bridge("gpu"), [(None, 100.0)] * 6 + [(10**12, 100.0)] * 5 + [(10**12 + 7, 100.0), (10**12 + 9, 100.0)])
    assert told[11] == (22_000_000, Source.POWER_INTEGRAL)
    assert told[12] == (22_000_002, Source.COUNTER)


def test_a_counter_that_goes_back_without_power_says_that_joules_are_lost(caplog: pytest.LogCaptureFixture) -> None:
    told = watch(Bridge("gpu"), [(100, None), (110, None), (3, None), (4, None), (9, None)])
    assert [energy_uj for energy_uj, _ in told] == [100, 110, 110, 110, 115]
    assert "what it draws is lost" in caplog.text


def test_nothing_is_known_before_anything_is_told() -> None:
    bridge = Bridge("gpu")
    bridge.observe(None, None, 0.0)
    assert not bridge.known
    assert bridge.integral_uj is None
