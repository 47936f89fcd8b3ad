"""The port that every meter implements, and the error that says a device cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from telemetry.snapshot import Reading


class MeterUnavailable(Exception):
    """There is no such device here, or it does not tell its energy. The message says which and why."""


class Meter(Protocol):
    """Reads devices. It may block, so only the monitor's thread calls it."""

    def read(self) -> Sequence[Reading]:
        """Cumulative energy of every device.

        Raises:
            MeterUnavailable: the devices cannot be read now; the monitor tries again.
        """
        ...

    def close(self) -> None:
        """Give back what the meter holds; it is not read again."""
        ...
