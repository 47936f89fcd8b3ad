"""A file of the ledger as JSON lines: it can be read while it is written, and no line in it is half a line for long."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from telemetry.records import Record


class JsonLines:
    """Each write is whole lines, or is taken back. The file is new, so nobody's half-written line is in it."""

    pending = 0

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, 0
        self._torn = False
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o640)

    def write(self, records: Sequence[Record]) -> None:
        lines = "".join(json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n" for record in records).encode()
        try:
            written = 0
            while written < len(lines):
                written += os.write(self._file, lines[written:])
        except OSError:
            self._take_back()
            raise
        self.size += len(lines)

    def _take_back(self) -> None:
        self._torn = True
        with suppress(OSError):
            os.ftruncate(self._file, self.size)
            self._torn = False

    def finish(self) -> None:
        os.fsync(self._file)
        self.abandon()

    def abandon(self) -> None:
        with suppress(OSError):
            os.close(self._file)

    @property
    def lost(self) -> bool:
        if self._torn:
            return True
        try:
            return not os.path.samestat(os.fstat(self._file), self.path.stat())
        except OSError:
            return True
