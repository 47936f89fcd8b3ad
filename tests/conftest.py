"""Which event loop a test runs on: what moves bytes runs on that of `paceline serve`, whose clock is its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

LIVE = ("tests/proxy", "tests/end_to_end")  # not faults: they count open files, and uvloop opens some of its own when it likes


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    live = any(folder in item.path.as_posix() for folder in LIVE)
    return {"uvloop": uvloop.new_event_loop} if live else {"asyncio": asyncio.new_event_loop}
