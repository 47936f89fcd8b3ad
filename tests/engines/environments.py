"""Virtual environments of the engines, one each under `.engines/`, so that their pins and ours never meet."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".engines"
INSIDE = Path(__file__).with_name("inside")  # scripts that run under an engine's own environment


@dataclass(frozen=True, slots=True)
class Environment:
    """What pip is told, step by step, to make it."""

    name: str
    steps: tuple[tuple[str, ...], ...]

    @property
    def folder(self) -> Path:
        return FOLDER / self.name

    def run(self, script: str, *arguments: str) -> None:
        """A script of `inside/`, which may import what is in it."""
        _run(str(self.python), str(INSIDE / script), *arguments)

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def make(self) -> None:
        """Made once; made anew when the steps have changed."""
        made = self.folder / "made.json"
        with _alone(self.name):
            if made.exists() and made.read_text() == json.dumps(self.steps):
                return
            shutil.rmtree(self.folder, ignore_errors=True)
            _run(sys.executable, "-m", "venv", str(self.folder))
            for step in self.steps:
                _run(str(self.python), "-m", "pip", "--disable-pip-version-check", "--quiet", *step)
            made.write_text(json.dumps(self.steps))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """Two test runs at a time must not make the same environment."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / ".gitignore").write_text("*\n")
    with (FOLDER / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
