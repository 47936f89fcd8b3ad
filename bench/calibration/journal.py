"""The journal of a calibration: a line that says which server and meter, then one line for each run that is over."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from telemetry.fit import Work

FORM = 1


class JournalError(Exception):
    """The file is no journal, or another server's; the message says what to do."""


class Journal:
    """Runs that are over. Each is on the disk before the next one begins."""

    def __init__(self, path: Path) -> None:
        """Read what is there; a last line that was cut off in the middle is cut off.

        Raises:
            JournalError: the file is something else.
        """
        self._path = path
        self.header: Mapping[str, Any] | None = None
        self.runs: list[dict[str, Any]] = []
        text = path.read_text() if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            if lines:
                header, *self.runs = lines
                if header["calibration"] != FORM:
                    raise ValueError("another form")
                self.header = header
                self.works()
        except (ValueError, KeyError, TypeError) as error:
            raise JournalError(f"{path} is no journal of a calibration ({error}); name another with --journal") from error
        if len(whole) < len(text):
            os.truncate(path, len(whole.encode()))

    def begin(self, identity: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Say what the runs are of; or see that they are of the same.

        Raises:
            JournalError: they are of another server, model or meter.
        """
        if self.header is None:
            self.header = {"calibration": FORM, "of": dict(identity), **about}
            self._append(self.header)
            return
        was = self.header["of"]
        if other := [f"{key} was {was.get(key)!r}, is {value!r}" for key, value in identity.items() if was.get(key) != value]:
            told = "; ".join(other)
            raise JournalError(f"{self._path} holds runs of another calibration ({told}); name another with --journal")

    def add(self, run: Mapping[str, Any], work: Work | None, **about: object) -> None:
        line = {"run": dict(run), "work": None if work is None else asdict(work), **about}
        self.runs.append(line)
        self._append(line)

    def works(self) -> list[Work]:
        """What was counted, of all runs in which something was."""
        return [Work(**line["work"]) for line in self.runs if line["work"] is not None]

    @property
    def over(self) -> set[str]:
        """Ids of the runs that need not be made again."""
        return {line["run"]["id"] for line in self.runs if line["final"]}

    def _append(self, line: Mapping[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
