"""The journal of a study: a folder with one JSON file for each run that is over, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORM = 1
PARTS = {"id", "study", "shape", "arm", "rate", "seed", "report", "samples", "provenance"}  # of a run, at least
MOST_ATTEMPTS = 2  # a run that says nothing is made once more


class JournalError(Exception):
    """The folder holds something else, or another study; the message says what to do."""


class Journal:
    """Runs that are over; each is on the disk before the next one begins, and none is ever written over."""

    def __init__(self, folder: Path) -> None:
        """Read what is there.

        Raises:
            JournalError: a file in it is no run of a study.
        """
        self.folder = folder
        self.runs: list[dict[str, Any]] = [_read(path) for path in sorted((folder / "runs").glob("*.json"))]

    def begin(self, study: str, identity: Mapping[str, Any]) -> None:
        """See that new runs are of the same study as those that are there.

        Raises:
            JournalError: they are not.
        """
        expected = {"study": study, **identity}
        for run in self.runs:
            was = {"study": run["study"], **run["shape"]}
            told = [f"{key} was {was.get(key)!r}, is {value!r}" for key, value in expected.items() if was.get(key) != value]
            if told:
                raise JournalError(f"{self.folder} holds runs of another study ({'; '.join(told)}); name another with --out")
        (self.folder / "runs").mkdir(parents=True, exist_ok=True)

    def here(self, hardware: str) -> None:
        """See that new runs are made on hardware like that of those that are there, for they are paired with them.

        Raises:
            JournalError: they are not.
        """
        if others := {run["provenance"]["hardware"] for run in self.runs} - {hardware}:
            told = f"runs on {' and '.join(sorted(others))}, and this is {hardware}"
            raise JournalError(f"{self.folder} holds {told}; name another with --out")

    def attempts(self, id: str) -> int:
        return sum(run["id"] == id for run in self.runs)

    def over(self, id: str) -> bool:
        """Whether a run need not be made again: it is good, or was tried often enough."""
        return any(run["id"] == id and good(run) for run in self.runs) or self.attempts(id) >= MOST_ATTEMPTS

    def add(self, run: Mapping[str, Any]) -> Path:
        """Write a run that is over."""
        line = {"form": FORM, **run, "attempt": self.attempts(run["id"]) + 1}
        path = self.folder / "runs" / f"{run['id']}.{line['attempt']}.json"
        write(path, line)
        self.runs.append(line)
        return path


def good(run: Mapping[str, Any]) -> bool:
    """Whether a run says something of joules: they are known, all its requests were answered, nothing was amiss."""
    report = run["report"]
    return report["energy"] is not None and not report["problems"] and report["completed"] == report["planned"]


def write(path: Path, value: Mapping[str, Any]) -> None:
    """Whole or not at all, and on the disk."""
    part = path.with_suffix(".part")
    with part.open("w") as file:
        file.write(json.dumps(value, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        run = json.loads(path.read_text())
        if run["form"] != FORM or not set(run) >= PARTS:
            raise ValueError("another form")
        good(run)
    except (ValueError, KeyError, TypeError) as error:
        raise JournalError(f"{path} is no run of a study ({type(error).__name__}: {error}); name another folder") from error
    return dict(run)
