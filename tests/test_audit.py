"""An audit that asked nobody does not pass for one that found nothing."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.audit import ask, verdict

CLEAN = {"name": "click", "version": "8.1", "vulns": []}
BAD = {"name": "old", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}
SKIPPED = {"name": "own", "skip_reason": "not found"}


def test_what_was_found_is_said() -> None:
    assert verdict([CLEAN, CLEAN, SKIPPED])[0] == 0
    status, said = verdict([CLEAN, BAD])
    assert (status, said[0]) == (1, "old 1: PYSEC-1, mended in 2")


def test_nobody_asked_is_not_nothing_found() -> None:
    assert verdict([])[0] == 2
    assert verdict([SKIPPED, SKIPPED])[0] == 2


def test_a_tool_that_fails_has_said_nothing(tmp_path: Path) -> None:
    assert ask("pypi", str(tmp_path / "no-python")) == []
    assert ask("no-such-service", sys.executable) == []
