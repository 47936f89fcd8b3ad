"""The tests that docs/security.md names as its proof are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_test_that_is_named_is_there() -> None:
    page = (ROOT / "docs/security.md").read_text()
    named = re.findall(r"`((?:\w+/)?test_\w+\.py)(?:::(\w+))?`", page)
    last = ""
    for match in re.finditer(r"`(?:((?:\w+/)?test_\w+\.py)|\.\.\.)(?:::(\w+))?`", page):
        last = match[1] or last
        file = ROOT / "tests" / last
        assert file.exists(), last
        assert match[2] is None or re.search(rf"def {match[2]}\b", file.read_text()), match[0]
    assert len(named) > 30
