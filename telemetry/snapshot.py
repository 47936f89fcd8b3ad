"""Frozen values that the meters produce and everything else reads; units are in the names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Source(StrEnum):
    """Where a joule comes from; it travels with every joule that is shown."""

    COUNTER = "counter"  # the device's own energy counter
    SIMULATED = "simulated"  # the counter of a simulated engine


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at one device: its cumulative energy, and when it was looked at."""

    device: str
    energy_uj: int  # cumulative since an arbitrary start; microjoules
    at_s: float  # monotonic clock
    source: Source


@dataclass(frozen=True, slots=True)
class Interval:
    """Energy between two consecutive steps of one device's counter."""

    device: str
    start_s: float  # monotonic clock, at the earlier step
    end_s: float  # monotonic clock, at the later step
    energy_uj: int
    source: Source

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s

    @property
    def power_w(self) -> float:
        return self.energy_uj / 1e6 / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class DeviceState:
    """What is known of one device now."""

    device: str
    source: Source
    counted_uj: int  # seen by the monitor since it started
    power_w: float  # mean over the latest interval
    stepped_at_s: float  # monotonic clock, when the counter last moved


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All devices at one instant. No device at all means energy is unknown, which is not zero."""

    taken_at_s: float = float("-inf")
    devices: Mapping[str, DeviceState] = field(default_factory=dict)

    def age_s(self, now_s: float) -> float:
        return now_s - self.taken_at_s


UNKNOWN = Snapshot()
