"""A client that leaves: the real engine stops working for it, and the proxy's slot is free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.engines.engine import Engine
from tests.engines.paceline import Paceline, serving
from tests.engines.process import eventually

PATH = "/v1/chat/completions"
HANGING_UP = 40  # times, since whether the end came with the last event or after it is chance
STOPS_WITHIN_S = 3.0  # an answer of `endless` tokens would take several times as long


@contextmanager
def reading(paceline: Paceline, engine: Engine) -> Iterator[httpx.Response]:
    """A stream without end, of which some has been read."""
    with paceline.http.stream("POST", PATH, json=engine.asking(engine.endless, stream=True)) as answer:
        read = answer.iter_bytes()
        for _ in range(3):
            next(read)
        yield answer


def leave_while_it_is_made(paceline: Paceline, engine: Engine, after_s: float) -> None:
    with pytest.raises(httpx.ReadTimeout):
        paceline.http.post(PATH, json=engine.asking(engine.endless), timeout=after_s)


def test_leaving_a_stream(engine: Engine, paceline: Paceline) -> None:
    with reading(paceline, engine) as answer:
        assert engine.busy()
        assert paceline.in_flight() == 1
    assert eventually(lambda: paceline.in_flight() == 0, within_s=1)
    assert engine.idle(STOPS_WITHIN_S)
    told = paceline.ended(answer.headers["x-paceline-request-id"])
    assert told["error"] == "client_gone"
    assert 0 < told["output_tokens"] < engine.endless


def test_leaving_an_answer_that_is_not_streamed(engine: Engine, paceline: Paceline) -> None:
    failed = paceline.status()["requests"]["failed"]
    leave_while_it_is_made(paceline, engine, after_s=1.0)
    assert eventually(lambda: paceline.in_flight() == 0, within_s=1)
    assert eventually(lambda: paceline.status()["requests"]["failed"] == failed + 1)
    if engine.unstreamed_cancels:
        assert engine.idle(STOPS_WITHIN_S)
    answer = paceline.http.post(PATH, json=engine.asking(2))
    assert answer.status_code == 200


def test_leaving_at_the_last_event_is_no_leaving(engine: Engine, paceline: Paceline) -> None:
    """The openai client hangs up at `[DONE]`, before the body's own end has come: all was delivered, and all is counted."""
    if not engine.done:
        pytest.skip(f"{engine.name} ends its streams without [DONE]")
    asking = {**engine.asking(1, "Hi", stream=True, stream_options={"include_usage": True}), **engine.quick}
    ids = []
    for _ in range(HANGING_UP):
        with paceline.http.stream("POST", PATH, json=asking) as answer:
            assert any(b"[DONE]" in chunk for chunk in answer.iter_bytes())
        ids.append(answer.headers["x-paceline-request-id"])
    told = [paceline.ended(id) for id in ids]
    assert Counter(one["error"] for one in told) == {None: HANGING_UP}
    assert not any(one["prompt_tokens_estimated"] or one["output_tokens_estimated"] for one in told)


@pytest.fixture
def narrow(engine: Engine, tmp_path: Path) -> Iterator[Paceline]:
    """A Paceline that lets one request at a time into the engine."""
    file = tmp_path / "paceline.toml"
    file.write_text(f'upstreams = [{{ url = "{engine.url}", slots = 1 }}]\n')
    with serving(tmp_path / "paceline.log", "--config", str(file)) as paceline:
        yield paceline


def test_leaving_while_queued(engine: Engine, narrow: Paceline) -> None:
    with reading(narrow, engine):
        leave_while_it_is_made(narrow, engine, after_s=0.5)
        assert eventually(lambda: narrow.waiting() == 0, within_s=1)
        status = narrow.status()
        assert (status["room"]["in_flight"], status["outcomes"]["cancelled"]) == (1, 1)
    assert eventually(lambda: narrow.in_flight() == 0, within_s=1)
    assert engine.idle(STOPS_WITHIN_S)
    assert narrow.http.post(PATH, json=engine.asking(2)).status_code == 200


def test_a_queue_of_one_slot_moves_on_when_its_holder_leaves(engine: Engine, narrow: Paceline) -> None:
    with ThreadPoolExecutor(1) as pool:
        with reading(narrow, engine):
            other = pool.submit(narrow.http.post, PATH, json=engine.asking(2))
            assert eventually(lambda: narrow.waiting() == 1)
        assert other.result(timeout=30).status_code == 200
