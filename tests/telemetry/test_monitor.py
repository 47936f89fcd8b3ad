"""Finding a counter's steps in readings, and the thread that reads."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.meter import Meter, MeterUnavailable, Rhythm
from telemetry.monitor import Monitor, Steps
from telemetry.snapshot import UNKNOWN, Interval, Reading, Source


def reading(at: float, energy_uj: int, device: str = "gpu") -> Reading:
    return Reading(device, energy_uj, at, Source.COUNTER)


def intervals(steps: Steps, *points: tuple[float, int]) -> list[Interval]:
    return [interval for at, energy in points for interval in steps.observe([reading(at, energy)])]


def test_steps_are_put_halfway_and_the_first_only_begins() -> None:
    found = intervals(Steps(), (0.0, 5), (0.1, 5), (0.2, 9), (0.3, 9), (0.4, 12), (0.5, 12), (0.6, 20))
    assert [(i.start_s, i.end_s, i.energy_uj) for i in found] == [
        (pytest.approx(0.15), pytest.approx(0.35), 3),
        (pytest.approx(0.35), pytest.approx(0.55), 8),
    ]


@given(st.lists(st.integers(0, 3), min_size=2, max_size=50))
def test_nothing_counted_is_lost_after_the_first_step(increments: list[int]) -> None:
    energies = [sum(increments[: n + 1]) for n in range(len(increments))]
    found = intervals(Steps(), *((n / 10, energy) for n, energy in enumerate(energies)))
    changes = [after - before for before, after in pairwise(energies) if after != before]
    assert [i.energy_uj for i in found] == changes[1:]
    assert all(before.end_s == after.start_s for before, after in pairwise(found))


def test_an_interval_is_busy_if_any_look_within_it_was() -> None:
    looks = [(0.0, 0, None), (0.1, 1, False), (0.2, 1, True), (0.3, 2, False), (0.4, 2, False), (0.5, 3, False)]
    steps = Steps()
    found = [i for at, uj, busy in looks for i in steps.observe([Reading("gpu", uj, at, Source.COUNTER, busy=busy)])]
    assert [interval.busy for interval in found] == [True, False]


def test_a_counter_that_goes_back_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    steps = Steps()
    found = intervals(steps, (0.0, 5), (0.1, 6), (0.2, 8), (0.3, 1), (0.4, 4))
    assert [i.energy_uj for i in found] == [2, 3]
    assert steps.resets == 1
    assert "went back" in caplog.text


def test_a_counter_that_stands_still_is_said_once_and_shows_its_age(caplog: pytest.LogCaptureFixture) -> None:
    steps = Steps()
    for n in range(60):
        steps.observe([reading(n / 10, 7)])
    assert len(caplog.records) == 1
    assert steps.snapshot().devices["gpu"].stepped_at_s == 0.0


def test_a_step_that_the_meter_knows_is_where_it_says() -> None:
    steps = Steps()
    told = [Reading("gpu", energy, at, Source.COUNTER, edge_s=0.004) for at, energy in ((1.0, 5), (1.1, 9), (1.2, 9))]
    found = steps.observe(told)
    assert [(i.start_s, i.end_s, i.energy_uj, i.start_edge_s, i.end_edge_s) for i in found] == [
        (1.0, 1.1, 4, 0.004, 0.004),
        (1.1, 1.2, 0, 0.004, 0.004),
    ]


def test_a_step_found_between_two_looks_is_known_to_half_of_their_distance() -> None:
    [found] = intervals(Steps(), (0.0, 1), (0.02, 2), (0.12, 2), (0.14, 4))
    assert found.start_edge_s == pytest.approx(0.01)
    assert (found.end_s, found.end_edge_s) == (pytest.approx(0.13), pytest.approx(0.01))


def test_a_counter_that_moves_at_every_look_gives_few_intervals() -> None:
    found = intervals(Steps(), *((n / 100, 7 * n) for n in range(101)))
    assert len(found) <= 20
    assert sum(i.energy_uj for i in found) <= 700
    assert all(before.end_s == after.start_s for before, after in pairwise(found))


def test_power_added_up_apart_covers_the_same_steps() -> None:
    steps = Steps()
    for n in range(10):
        steps.observe([Reading("gpu", 100 * n, n / 10, Source.COUNTER, integral_uj=98 * n + 1000)])
    state = steps.snapshot().devices["gpu"]
    assert (state.counted_uj, state.integrated_uj) == (800, 784)


def test_devices_are_told_apart() -> None:
    steps, found = Steps(), []
    for n in range(4):
        found += steps.observe([reading(n / 10, n, "a"), reading(n / 10, 10 * n, "b")])
    assert [(i.device, i.energy_uj) for i in found] == [("a", 1), ("b", 10), ("a", 1), ("b", 10)]


@dataclass
class ScriptedMeter:
    """Each read gives the next reading, and then fails for ever."""

    energies: list[int]
    closed: bool = False
    reads: int = field(default=0)
    rhythm: Rhythm = field(default_factory=lambda: Rhythm(0.001, 2.0))

    def read(self) -> Sequence[Reading]:
        self.reads += 1
        if self.reads > len(self.energies):
            raise MeterUnavailable("the script is over")
        return [reading(self.reads / 10, self.energies[self.reads - 1])]

    def close(self) -> None:
        self.closed = True


def test_the_thread_reads_publishes_and_survives_a_lost_meter(caplog: pytest.LogCaptureFixture) -> None:
    meter = ScriptedMeter([1, 2, 3, 5])
    port: Meter = meter
    monitor = Monitor.of(port)
    assert monitor.latest is UNKNOWN
    monitor.start()
    while meter.reads < 10:
        time.sleep(0.001)
    monitor.stop()
    assert [i.energy_uj for i in monitor.intervals()] == [1, 2]
    assert monitor.intervals() == []
    state = monitor.latest.devices["gpu"]
    assert (state.counted_uj, state.stepped_at_s) == (3, pytest.approx(0.35))
    assert meter.closed
    assert caplog.text.count("cannot be read") == 1


def test_a_device_that_nobody_can_ask_any_more_is_frozen() -> None:
    now_s = 0.4
    monitor = Monitor(ScriptedMeter([1, 2, 3, 5]), 0.1, clock=lambda: now_s)
    for _ in range(10):
        monitor.poll()
    assert not monitor.seen().devices["gpu"].frozen
    now_s = 3.0
    assert monitor.lost
    assert monitor.seen().devices["gpu"].frozen
    assert not monitor.latest.devices["gpu"].frozen, "as it was when it was read"


@dataclass
class SteadyMeter:
    """A device that draws the same all the time."""

    at_s: float = 0.0
    rhythm: Rhythm = field(default_factory=lambda: Rhythm(0.02, 2.0))

    def read(self) -> Sequence[Reading]:
        return [reading(self.at_s, round(self.at_s * 100))]

    def close(self) -> None: ...


def test_who_is_told_to_look_seldom_finds_no_device_frozen_between_two_looks() -> None:
    meter, seen = SteadyMeter(), []
    monitor = Monitor(meter, 5.0, clock=lambda: meter.at_s)
    for meter.at_s in (0.0, 5.0, 9.9, 10.0, 14.9):
        if meter.at_s % 5 == 0:
            monitor.poll()
        seen.append(monitor.seen().devices["gpu"].frozen)
    assert seen == [False] * 5
