"""What one run found, with its provenance; everything told or drawn is made from this."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from pydantic import TypeAdapter

from bench.overhead.crowd import Crowd
from bench.overhead.slices import Contender, Slice
from bench.overhead.stub import Cores
from bench.overhead.waiting import Ticks

PACKAGES = ("paceline", "aiohttp", "uvicorn", "uvloop", "httptools", "opentelemetry-sdk")
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class WaitingCost:
    """Of many waiting requests."""

    requests: int
    ticks: Sequence[Ticks]
    crowd: Crowd | None  # None: see `absent`
    absent: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """One run."""

    date: str
    command: str
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    contenders: Mapping[str, Contender]
    slices: Sequence[Slice]
    otlp_exports: int
    seconds: float
    waiting: WaitingCost | None = None

    def save(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, file: Path) -> Report:
        return TypeAdapter(cls).validate_json(file.read_bytes())


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def machine() -> dict[str, str]:
    cores = Cores.here()
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores seen",
        "kernel": f"{platform.system()} {platform.release()}",
        "cores": "ONE core for all, so the figures say little" if cores.shared else f"load {cores.load}, proxies {cores.proxy}",
        "load average before": f"{os.getloadavg()[0]:.2f}",
        "python": sys.version.split()[0],
        "compiler": _said("cc", "--version"),
    }


def versions() -> dict[str, str]:
    """Of our own packages; each proxy tells its own."""
    found = {name: version(name) for name in PACKAGES}
    if commit := _said("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"):
        changed = _said("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
        found["paceline"] += f" ({commit}{', modified' if changed else ''})"
    return found


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _said(*command: str) -> str:
    """The first line of a command's output; empty if it fails."""
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.partition("\n")[0] if done.returncode == 0 else ""
