"""Programs that tests need and pip cannot bring: where they are, or the test is skipped (in CI it fails)."""

from __future__ import annotations

import os
import shutil

import pytest

DEBIAN = {"prometheus": "prometheus", "promtool": "prometheus", "chromium": "chromium"}


def tool(name: str) -> str:
    """The path of a program. Where it is missing, the test that asks is skipped; in CI, which has to install it, it fails."""
    if (path := shutil.which(name)) is not None:
        return path
    missing = f"{name} is not installed: apt-get install {DEBIAN[name]}"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)
