"""The time of day that replicas have in common: Redis's, so that all of them begin a block at the same instant."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from telemetry.remote import ClockOffset


@dataclass(slots=True)
class SharedClock:
    """Redis's wall clock, by this machine's monotonic one, whoever sets its wall clock meanwhile.

    Each answer tells the offset give or take half its round trip. What is used stays the same as long as it can be right, so
    that time does not tremble at the borders of blocks.

    Attributes:
        clock: monotonic seconds.
        wall: seconds since the epoch by this machine, which is all there is until Redis has answered.
    """

    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    _offset: ClockOffset = field(default_factory=ClockOffset)
    _used_s: float | None = None

    def add(self, theirs_unix_s: float, asked_s: float, answered_s: float) -> None:
        """Redis was asked and has answered, at monotonic instants of ours."""
        self._offset.add(theirs_unix_s, asked_s, answered_s)
        offset_s, doubt_s = self._offset.at(answered_s)
        if self._used_s is None or abs(offset_s - self._used_s) > doubt_s:
            self._used_s = offset_s

    def forget(self) -> None:
        """It may be another Redis now: what was measured is not believed beside what will be."""
        self._offset.forget()

    def now_unix_s(self) -> float:
        return self.clock() - self._used_s if self._used_s is not None else self.wall()

    @property
    def ahead_s(self) -> float:
        """How far it is ahead of this machine's wall clock; 0 until Redis has answered."""
        return self.now_unix_s() - self.wall() if self._used_s is not None else 0.0

    @property
    def doubt_s(self) -> float | None:
        """How wrong it can be; None: Redis has not answered."""
        try:
            return self._offset.at(self.clock())[1]
        except ValueError:
            return None
