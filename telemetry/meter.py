"""The port that every meter implements, and the error that says a device cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from telemetry.snapshot import Reading


class MeterUnavailable(Exception):
    """There is no such device here, or it does not tell its energy. The message says which and why."""


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How a meter wants to be read.

    Attributes:
        poll_s: seconds between looks; more often than its counters move, where that can be had.
        frozen_after_s: a counter that stands still for so long is broken.
    """

    poll_s: float
    frozen_after_s: float


class Meter(Protocol):
    """Reads devices. It may block, so only the monitor's thread calls it."""

    @property
    def rhythm(self) -> Rhythm: ...

    def read(self) -> Sequence[Reading]:
        """Cumulative energy of every device that could be read; several readings of one device are in order of time.

        Raises:
            MeterUnavailable: the devices cannot be read now; the monitor tries again.
        """
        ...

    def close(self) -> None:
        """Give back what the meter holds; it is not read again."""
        ...
