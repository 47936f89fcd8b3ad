"""With `usage = "inject"` counts are exact, and the client sees the events that it would have seen without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines import talking
from tests.engines.engine import Engine
from tests.engines.paceline import Paceline, serving

PATH = "/v1/chat/completions"


@pytest.fixture(scope="module")
def injecting_into_it(started: Engine, logs: Path) -> Iterator[Paceline]:
    log = logs / f"paceline-injecting-{started.name}.log"
    with serving(log, "--upstream", started.url, PACELINE_USAGE="inject") as paceline:
        yield paceline


@pytest.fixture
def injecting(engine: Engine, injecting_into_it: Paceline) -> Paceline:
    return injecting_into_it


@pytest.mark.parametrize(
    "options",
    [{}, {"stream_options": None}, {"stream_options": {"include_usage": False}}, {"stream_options": {"include_usage": True}}],
)
def test_streams(engine: Engine, injecting: Paceline, options: dict[str, object]) -> None:
    asking = engine.asking(16, stream=True, **options)
    direct = engine.http.post(PATH, json=asking)
    through = injecting.http.post(PATH, json=asking)
    assert (through.status_code, direct.status_code) == (200, 200)
    assert talking.events(through.content) == talking.events(direct.content)
    assert talking.headers(through) == talking.headers(direct)
    told, alone = injecting.ended(through.headers["x-paceline-request-id"]), talking.chat(engine.url, engine.asking(16))
    assert (told["prompt_tokens"], told["output_tokens"]) == (alone.prompt_tokens, 16)
    assert (told["prompt_tokens_estimated"], told["output_tokens_estimated"]) == (False, False)


def test_answers_that_are_not_streamed_are_left_alone(engine: Engine, injecting: Paceline) -> None:
    """vLLM refuses `stream_options` without `stream`."""
    heard = talking.chat(injecting.url, engine.asking(8))
    assert heard.output_tokens == 8


def test_completions(engine: Engine, injecting: Paceline) -> None:
    asking = {**engine.asking(8, stream=True), "prompt": "The peloton"}
    del asking["messages"]
    direct = engine.http.post("/v1/completions", json=asking)
    through = injecting.http.post("/v1/completions", json=asking)
    assert talking.events(through.content) == talking.events(direct.content)
    told = injecting.ended(through.headers["x-paceline-request-id"])
    assert (told["output_tokens"], told["output_tokens_estimated"], told["prompt_tokens_estimated"]) == (8, False, False)
