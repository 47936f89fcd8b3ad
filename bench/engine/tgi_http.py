"""TGI's HTTP around the generations: headers, how a body becomes a request, and what is said when it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.engine.driver import Driver
from bench.engine.flight import Flight
from bench.engine.shapes import Misfit
from bench.engine.tgi_requests import Ask
from bench.engine.tgi_validation import Refused
from bench.engine.wire import DONE, EVENT, JSON, Exchange, TooLarge, encode, strict_json

CORS = (
    (b"vary", b"origin, access-control-request-method, access-control-request-headers"),
    (b"access-control-allow-origin", b"*"),
)
COMPUTE_TYPE = (b"x-compute-type", b"1-simulated")
STREAM = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    COMPUTE_TYPE,
    (b"x-accel-buffering", b"no"),
)


class Rejected(Exception):
    """axum could not make a request of the body: a status and plain text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


async def read_json(exchange: Exchange, limit: int) -> Any:
    """The body, as axum's extractor takes it.

    Raises:
        Rejected: not announced as JSON, too long, or no JSON.
    """
    kind = exchange.header(b"content-type").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise Rejected(415, "Expected request with `Content-Type: application/json`")
    try:
        return strict_json(await exchange.body(limit))
    except TooLarge:
        raise Rejected(413, "Failed to buffer the request body: length limit exceeded") from None
    except ValueError as error:
        raise Rejected(400, f"Failed to parse the request body as JSON: {error}") from error


def read(reader: Callable[[Any], Ask], data: object) -> Ask:
    """A request out of JSON.

    Raises:
        Rejected: it has another shape.
    """
    try:
        return reader(data)
    except Misfit as error:
        raise Rejected(422, f"Failed to deserialize the JSON body into the target type: {error}") from error


def error_body(error: Refused) -> dict[str, str]:
    return {"error": str(error), "error_type": error.kind}


def openai_error_event(error: Refused) -> bytes:
    """A chat's error inside a stream says 422 whatever it is."""
    return EVENT % encode({"error": {"message": str(error), "http_status_code": 422}}) + DONE


def answer_headers(ask: Ask, flight: Flight, driver: Driver, *, compute_time: bool = True) -> list[tuple[bytes, bytes]]:
    """Counts and times; of several sequences for one prompt the first alone, of several prompts their sums."""
    told = flight.tracks[: len(ask.prompts)]
    validation = driver.model.request_s
    totals = [(track.ended_at or 0.0) - flight.arrived_at for track in told]
    queues = [(track.began_at or 0.0) - flight.arrived_at - validation for track in told]
    inference = sum(totals) - sum(queues) - validation * len(told)
    tokens = ask.max_new_tokens * len(told)
    seconds = {
        b"x-total-time": sum(totals),
        b"x-validation-time": validation * len(told),
        b"x-queue-time": sum(queues),
        b"x-inference-time": inference,
        b"x-time-per-token": inference / tokens,
    }
    numbers = {
        b"x-compute-characters": sum(map(len, ask.prompts)),
        **{name: int(value * 1000 / driver.speed) for name, value in seconds.items()},
        b"x-prompt-tokens": sum(track.job.prompt_tokens for track in told),
        b"x-generated-tokens": tokens,
    }
    headers = [JSON, COMPUTE_TYPE, *((name, b"%d" % value) for name, value in numbers.items()), *CORS]
    if compute_time:
        headers.append((b"x-compute-time", b"%.9g" % (sum(totals) / driver.speed)))
    return headers
