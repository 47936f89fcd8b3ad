"""Each test of this folder runs once for every engine, in front of which stands a `paceline serve`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines.engine import Engine
from tests.engines.llamacpp import LlamaCpp
from tests.engines.paceline import Paceline, serving
from tests.engines.transformers_serve import TransformersServe
from tests.engines.vllm_cpu import Vllm

# making an environment and starting what is in it come on top of the test that needs them first
ENGINES = [
    pytest.param(LlamaCpp, id="llamacpp", marks=pytest.mark.timeout(300)),
    pytest.param(TransformersServe, id="transformers", marks=[pytest.mark.engines, pytest.mark.timeout(900)]),
    pytest.param(Vllm, id="vllm", marks=[pytest.mark.engines, pytest.mark.timeout(1800)]),
]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "engines: needs gigabytes and minutes; `make test-engines` runs them")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Whoever does not ask for the large engines by their mark does not get them."""
    if "engines" in config.option.markexpr:
        return
    large = [item for item in items if item.get_closest_marker("engines")]
    config.hook.pytest_deselected(items=large)
    items[:] = [item for item in items if item not in large]


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="session", params=ENGINES)
def started(request: pytest.FixtureRequest, logs: Path) -> Iterator[Engine]:
    engine: Engine = request.param(logs)
    try:
        engine.start()
        yield engine
    finally:
        engine.stop()


@pytest.fixture
def engine(started: Engine) -> Engine:
    """The engine, alive and with nothing left to do from the last test."""
    started.revive()
    assert started.idle(within_s=60)
    return started


@pytest.fixture(scope="session")
def serving_it(started: Engine, logs: Path) -> Iterator[Paceline]:
    with serving(logs / f"paceline-{started.name}.log", "--upstream", started.url) as paceline:
        yield paceline


@pytest.fixture
def paceline(engine: Engine, serving_it: Paceline) -> Paceline:
    return serving_it


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """What failed is shown with what the engine and Paceline printed last."""
    report = yield
    values = getattr(item, "funcargs", {}).values()
    if report.failed:
        for process in {value.process for value in values if isinstance(value, Engine | Paceline)}:
            report.sections.append((f"last words of {process.name}", process.tail()))
    return report
