"""Reads what the recorder wrote: joules of any time by the devices' counters, and by their power added up."""

from __future__ import annotations

import csv
from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from telemetry.snapshot import Source

SOURCES = frozenset(Source)


@dataclass(slots=True)
class Curve:
    """A cumulative amount over time, in microjoules; straight between its points."""

    at_s: list[float] = field(default_factory=list)
    uj: list[int] = field(default_factory=list)

    def add(self, at_s: float, uj: int) -> None:
        self.at_s.append(at_s)
        self.uj.append(uj)

    def at(self, instant_s: float) -> float:
        """The amount at an instant; just outside of the points, as the first or last two of them go on."""
        after = min(max(bisect_left(self.at_s, instant_s), 1), len(self.at_s) - 1)
        early, late = self.at_s[after - 1], self.at_s[after]
        part = (instant_s - early) / (late - early)
        return self.uj[after - 1] + part * (self.uj[after] - self.uj[after - 1])

    def covers(self, since_s: float, until_s: float) -> bool:
        """Up to a second before the first point and after the last is near enough: counters stand still in between."""
        return len(self.at_s) > 1 and self.at_s[0] - 1.0 <= since_s and until_s <= self.at_s[-1] + 1.0


@dataclass(slots=True)
class _Device:
    counter: Curve = field(default_factory=Curve)  # only where it stepped: what lies between two steps was drawn evenly
    power: Curve = field(default_factory=Curve)
    seen_at_s: float | None = None
    seen_uj: int = -1

    def look(self, at_s: float, energy_uj: int, integral_uj: int | None) -> None:
        if self.seen_at_s is not None and energy_uj != self.seen_uj:
            self.counter.add((self.seen_at_s + at_s) / 2, energy_uj)
        self.seen_at_s, self.seen_uj = at_s, energy_uj
        if integral_uj is not None:
            self.power.add(at_s, integral_uj)


@dataclass(slots=True)
class Recording:
    """All devices that the recorder saw."""

    sources: set[str] = field(default_factory=set)
    _devices: dict[str, _Device] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> Self:
        """A line that was being written when the recorder was killed is left out."""
        recording = cls()
        with file.open(newline="") as lines:
            for row in csv.DictReader(lines):
                if row["source"] in SOURCES:
                    integral_uj = int(row["integral_uj"]) if row["integral_uj"] else None
                    device = recording._devices.setdefault(row["device"], _Device())
                    device.look(float(row["at_s"]), int(row["energy_uj"]), integral_uj)
                    recording.sources.add(row["source"])
        return recording

    def counter_j(self, since_s: float, until_s: float, devices: Collection[str]) -> float | None:
        """What the devices' counters moved by; None where that was not seen."""
        return self._sum([self._devices[name].counter for name in devices if name in self._devices], since_s, until_s, devices)

    def power_j(self, since_s: float, until_s: float, devices: Collection[str]) -> float | None:
        """The devices' power over that time, added up; None where they tell no power."""
        return self._sum([self._devices[name].power for name in devices if name in self._devices], since_s, until_s, devices)

    @staticmethod
    def _sum(curves: list[Curve], since_s: float, until_s: float, devices: Collection[str]) -> float | None:
        if not curves or len(curves) < len(devices) or not all(curve.covers(since_s, until_s) for curve in curves):
            return None
        return sum(curve.at(until_s) - curve.at(since_s) for curve in curves) / 1e6
