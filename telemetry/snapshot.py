"""Frozen values that the meters produce and everything else reads; units are in the names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Source(StrEnum):
    """Where a joule comes from; it travels with every joule that is shown. The later ones are the weaker ones."""

    COUNTER = "counter"  # the device's own energy counter
    POWER_INTEGRAL = "power_integral"  # the device's power readings, added up over time
    REPLAYED = "replayed"  # readings that were recorded before
    SIMULATED = "simulated"  # the counter of a simulated engine
    MODELLED = "modelled"  # nobody measured: what the step model says

    def weaker(self, other: Source | None) -> Source:
        """What joules of both are together: the weaker of the two."""
        order = list(Source)
        return self if other is None or order.index(self) >= order.index(other) else other


class Hardware(StrEnum):
    """What a device is, in the words of OpenTelemetry's `hw.type`."""

    GPU = "gpu"
    CPU = "cpu"
    MEMORY = "memory"

    @property
    def scope(self) -> Scope:
        return Scope.GPU if self is Hardware.GPU else Scope.HOST


class Scope(StrEnum):
    """Which part of a machine a joule was drawn by."""

    GPU = "gpu"
    HOST = "host"  # CPUs and memory


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at one device: its cumulative energy, and when it was looked at.

    Attributes:
        energy_uj: cumulative since an arbitrary start.
        at_s: monotonic clock.
        edge_s: not None: this is a step of the counter, which happened at `at_s`, give or take so much. None: it is a look,
            and somebody has to find the steps by comparing looks.
        integral_uj: the same device's power readings, added up apart from its counter; None where it tells no power.
        busy: whether anybody computed on it lately; None where it does not tell.
    """

    device: str
    energy_uj: int
    at_s: float
    source: Source
    hardware: Hardware = Hardware.GPU
    edge_s: float | None = None
    integral_uj: int | None = None
    busy: bool | None = None


@dataclass(frozen=True, slots=True)
class Interval:
    """Energy between two consecutive steps of one device's counter."""

    device: str
    start_s: float  # monotonic clock, at the earlier step
    end_s: float  # monotonic clock, at the later step
    energy_uj: int
    source: Source
    hardware: Hardware = Hardware.GPU
    start_edge_s: float = 0.0  # the earlier step happened at `start_s`, give or take so much
    end_edge_s: float = 0.0
    busy: bool | None = None  # somebody computed there, ours or not; None: the device does not tell

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
    power_w: float  # mean over the latest interval; of one that is frozen, long ago
    stepped_at_s: float  # monotonic clock, when the counter last moved
    hardware: Hardware = Hardware.GPU
    frozen: bool = False  # the counter has not moved for much longer than it should, or cannot be read
    integrated_uj: int | None = None  # its power over the same time, added up apart from its counter


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All devices at one instant. No device at all means energy is unknown, which is not zero."""

    taken_at_s: float = float("-inf")
    devices: Mapping[str, DeviceState] = field(default_factory=dict)

    def age_s(self, now_s: float) -> float:
        return now_s - self.taken_at_s


UNKNOWN = Snapshot()
