"""A recording of readings, played back in its own rhythm; what it tells is marked as replayed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from telemetry.meter import MeterUnavailable, Rhythm
from telemetry.recording import from_json
from telemetry.snapshot import Reading, Source


class ReplayMeter:
    """Begins at the moment of its first read, with the recording's first line. Where the recording ends, it is over."""

    rhythm = Rhythm(poll_s=0.02, frozen_after_s=90.0)  # nobody knows how slow the recorded devices were

    def __init__(
        self, file: Path, devices: Sequence[str] | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Open a recording.

        Args:
            file: JSON lines, as `paceline meter --record` writes them.
            devices: their names; None is all.
            clock: monotonic seconds.

        Raises:
            MeterUnavailable: no such file, no recording, or nothing of these devices in it.
        """
        self._path, self._clock, self._names = file, clock, tuple(devices or ())
        self._number = 0
        try:
            self._file = file.open("rb")
        except OSError as error:
            raise MeterUnavailable(f"the recording {file}: {error.strerror}") from error
        try:
            self._next = self._line()
        except MeterUnavailable:
            self.close()
            raise
        if self._next is None:
            self.close()
            raise MeterUnavailable(f"the recording {file} has nothing of {', '.join(self._names) or 'any device'}")
        self._first_at_s = self._next.at_s
        self._began_at_s: float | None = None

    def read(self) -> Sequence[Reading]:
        """All lines whose time has come since the latest read.

        Raises:
            MeterUnavailable: the recording is over, or has a line that is none.
        """
        if self._next is None:
            raise MeterUnavailable(f"the recording {self._path} is over")
        now = self._clock()
        if self._began_at_s is None:
            self._began_at_s = now
        readings = []
        while self._next is not None and (at_s := self._next.at_s - self._first_at_s + self._began_at_s) <= now:
            readings.append(replace(self._next, at_s=at_s, source=Source.REPLAYED))
            self._next = self._line()
        return readings

    def close(self) -> None:
        self._file.close()

    def _line(self) -> Reading | None:
        """The next reading of a device that is asked for; None at the end. One that was cut off at the end is no reading."""
        while line := self._file.readline():
            self._number += 1
            if not line.endswith(b"\n"):
                return None
            try:
                reading = from_json(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise MeterUnavailable(f"the recording {self._path}, line {self._number}, is no reading: {error!r}") from error
            if not self._names or reading.device in self._names:
                return reading
        return None
