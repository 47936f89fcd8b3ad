"""Polls a meter faster than its counter moves, finds the steps, and publishes what it saw without a lock."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from telemetry.meter import Meter, MeterUnavailable
from telemetry.snapshot import UNKNOWN, DeviceState, Interval, Reading, Snapshot

log = logging.getLogger("paceline.telemetry")

LEAST_S = 0.05  # a counter that moves at every look is dealt with in intervals of this length, or each look would be settled


@dataclass(slots=True)
class _Track:
    """One device's counter as it has been seen."""

    latest: Reading
    began_uj: int = 0  # the counter at the step that the next interval begins with
    began_at: float = 0.0
    edge_s: float = 0.0
    began_integral_uj: int | None = None
    stepped: bool = False  # a step has been seen, so intervals can begin
    counted_uj: int = 0
    integrated_uj: int | None = None
    power_w: float = 0.0
    frozen: bool = False
    busy: bool | None = None  # at any look since the interval began


@dataclass(slots=True)
class Steps:
    """Finds steps in readings. No thread and no clock: readings carry their instants.

    Where a meter does not tell when its counter stepped, a step happened between the look that saw the old value and the
    one that saw the new: it is put halfway, give or take half of that. Nothing before the first step is counted, since
    nobody knows when it was drawn. A counter that goes back (a reloaded driver) begins anew.
    """

    frozen_after_s: float = 2.0
    resets: int = 0
    _tracks: dict[str, _Track] = field(default_factory=dict)

    def observe(self, readings: Sequence[Reading]) -> list[Interval]:
        """The intervals that these readings complete."""
        return [interval for reading in readings if (interval := self._observe(reading)) is not None]

    def _observe(self, reading: Reading) -> Interval | None:
        track = self._tracks.get(reading.device)
        if track is None:
            track = self._tracks[reading.device] = _Track(reading, began_at=reading.at_s)
            if reading.edge_s is not None:
                self._begin(track, reading, reading.at_s, reading.edge_s)
            return None
        before, track.latest = track.latest, reading
        if reading.busy is not None:
            track.busy = bool(track.busy) or reading.busy
        if reading.edge_s is None and reading.energy_uj == before.energy_uj:
            self._watch_frozen(reading, track)
            return None
        track.frozen = False
        at, edge_s = _step(before, reading)
        if reading.energy_uj < before.energy_uj:
            self.resets += 1
            log.warning("the energy counter of %s went back; counting begins anew", reading.device)
            self._begin(track, reading, at, edge_s)
            return None
        if not track.stepped:
            self._begin(track, reading, at, edge_s)
            return None
        return self._interval(track, reading, at, edge_s) if at - track.began_at >= LEAST_S else None

    def _interval(self, track: _Track, reading: Reading, at: float, edge_s: float) -> Interval:
        interval = Interval(
            device=reading.device,
            start_s=track.began_at,
            end_s=at,
            energy_uj=reading.energy_uj - track.began_uj,
            source=reading.source,
            hardware=reading.hardware,
            start_edge_s=track.edge_s,
            end_edge_s=edge_s,
            busy=track.busy,
        )
        track.counted_uj += interval.energy_uj
        track.power_w = interval.power_w
        if reading.integral_uj is not None and track.began_integral_uj is not None:
            track.integrated_uj = (track.integrated_uj or 0) + reading.integral_uj - track.began_integral_uj
        self._begin(track, reading, at, edge_s)
        return interval

    def _begin(self, track: _Track, reading: Reading, at: float, edge_s: float) -> None:
        track.began_uj, track.began_at, track.edge_s, track.stepped = reading.energy_uj, at, edge_s, True
        track.began_integral_uj = reading.integral_uj
        track.busy = reading.busy

    def _watch_frozen(self, reading: Reading, track: _Track) -> None:
        if not track.frozen and reading.at_s - track.began_at > self.frozen_after_s:
            track.frozen = True
            log.warning("the energy counter of %s has not moved for %g s", reading.device, self.frozen_after_s)

    def snapshot(self) -> Snapshot:
        """All devices after the latest readings; those that are told of no more are as old as they look."""
        devices = {
            name: DeviceState(
                device=name,
                source=track.latest.source,
                counted_uj=track.counted_uj,
                power_w=track.power_w,
                stepped_at_s=track.began_at,
                hardware=track.latest.hardware,
                frozen=track.frozen,
                integrated_uj=track.integrated_uj,
            )
            for name, track in self._tracks.items()
        }
        return Snapshot(max((track.latest.at_s for track in self._tracks.values()), default=float("-inf")), devices)


def _step(before: Reading, now: Reading) -> tuple[float, float]:
    """When the counter moved, and how well that is known."""
    if now.edge_s is not None:
        return now.at_s, now.edge_s
    return (before.at_s + now.at_s) / 2, (now.at_s - before.at_s) / 2


@dataclass(slots=True)
class Monitor:
    """A meter's thread. `latest` is replaced whole, and intervals wait until they are taken."""

    meter: Meter
    poll_s: float
    clock: Callable[[], float] = time.monotonic
    latest: Snapshot = UNKNOWN
    steps: Steps = field(init=False)
    _found: deque[Interval] = field(default_factory=deque)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _lost: bool = False

    @classmethod
    def of(cls, meter: Meter, poll_s: float | None = None) -> Monitor:
        """Looks as often as the meter wants, unless told otherwise."""
        return cls(meter, poll_s if poll_s is not None else meter.rhythm.poll_s)

    def __post_init__(self) -> None:
        self.steps = Steps(self.meter.rhythm.frozen_after_s)

    @property
    def lost(self) -> bool:
        """The meter could not be read when it was last tried."""
        return self._lost

    @property
    def silent_after_s(self) -> float:
        """A device whose latest step is older is frozen. Whoever is told to look seldom finds its steps as seldom."""
        return self.meter.rhythm.frozen_after_s + 2 * self.poll_s

    def seen(self) -> Snapshot:
        """The latest, as old as it is now: a device that nobody could ask for too long is said to be frozen, too."""
        alive_s = self.clock() - self.silent_after_s
        states = self.latest.devices.items()
        devices = {name: state if state.stepped_at_s > alive_s else replace(state, frozen=True) for name, state in states}
        return Snapshot(self.latest.taken_at_s, devices)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="paceline-meter", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """The thread ends after its present look."""
        self._stopping.set()

    def stop(self) -> None:
        """End the thread, wait for it, and give the meter back."""
        self.end()
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
        except Exception:  # a driver may do anything; its thread must go on asking
            if not self._lost:
                log.exception("the meter failed")
            self._lost = True
            return
        if self._lost:
            log.warning("the meter can be read again")
        self._lost = False
        self._found.extend(self.steps.observe(readings))
        if readings:
            self.latest = self.steps.snapshot()
