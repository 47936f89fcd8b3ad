"""The compose files as Docker Compose itself reads them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
STACKS = {"compose.yaml": (), "compose.gpu.yaml": ("vllm", "tgi")}


def packaged(module: str, program: str) -> str:
    """A program that a wheel carries within a module; some have wheels for Linux only."""
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        missing = f"{module} is not installed: pip install --group test"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return str(Path(spec.submodule_search_locations[0]) / program)


def hadolint() -> str:
    return str(Path(sys.executable).with_name("hadolint"))


def compose(*arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`docker compose ...` by its own binary (the wrapper beside it always exits with 0)."""
    command = [packaged("compose", "docker-compose"), *arguments]
    clean = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME")}
    return subprocess.run(command, capture_output=True, text=True, env=clean | (environ or {}), check=False, timeout=60)


@cache
def stack(file: str) -> dict[str, Any]:
    """A file with all that it includes, extends and fills in, and all profiles."""
    profiles = [word for profile in STACKS[file] for word in ("--profile", profile)]
    read = compose("--file", str(DOCKER / file), *profiles, "config", "--format", "json")
    assert read.returncode == 0, read.stderr
    found: dict[str, Any] = json.loads(read.stdout)
    return found
