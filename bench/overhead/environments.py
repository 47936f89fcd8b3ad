"""A virtual environment for each proxy that cannot share ours, made once and kept."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.overhead.stub import NotPossible

Tell = Callable[[str], None]


def environment(name: str, requirements: Sequence[str], bench: Path, tell: Tell) -> Path:
    """Its bin folder; what was made for other requirements is made anew.

    Raises:
        NotPossible: pip could not install it.
    """
    folder, done = bench / name, bench / name / "installed"
    wanted = " ".join(requirements)
    if not done.exists() or done.read_text() != wanted:
        tell(f"{name}: installing {wanted} into {folder} (minutes, once)")
        done.unlink(missing_ok=True)
        _run(name, sys.executable, "-m", "venv", "--clear", str(folder))
        _run(name, str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *requirements)
        done.write_text(wanted)
    return folder / "bin"


def _run(name: str, *command: str) -> None:
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    if ran.returncode:
        raise NotPossible(f"{name} cannot be installed: {(ran.stderr or ran.stdout).strip().splitlines()[-1]}")


def version_in(bin: Path, package: str) -> str:
    told = [str(bin / "python"), "-c", f"from importlib.metadata import version; print(version({package!r}))"]
    return subprocess.run(told, check=True, capture_output=True, text=True).stdout.strip()
