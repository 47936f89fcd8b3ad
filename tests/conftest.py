"""What all tests have in common: what moves bytes runs on the event loop of `paceline serve`, whose clock is its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop
from hypothesis import settings

settings.register_profile("paceline", deadline=None)  # other work on the machine is no fault of the code
settings.load_profile("paceline")

LIVE = ("tests/proxy", "tests/end_to_end")  # not faults: they count open files, and uvloop opens some of its own when it likes


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long tests are for `make test-long`: what they would find, shorter ones find most of."""
    if "long" in config.option.markexpr:
        return
    long = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    live = any(folder in item.path.as_posix() for folder in LIVE)
    return {"uvloop": uvloop.new_event_loop} if live else {"asyncio": asyncio.new_event_loop}
