"""Readings as lines of JSON: how they are written and read, and a meter that writes down what another one reads."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from telemetry.meter import Meter, MeterUnavailable, Rhythm
from telemetry.snapshot import Hardware, Reading, Source

log = logging.getLogger("paceline.telemetry")


def as_json(reading: Reading) -> dict[str, Any]:
    return {
        "device": reading.device,
        "energy_uj": reading.energy_uj,
        "at_s": reading.at_s,
        "source": reading.source.value,
        "hardware": reading.hardware.value,
        "edge_s": reading.edge_s,
        "integral_uj": reading.integral_uj,
        "busy": reading.busy,
    }


def from_json(told: Mapping[str, Any]) -> Reading:
    """A reading as it was told.

    Raises:
        ValueError: it is none. (Also KeyError and TypeError.)
    """
    edge_s, integral_uj, busy = told.get("edge_s"), told.get("integral_uj"), told.get("busy")
    return Reading(
        device=str(told["device"]),
        energy_uj=int(told["energy_uj"]),
        at_s=float(told["at_s"]),
        source=Source(told["source"]),
        hardware=Hardware(told["hardware"]),
        edge_s=float(edge_s) if edge_s is not None else None,
        integral_uj=int(integral_uj) if integral_uj is not None else None,
        busy=bool(busy) if busy is not None else None,
    )


class RecordingMeter:
    """Reads another meter, and writes what it read to the end of a file.

    A look that saw nothing new is left out, except the one just before something new: the two tell when the counter moved.
    """

    def __init__(self, meter: Meter, file: Path) -> None:
        """Begin to write.

        Args:
            meter: which is closed with this one.
            file: JSON lines.

        Raises:
            MeterUnavailable: the file cannot be written.
        """
        self._meter = meter
        try:
            self._file = file.open("a", encoding="utf-8")
        except OSError as error:
            raise MeterUnavailable(f"cannot record to {file}: {error.strerror}") from error
        self._full = False
        self._written: dict[str, Reading] = {}
        self._skipped: dict[str, Reading] = {}

    @property
    def rhythm(self) -> Rhythm:
        return self._meter.rhythm

    def read(self) -> Sequence[Reading]:
        readings = self._meter.read()
        for reading in readings:
            written = self._written.get(reading.device)
            if written is not None and written.energy_uj == reading.energy_uj:
                self._skipped[reading.device] = reading
                continue
            if (before := self._skipped.pop(reading.device, None)) is not None:
                self._write(before)
            self._write(reading)
            self._written[reading.device] = reading
        return readings

    def close(self) -> None:
        with suppress(OSError):  # what a full disk did not take is written once more
            self._file.close()
        self._meter.close()

    def _write(self, reading: Reading) -> None:
        if self._full:
            return
        try:
            self._file.write(json.dumps(as_json(reading)) + "\n")
            self._file.flush()
        except OSError as error:  # reading goes on: it matters more
            log.error("nothing is recorded any more: %s: %s", self._file.name, error.strerror)
            self._full = True
