"""What is read when somebody looks: queues, servers, devices and energy accounts at one instant, as series of values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from telemetry import names
from telemetry.names import Name
from telemetry.snapshot import UNKNOWN, Snapshot, Source

Attributes = dict[str, str | int]
Values = Iterator[tuple[float, Attributes]]


@dataclass(frozen=True, slots=True)
class DomainTotals:
    """One energy domain's account since the start."""

    domain: str
    source: Source
    counted_uj: int
    idle_uj: int
    unattributed_uj: int


@dataclass(frozen=True, slots=True)
class Gauges:
    """Everything that is exported as it is now. No device and no domain means that energy is unknown, which is not zero."""

    now_s: float  # monotonic clock
    held: int = 0
    ready: int = 0
    in_flight: Mapping[str, int] = field(default_factory=dict)  # by server
    telemetry: Snapshot = UNKNOWN
    domains: Sequence[DomainTotals] = ()
    releases: Mapping[tuple[str, str], int] = field(default_factory=dict)
    faults: Mapping[str, int] = field(default_factory=dict)
