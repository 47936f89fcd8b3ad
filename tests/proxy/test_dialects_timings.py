"""What engines tell of the phases of an answer that was not streamed."""

from __future__ import annotations

import json

import pytest

from proxy.dialects import DIALECTS, timings
from telemetry.ledger import Timings


def body(**members: object) -> bytes:
    return json.dumps(members).encode()


def test_tgi_tells_its_queue_in_milliseconds() -> None:
    headers = {b"x-queue-time": b"120", b"x-validation-time": b"3", b"x-inference-time": b"900"}
    assert timings.tgi(headers, b"{}") == Timings(queue_s=0.123)
    assert timings.tgi({}, b"{}") is None


def test_vllm_tells_queue_and_first_token_where_it_is_asked_to() -> None:
    metrics = {"queue_time_ms": 125.0, "time_to_first_token_ms": 375.0, "generation_time_ms": 1000.0}
    assert timings.vllm({}, body(choices=[], metrics=metrics)) == Timings(queue_s=0.125, prefill_s=0.25)
    assert timings.vllm({}, body(choices=[])) is None


def test_llamacpp_tells_prefill_and_decode() -> None:
    told = {"prompt_ms": 40.5, "predicted_ms": 800}
    assert timings.llamacpp({}, body(timings=told)) == Timings(prefill_s=0.0405, decode_s=0.8)


@pytest.mark.parametrize("value", ["soon", -1, True, None, 1e12, [1], {"a": 1}])
def test_what_is_no_time_is_not_told(value: object) -> None:
    assert timings.vllm({}, body(metrics={"queue_time_ms": value, "time_to_first_token_ms": value})) is None
    assert timings.llamacpp({}, body(timings={"prompt_ms": value, "predicted_ms": value})) is None
    assert timings.tgi({b"x-queue-time": str(value).encode()}, b"") is None


@pytest.mark.parametrize("text", [b"", b'"metrics"', b'{"metrics": [], "timings": 3}', b'{"timings":', b"\xff"])
def test_any_body_will_do(text: bytes) -> None:
    for dialect in DIALECTS.values():
        assert dialect.read_timings({b"x-queue-time": b"nan"}, text) is None
