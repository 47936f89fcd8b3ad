"""What engines tell of the phases of an answer that was not streamed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.dialects.values import members, parsed
from telemetry.ledger import Timings

LONGEST_S = 86_400.0


def none(headers: Mapping[bytes, bytes], body: bytes) -> Timings | None:
    return None


def tgi(headers: Mapping[bytes, bytes], body: bytes) -> Timings | None:
    """Headers in whole milliseconds: the queue is told, prefill and decode only together."""
    queue_s, validation_s = (_ms(_number(headers.get(name))) for name in (b"x-queue-time", b"x-validation-time"))
    return None if queue_s is None else Timings(queue_s=queue_s + (validation_s or 0.0))


def vllm(headers: Mapping[bytes, bytes], body: bytes) -> Timings | None:
    """`metrics` of an answer, where the server runs with --enable-per-request-metrics."""
    if b'"metrics"' not in body:
        return None
    metrics = members(members(parsed(body)).get("metrics"))
    queue_s, first_s = (_ms(metrics.get(name)) for name in ("queue_time_ms", "time_to_first_token_ms"))
    if queue_s is None or first_s is None:
        return None
    return Timings(queue_s, prefill_s=max(first_s - queue_s, 0.0))


def llamacpp(headers: Mapping[bytes, bytes], body: bytes) -> Timings | None:
    """`timings` of an answer: prefill and decode, but not the wait for a slot."""
    if b'"timings"' not in body:
        return None
    timings = members(members(parsed(body)).get("timings"))
    prefill_s, decode_s = (_ms(timings.get(name)) for name in ("prompt_ms", "predicted_ms"))
    return None if prefill_s is None or decode_s is None else Timings(prefill_s=prefill_s, decode_s=decode_s)


def _number(header: bytes | None) -> float | None:
    try:
        return float(header) if header is not None else None
    except ValueError:
        return None


def _ms(value: Any) -> float | None:
    """Seconds from milliseconds, where they are any."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LONGEST_S * 1000:
        return None
    return value / 1000
