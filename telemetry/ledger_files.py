"""The ledger on disk: finished requests handed to a thread of its own, which writes, rotates and tries again."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from telemetry.factors import Factors
from telemetry.ledger import Entry
from telemetry.records import Record, record

log = logging.getLogger("paceline.ledger")

WRITE_EVERY_S = 0.5
QUEUE = 20_000  # finished requests that wait for the disk
BATCH = 1000
CLOSE_WITHIN_S = 10.0  # a disk that hangs does not keep the process


class File(Protocol):
    """One file of the ledger, from its first record to its last."""

    path: Path
    size: int
    pending: int  # records that are in memory only

    def write(self, records: Sequence[Record]) -> None:
        """Take all of them or, with an OSError, none."""
        ...

    def finish(self) -> None:
        """It is whole, and on the disk; with an OSError not yet, and this may be tried again."""
        ...

    def abandon(self) -> None:
        """Give back what it holds; it is not written any more."""
        ...

    @property
    def lost(self) -> bool:
        """Somebody has taken it away, or it cannot be written any more: go on with another."""
        ...


@dataclass(slots=True)
class LedgerFiles:
    """Accepts finished requests without ever waiting for a disk. What a full queue cannot take is counted and left out.

    Attributes:
        directory: made when it is missing, and made again when it is lost.
        create: a new file.
        suffix: of the files' names.
        rotate_bytes: a file is finished once it is so long,
        rotate_s: or so old.
        keep: so many files are left in the directory, whoever wrote them; None: all.
    """

    directory: Path
    create: Callable[[Path], File]
    suffix: str
    rotate_bytes: int
    rotate_s: float
    keep: int | None = None
    _queue: deque[tuple[Entry, Factors]] = field(default_factory=deque)
    _batch: list[Record] = field(default_factory=list)
    _file: File | None = None
    _began_at: float = 0.0
    _count: int = 0
    _instance: str = field(default_factory=lambda: uuid4().hex[:8])
    _refused: int = 0  # counted by whoever puts
    _spoilt: int = 0  # counted by the thread
    _failing: bool = False
    _full: bool = False
    _closing: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    @property
    def dropped(self) -> int:
        """Requests that are in no file, and will not be."""
        return self._refused + self._spoilt

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="paceline-ledger", daemon=True)
        self._thread.start()

    def put(self, entry: Entry, factors: Factors) -> None:
        """A request of which no more will be known; nothing changes it from now on."""
        if len(self._queue) < QUEUE:
            self._queue.append((entry, factors))
            return
        self._refused += 1
        if not self._full:
            self._full = True
            log.warning("%d finished requests wait for %s: more are left out of the ledger", QUEUE, self.directory)

    def close(self) -> None:
        """Write what was accepted, and end. It may block for seconds."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(CLOSE_WITHIN_S)
        left = len(self._queue) + len(self._batch) + (self._file.pending if self._file is not None else 0)
        if left:
            log.error("%d finished requests could not be written to %s", left, self.directory)

    # --- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        closing = False
        while not closing:
            closing = self._closing.wait(WRITE_EVERY_S)
            try:
                self._write()
                if closing:
                    self._finish()
            except OSError as error:
                self._failed(error)
            except Exception:  # what cannot be written at all must not stop all others
                log.exception("%d finished requests are left out of the ledger", len(self._batch))
                self._spoilt += len(self._batch)
                self._batch = []

    def _write(self) -> None:
        """All that waits. What could not be written stays in hand.

        Raises:
            OSError: the disk is full, or the directory is gone.
        """
        while self._take():
            self._current().write(self._batch)
            self._batch = []
        if self._is_due():
            self._finish()
        if self._failing or self._full:
            log.warning("the ledger is written to %s again; %d requests are not in it", self.directory, self.dropped)
            self._failing = self._full = False

    def _take(self) -> list[Record]:
        while self._queue and len(self._batch) < BATCH:
            entry, factors = self._queue.popleft()
            try:
                self._batch.append(record(entry, factors))
            except Exception:  # see above
                log.exception("request %s is left out of the ledger", entry.id)
                self._spoilt += 1
        return self._batch

    def _current(self) -> File:
        if self._is_due() or (self._file is not None and self._file.lost):
            self._finish()
        if self._file is None:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._file = self.create(self.directory / self._name())
            self._count += 1
            self._began_at = time.monotonic()
            self._thin(self._file.path)
        return self._file

    def _name(self) -> str:
        """Names in order of time; no two processes choose the same."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        return f"requests-{stamp}-{self._instance}-{self._count + 1:06}.{self.suffix}"

    def _is_due(self) -> bool:
        old = time.monotonic() - self._began_at >= self.rotate_s
        return self._file is not None and (old or self._file.size >= self.rotate_bytes)

    def _finish(self) -> None:
        file = self._file
        if file is None:
            return
        if file.lost:
            file.abandon()
        else:
            file.finish()
        self._file = None
        self._thin(file.path)

    def _thin(self, current: Path) -> None:
        """Remove the oldest files, never the one in hand."""
        if self.keep is None:
            return
        name = re.compile(rf"requests-\d{{8}}T\d{{6}}Z-[0-9a-f]{{8}}-\d{{6,}}\.{self.suffix}")
        files = sorted(path for path in self.directory.iterdir() if name.fullmatch(path.name))
        for path in files[: -self.keep]:
            if path != current:
                path.unlink(missing_ok=True)

    def _failed(self, error: OSError) -> None:
        if not self._failing:
            self._failing = True
            log.error("the ledger cannot be written, and is tried again: %s", error)
