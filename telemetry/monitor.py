"""Polls a meter faster than its counter moves, finds the steps, and publishes what it saw without a lock."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from telemetry.meter import Meter, MeterUnavailable
from telemetry.snapshot import UNKNOWN, DeviceState, Interval, Reading, Snapshot

log = logging.getLogger("paceline.telemetry")

FROZEN_AFTER_S = 2.0


@dataclass(slots=True)
class _Track:
    """One device's counter as it has been seen."""

    energy_uj: int
    seen_at: float  # the latest poll
    stepped_at: float
    counted_uj: int = 0
    power_w: float = 0.0
    stepped: bool = False  # a step has been seen, so intervals can begin
    frozen: bool = False


@dataclass(slots=True)
class Steps:
    """Finds steps in readings. No thread and no clock: readings carry their instants.

    A step happened between the poll that saw the old value and the one that saw the new: it is put halfway. Nothing
    before the first step is counted, since nobody knows when it was drawn. A counter that goes back (a wrap, a reloaded
    driver) begins anew.
    """

    resets: int = 0
    _tracks: dict[str, _Track] = field(default_factory=dict)

    def observe(self, readings: Sequence[Reading]) -> list[Interval]:
        """The intervals that these readings complete."""
        return [interval for reading in readings if (interval := self._observe(reading)) is not None]

    def _observe(self, reading: Reading) -> Interval | None:
        track = self._tracks.get(reading.device)
        if track is None:
            self._tracks[reading.device] = _Track(reading.energy_uj, reading.at_s, reading.at_s)
            return None
        before, track.energy_uj = track.energy_uj, reading.energy_uj
        seen_before, track.seen_at = track.seen_at, reading.at_s
        if reading.energy_uj == before:
            self._watch_frozen(reading, track)
            return None
        track.frozen = False
        stepped_before, track.stepped_at = track.stepped_at, (seen_before + reading.at_s) / 2
        first, track.stepped = not track.stepped, True
        if reading.energy_uj < before:
            self.resets += 1
            log.warning("the energy counter of %s went back; counting begins anew", reading.device)
            return None
        if first or track.stepped_at <= stepped_before:
            return None
        interval = Interval(reading.device, stepped_before, track.stepped_at, reading.energy_uj - before, reading.source)
        track.counted_uj += interval.energy_uj
        track.power_w = interval.power_w
        return interval

    def _watch_frozen(self, reading: Reading, track: _Track) -> None:
        if not track.frozen and reading.at_s - track.stepped_at > FROZEN_AFTER_S:
            track.frozen = True
            log.warning("the energy counter of %s has not moved for %g s", reading.device, FROZEN_AFTER_S)

    def snapshot(self, readings: Sequence[Reading]) -> Snapshot:
        """All devices after these readings."""
        sources = {reading.device: reading.source for reading in readings}
        devices: Mapping[str, DeviceState] = {
            name: DeviceState(name, sources[name], track.counted_uj, track.power_w, track.stepped_at)
            for name, track in self._tracks.items()
            if name in sources
        }
        return Snapshot(max(reading.at_s for reading in readings), devices)


@dataclass(slots=True)
class Monitor:
    """A meter's thread. `latest` is replaced whole, and intervals wait until they are taken."""

    meter: Meter
    poll_s: float = 0.02
    clock: Callable[[], float] = time.monotonic
    latest: Snapshot = UNKNOWN
    steps: Steps = field(default_factory=Steps)
    _found: deque[Interval] = field(default_factory=deque)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _lost: bool = False

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="paceline-meter", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and give the meter back."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        self.meter.close()

    def intervals(self) -> list[Interval]:
        """What was found since the last call."""
        found = []
        while self._found:
            found.append(self._found.popleft())
        return found

    def _run(self) -> None:
        next_at = self.clock()
        while not self._stopping.wait(max(next_at - self.clock(), 0.0)):
            self.poll()
            next_at = max(next_at + self.poll_s, self.clock())

    def poll(self) -> None:
        """Look once. A meter that cannot be read is said once, and tried again; its devices grow stale meanwhile."""
        try:
            readings = self.meter.read()
        except MeterUnavailable as error:
            if not self._lost:
                log.warning("the meter cannot be read: %s", error)
            self._lost = True
            return
        if self._lost:
            log.warning("the meter can be read again")
        self._lost = False
        self._found.extend(self.steps.observe(readings))
        if readings:
            self.latest = self.steps.snapshot(readings)
