"""The surfaces beside chat completions that real engines have: OpenAI's responses, Anthropic's messages, llama.cpp's own."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.engines.engine import Engine
from tests.engines.paceline import Paceline

MESSAGES = [{"role": "user", "content": "Say something about a race."}]
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/responses": {"input": "Say something about a race.", "max_output_tokens": 6},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 6},
    "/completion": {"prompt": "The peloton", "n_predict": 6},
    "/invocations": {"messages": MESSAGES, "max_tokens": 6, "stream_options": {"include_usage": True}},
}
PROMPT = ("prompt_tokens", "input_tokens", "tokens_evaluated")
OUTPUT = ("completion_tokens", "output_tokens", "tokens_predicted")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ROUTES)
def test_counts_are_the_engines(engine: Engine, paceline: Paceline, path: str, stream: bool) -> None:
    body = {"model": engine.model, **ROUTES[path], "stream": stream}
    if not stream:
        body.pop("stream_options", None)
    direct, through = engine.http.post(path, json=body), paceline.http.post(path, json=body)
    assert through.status_code == direct.status_code
    if direct.status_code == 404:
        pytest.skip(f"{engine.name} has no {path}")
    told, counted = counts(through.content), paceline.ended(through.headers["x-paceline-request-id"])
    assert (counted["prompt_tokens"], counted["output_tokens"]) == told
    assert not counted["prompt_tokens_estimated"]
    assert not counted["output_tokens_estimated"]
    assert counted["streamed"] is stream
    assert counted["error"] is None


def counts(answer: bytes) -> tuple[int, int]:
    """Prompt and output tokens as an answer tells them last, wherever in it; Anthropic's prompt is told without its cache."""
    told: dict[str, int] = {}
    for data in re.findall(rb"^(?:data: ?)?(\{.*\})$", answer, re.MULTILINE) or [answer]:
        _collect(json.loads(data), told)
    prompt = next(told[name] for name in PROMPT if name in told)
    return prompt + told.get("cache_read_input_tokens", 0), next(told[name] for name in OUTPUT if name in told)


def _collect(value: Any, told: dict[str, int]) -> None:
    if isinstance(value, dict):
        told.update(
            {name: count for name, count in value.items() if isinstance(count, int) and name.endswith((*PROMPT, *OUTPUT))}
        )
        for part in value.values():
            _collect(part, told)
