"""What a client gets of a real engine through Paceline is what it would get without it, and the ledger counts as the engine."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from huggingface_hub import InferenceClient

from tests.engines import talking
from tests.engines.engine import Engine
from tests.engines.paceline import Paceline

COUNTED = {"stream_options": {"include_usage": True}}


def counts(paceline: Paceline, id: str) -> tuple[int, int]:
    """Prompt and output tokens by the ledger, none of them estimated."""
    told = paceline.ended(id)
    assert told["error"] is None, told
    assert not told["prompt_tokens_estimated"], told
    assert not told["output_tokens_estimated"], told
    return told["prompt_tokens"], told["output_tokens"]


def test_the_probe_finds_out_what_it_is(engine: Engine, paceline: Paceline) -> None:
    assert paceline.status()["dialect"] == engine.name


def test_chat(engine: Engine, paceline: Paceline) -> None:
    direct = talking.chat(engine.url, engine.asking(24))
    through = talking.chat(paceline.url, engine.asking(24))
    assert (through.text, through.finish) == (direct.text, direct.finish)
    assert through.output_tokens == direct.output_tokens == 24
    assert counts(paceline, through.id) == (through.prompt_tokens, through.output_tokens)


def test_chat_streamed(engine: Engine, paceline: Paceline) -> None:
    asking = engine.asking(engine.some, **COUNTED)
    direct = talking.chat_streamed(engine.url, asking)
    through = talking.chat_streamed(paceline.url, asking)
    assert (through.text, through.finish) == (direct.text, direct.finish)
    assert through.output_tokens == direct.output_tokens == engine.some
    assert len(through.at) > len(direct.at) / 2  # an engine may join words when it is in a hurry
    assert through.spread_s > direct.spread_s / 2, "the events came together instead of one by one"
    assert counts(paceline, through.id) == (through.prompt_tokens, through.output_tokens)


def test_a_stream_that_was_not_asked_for_usage(engine: Engine, paceline: Paceline) -> None:
    """Only vLLM then tells nothing: its prompt's count stays an estimate, and its output is counted by its events."""
    through = talking.chat_streamed(paceline.url, engine.asking(24))
    told, direct = paceline.ended(through.id), talking.chat(engine.url, engine.asking(24))
    assert told["output_tokens"] == 24
    assert told["prompt_tokens_estimated"] == told["output_tokens_estimated"] == (not engine.always_counts)
    if engine.always_counts:
        assert told["prompt_tokens"] == direct.prompt_tokens


def test_the_bytes_of_a_stream(engine: Engine, paceline: Paceline) -> None:
    asking = engine.asking(24, stream=True)
    direct = engine.http.post("/v1/chat/completions", json=asking)
    through = paceline.http.post("/v1/chat/completions", json=asking)
    assert talking.events(through.content) == talking.events(direct.content)
    assert through.content.endswith(b"data: [DONE]\n\n") == engine.done
    assert talking.headers(through) == talking.headers(direct)


def test_completions(engine: Engine, paceline: Paceline) -> None:
    asking: dict[str, Any] = {**engine.asking(16), "prompt": "The peloton"}
    del asking["messages"]
    direct, through = talking.completed(engine.url, asking), talking.completed(paceline.url, asking)
    assert (through.text, through.output_tokens) == (direct.text, 16)
    assert counts(paceline, through.id) == (through.prompt_tokens, 16)
    streamed = talking.completed_streamed(paceline.url, {**asking, **COUNTED})
    assert streamed.text == direct.text
    assert counts(paceline, streamed.id) == (direct.prompt_tokens, 16)


def test_huggingface_hub(engine: Engine, paceline: Paceline) -> None:
    def hear(url: str) -> tuple[str, Any]:
        messages = [{"role": "user", "content": "Tell me about a bicycle race."}]
        own: Any = {"extra_body": {**engine.extra}, "stream_options": COUNTED["stream_options"]}
        chunks = list(
            InferenceClient(url).chat_completion(messages, model=engine.model, max_tokens=16, temperature=0, stream=True, **own)
        )
        text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        return text, chunks[-1].usage

    direct, through = hear(engine.url), hear(paceline.url)
    assert through == direct
    assert through[1].completion_tokens == 16


def test_ten_at_once(engine: Engine, paceline: Paceline) -> None:
    """None gets words of another: an engine marks each chunk with its answer's id. (Batches round differently, so texts
    may differ from those of a question that was alone.)"""
    topics = [f"Say the number {n} again and again." for n in range(10)]

    def ask(topic: str) -> talking.Heard:
        return talking.chat_streamed(paceline.url, engine.asking(24, topic, **COUNTED))

    with ThreadPoolExecutor(10) as pool:
        heard = list(pool.map(ask, topics))
    assert [(one.output_tokens, one.finish) for one in heard] == [(24, "length")] * 10
    assert [len(one.ids) for one in heard] == [1] * 10
    assert len(set.union(*(one.ids for one in heard))) == len({one.id for one in heard}) == 10
    assert all(one.text for one in heard)
    assert [counts(paceline, one.id) for one in heard] == [(one.prompt_tokens, 24) for one in heard]
    assert paceline.in_flight() == 0


WRONG: list[tuple[str, str, Any]] = [
    ("POST", "/v1/chat/completions", b"{"),
    ("POST", "/v1/chat/completions", b"[]"),
    ("POST", "/v1/chat/completions", b""),
    ("POST", "/v1/chat/completions", b"{}"),
    ("POST", "/v1/chat/completions", b'{"messages": 5, "stream": true}'),
    ("POST", "/v1/completions", b'{"model": "nobody", "prompt": 5}'),
    ("GET", "/v1/chat/completions", b""),
    ("GET", "/nowhere", b""),
    ("POST", "/v1/nowhere", b"{}"),
    ("DELETE", "/v1/models", b""),
    ("OPTIONS", "/v1/chat/completions", b""),
    ("HEAD", "/health", b""),
]


@pytest.mark.parametrize(("method", "path", "body"), WRONG)
def test_errors_are_the_engines_own(engine: Engine, paceline: Paceline, method: str, path: str, body: bytes) -> None:
    def ask(http: httpx.Client) -> tuple[int, bytes, list[tuple[str, str]]]:
        answer = http.request(method, path, content=body, headers={"content-type": "application/json"})
        return answer.status_code, talking.without_numbers(answer.content), talking.headers(answer)

    assert ask(paceline.http) == ask(engine.http)


def test_a_prompt_that_is_too_long(engine: Engine, paceline: Paceline) -> None:
    if not engine.survives:
        pytest.skip(f"{engine.name} would not live on")
    asking = engine.asking(4, "word " * 5000, stream=True)
    direct = engine.http.post("/v1/chat/completions", json=asking)
    through = paceline.http.post("/v1/chat/completions", json=asking)
    assert through.status_code == direct.status_code
    assert talking.events(through.content) == talking.events(direct.content)
    assert talking.without_numbers(through.content) == talking.without_numbers(direct.content)
    told = paceline.ended(through.headers["x-paceline-request-id"])
    assert told["error"] or told["status"] >= 400, told


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/metrics", "/props", "/slots", "/version", "/tokenize"])
def test_what_is_not_generated_passes(engine: Engine, paceline: Paceline, path: str) -> None:
    direct, through = engine.http.get(path), paceline.http.get(path)
    assert through.status_code == direct.status_code
    assert talking.without_numbers(through.content) == talking.without_numbers(direct.content)
    assert talking.headers(through) == talking.headers(direct)


def test_connections_that_the_engine_closes_cost_nobody_an_answer(engine: Engine, paceline: Paceline) -> None:
    """llama.cpp closes a connection after each stream, having promised to keep it: just when another request takes it."""
    asking = {**engine.asking(1, "Hi", stream=True), **engine.quick}

    def ask(_: int) -> int:
        return paceline.http.post("/v1/chat/completions", json=asking).status_code

    with ThreadPoolExecutor(10) as pool:
        answers = Counter(pool.map(ask, range(engine.many)))
    assert answers == {200: engine.many}
