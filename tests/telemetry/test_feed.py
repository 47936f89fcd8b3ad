"""The numbered steps of meters: nothing is missed, nothing comes twice, memory is bounded, energies are the devices' own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from telemetry.feed import Feed
from telemetry.meter import MeterUnavailable, Rhythm
from telemetry.snapshot import Hardware, Reading, Source


@dataclass
class Stepping:
    """One device that steps by 10 uJ at each look, up to an end, and then cannot be read."""

    until: int
    device: str = "gpu"
    hardware: Hardware = Hardware.GPU
    start_uj: int = 1_000_000
    looks: int = 0
    closed: bool = False

    @property
    def rhythm(self) -> Rhythm:
        return Rhythm(0.001, 2.0)

    def read(self) -> Sequence[Reading]:
        if self.looks == self.until:
            raise MeterUnavailable("it is over")
        self.looks += 1
        energy_uj = self.start_uj + 10 * self.looks
        busy = self.looks == 3
        return [Reading(self.device, energy_uj, self.looks / 10, Source.COUNTER, self.hardware, 0.002, 3 * self.looks, busy)]

    def close(self) -> None:
        self.closed = True


def run(*meters: Stepping, keep: int = 1000) -> Feed:
    """A feed that has read its meters to their ends."""
    feed = Feed(meters, keep=keep)
    feed.start()
    while not all(monitor.lost for monitor in feed._monitors):
        time.sleep(0.001)
    feed.stop()
    return feed


def test_steps_come_once_with_the_devices_own_energy() -> None:
    meter = Stepping(4)
    feed = run(meter)
    steps = feed.since("")
    assert [(r.energy_uj, r.at_s, r.edge_s) for r in steps.readings] == [
        (1_000_010, 0.1, 0.002),
        (1_000_020, 0.2, 0.002),
        (1_000_030, 0.3, 0.002),
        (1_000_040, 0.4, 0.002),
    ]
    assert [r.integral_uj for r in steps.readings] == [None, 3, 6, 9]
    assert [r.busy for r in steps.readings] == [None, False, True, True]  # the last one: it was when its interval began
    assert feed.since(steps.cursor).readings == []
    assert meter.closed


def test_who_asks_for_the_first_time_gets_where_the_devices_are() -> None:
    feed = run(Stepping(4), Stepping(7, "cpu:package-0", Hardware.CPU))
    found = {r.device: (r.energy_uj, r.hardware) for r in feed.since(None).readings}
    assert found == {"gpu": (1_000_040, Hardware.GPU), "cpu:package-0": (1_000_070, Hardware.CPU)}


def test_a_cursor_of_another_process_gets_all_that_is_kept() -> None:
    feed = run(Stepping(4))
    assert len(feed.since("0123456789abcdef:3").readings) == len(feed.since("nonsense").readings) == 4


def test_memory_is_bounded_and_an_old_cursor_gets_what_is_left() -> None:
    feed = run(Stepping(50), keep=8)
    assert [r.energy_uj for r in feed.since(f"{feed.instance}:2").readings] == [1_000_000 + 10 * n for n in range(43, 51)]


def test_it_knows_whether_its_meters_can_be_read() -> None:
    feed = run(Stepping(2))
    assert feed.lost
    assert feed.snapshot.devices["gpu"].counted_uj == 10
    assert not Feed([Stepping(2)]).lost


class Broken(Stepping):
    """Raises what no meter should."""

    def read(self) -> Sequence[Reading]:
        raise ZeroDivisionError


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_died_is_noticed() -> None:
    feed = Feed([Broken(1), Stepping(10**9)])
    feed.start()
    while not feed.lost:
        time.sleep(0.001)
    feed.stop()
