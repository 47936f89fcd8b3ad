"""Where numbers come from: date, command, versions, hardware, and what the servers say of themselves."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

from telemetry.meter import MeterUnavailable
from telemetry.nvml import hardware

ANSWERS_WITHIN_S = 5.0
GIT_WITHIN_S = 5.0


def provenance(module: str, urls: Sequence[str], meter: str, devices: Sequence[str]) -> dict[str, Any]:
    """As JSON; what cannot be known here is None or says why.

    Args:
        module: what was run, as `python -m` calls it.
        urls: the servers'.
        meter: nvml, or simulated, which is no hardware.
        devices: as the meter calls them.
    """
    return {
        "date_unix_s": time.time(),
        "command": shlex.join(("python", "-m", module, *sys.argv[1:])),
        "versions": {"paceline": version("paceline"), "python": platform.python_version(), "platform": platform.platform()},
        "commit": commit(),
        "hardware": _hardware(meter, devices),
        "devices": list(devices),
        "servers": {url: server_version(url) for url in urls},
    }


def commit() -> str | None:
    """Of the tree that this file is in, with a plus where it has changes; None without git."""
    here = Path(__file__).parent
    try:
        told = [_git(here, "rev-parse", "--short=12", "HEAD"), _git(here, "status", "--porcelain", "--untracked-files=no")]
    except (OSError, subprocess.SubprocessError):
        return None
    return told[0] + ("+" if told[1] else "")


def _git(here: Path, *arguments: str) -> str:
    done = subprocess.run(("git", *arguments), cwd=here, capture_output=True, text=True, check=True, timeout=GIT_WITHIN_S)
    return done.stdout.strip()


def server_version(url: str) -> str | None:
    """What `/version` says (vLLM); None where it says nothing."""
    try:
        answer = httpx.get(f"{url.rstrip('/')}/version", timeout=ANSWERS_WITHIN_S, trust_env=False)
        return str(answer.json()["version"]) if answer.status_code == 200 else None
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None


def _hardware(meter: str, devices: Sequence[str]) -> str:
    if meter != "nvml":
        return f"{meter}: no hardware"
    try:
        return hardware(devices)
    except MeterUnavailable as error:
        return f"unknown: {error}"
