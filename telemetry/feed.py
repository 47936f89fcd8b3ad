"""The steps of this machine's meters, numbered and kept for a while, so that others can ask for those they have not seen."""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from telemetry.meter import Meter, Rhythm
from telemetry.monitor import Monitor
from telemetry.snapshot import Interval, Reading, Snapshot

KEEP = 20_000  # steps: half an hour of one GPU, four minutes of eight


@dataclass(slots=True)
class _Tap:
    """A meter that remembers what it read last."""

    meter: Meter
    latest: dict[str, Reading] = field(default_factory=dict)

    @property
    def rhythm(self) -> Rhythm:
        return self.meter.rhythm

    def read(self) -> Sequence[Reading]:
        readings = self.meter.read()
        self.latest.update({reading.device: reading for reading in readings})
        return readings

    def close(self) -> None:
        self.meter.close()


@dataclass(frozen=True, slots=True)
class Unseen:
    """What somebody has not seen yet, and what to ask with the next time."""

    cursor: str
    readings: Sequence[Reading]


class Feed:
    """Reads meters in a thread each. Energies are the devices' own, so that they go on when this process is another."""

    def __init__(self, meters: Sequence[Meter], *, keep: int = KEEP) -> None:
        self.instance = secrets.token_hex(8)
        self._taps = [_Tap(meter) for meter in meters]
        self._monitors = [Monitor.of(tap) for tap in self._taps]
        self._steps: deque[Reading] = deque(maxlen=keep)
        self._count = 0  # steps since the start
        self._latest: dict[str, Reading] = {}  # each device's latest step
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=pair, name="paceline-feed", daemon=True)
            for pair in zip(self._monitors, self._taps, strict=True)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads and give the meters back."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout=5)
        for tap in self._taps:
            tap.close()

    @property
    def snapshot(self) -> Snapshot:
        """All devices as of the latest look."""
        looks = [monitor.latest for monitor in self._monitors]
        devices = {name: state for look in looks for name, state in look.devices.items()}
        return Snapshot(max(look.taken_at_s for look in looks), devices)

    @property
    def lost(self) -> bool:
        """Some meter could not be read when it was last tried, or its thread has died of something unforeseen."""
        died = any(thread.ident is not None and not thread.is_alive() for thread in self._threads)
        return died or any(monitor.lost for monitor in self._monitors)

    def since(self, cursor: str | None) -> Unseen:
        """What came after a cursor.

        Args:
            cursor: of an earlier call. None: each device's latest step, to begin with. A cursor of an earlier process: all
                that is kept, so that what was counted meanwhile is found.
        """
        instance, _, number = (cursor or "").partition(":")
        with self._lock:
            if cursor is None:
                readings = list(self._latest.values())
            else:
                seen = int(number) if instance == self.instance and number.isdecimal() else 0
                gone = self._count - len(self._steps)
                readings = list(islice(self._steps, max(seen - gone, 0), None))
            return Unseen(f"{self.instance}:{self._count}", readings)

    def _run(self, monitor: Monitor, tap: _Tap) -> None:
        while not self._stopping.wait(monitor.poll_s):
            monitor.poll()
            self._take(monitor, tap)

    def _take(self, monitor: Monitor, tap: _Tap) -> None:
        """Turn the intervals that a look found into steps, each with its device's cumulative energy."""
        found = monitor.intervals()
        with self._lock:
            for interval in found:
                before = self._latest.get(interval.device)
                if before is None:
                    later_uj = sum(i.energy_uj for i in found if i.device == interval.device)
                    before = _start(interval, tap.latest[interval.device].energy_uj - later_uj)
                    self._add(before)
                integral_uj = monitor.latest.devices[interval.device].integrated_uj
                self._add(_end(interval, before.energy_uj + interval.energy_uj, integral_uj))

    def _add(self, step: Reading) -> None:
        self._steps.append(step)
        self._latest[step.device] = step
        self._count += 1


def _start(interval: Interval, energy_uj: int) -> Reading:
    return Reading(
        interval.device, energy_uj, interval.start_s, interval.source, interval.hardware, interval.start_edge_s, None
    )


def _end(interval: Interval, energy_uj: int, integral_uj: int | None) -> Reading:
    return Reading(
        interval.device,
        energy_uj,
        interval.end_s,
        interval.source,
        interval.hardware,
        interval.end_edge_s,
        integral_uj,
        interval.busy,
    )
