"""What TGI's validation refuses of a request that was well formed, in its words; and the limits that it tells in `/info`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.engine.tgi_requests import Ask


class Refused(Exception):
    """TGI's own errors: a status, a type, and a message."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


OVERLOADED = (429, "overloaded", "Model is overloaded")


@dataclass(frozen=True, slots=True)
class Limits:
    """TGI's limits as `/info` tells them."""

    max_concurrent_requests: int = 128
    max_best_of: int = 2
    max_stop_sequences: int = 4
    max_top_n_tokens: int = 5
    max_client_batch_size: int = 4
    max_input_tokens: int = 131_071
    max_total_tokens: int = 131_072
    payload_bytes: int = 2_000_000


def validate(ask: Ask, limits: Limits) -> None:
    """What TGI's validation refuses.

    Raises:
        Refused: 422, with TGI's message for the first thing wrong.
    """
    if (wrong := _wrong_shape(ask, limits) or _wrong_value(ask.parameters, limits) or _wrong_length(ask, limits)) is not None:
        raise Refused(422, "validation", f"Input validation error: {wrong}")


def _wrong_shape(ask: Ask, limits: Limits) -> str | None:
    if ask.best_of > limits.max_best_of or ask.parameters.get("best_of") == 0:
        return f"`best_of` must be > 0 and <= {limits.max_best_of}. Given: {ask.best_of}"
    if ask.best_of > 1 and ask.stream:
        return "`best_of` != 1 is not supported when streaming tokens"
    if ask.best_of > 1 and not ask.sampled:
        return "you must use sampling when `best_of` is > 1"
    if ask.best_of > 1 and ask.parameters.get("seed") is not None:
        return "`seed` must not be set when `best_of` > 1"
    return None


def _wrong_value(parameters: Mapping[str, Any], limits: Limits) -> str | None:
    stops, top = parameters.get("stop") or (), parameters.get("top_n_tokens") or 0
    if len(stops) > limits.max_stop_sequences:
        return f"`stop` supports up to {limits.max_stop_sequences} stop sequences. Given: {len(stops)}"
    if top > limits.max_top_n_tokens:
        return f"`top_n_tokens` must be >= 0 and <= {limits.max_top_n_tokens}. Given: {top}"
    for name in ("temperature", "repetition_penalty", "top_k"):
        if (value := parameters.get(name)) is not None and value <= 0:
            return f"`{name}` must be strictly positive"
    for name in ("top_p", "typical_p"):
        if (value := parameters.get(name)) is not None and not 0 < value < 1:
            return f"`{name}` must be > 0.0 and < 1.0"
    if not -2 <= (parameters.get("frequency_penalty") or 0) <= 2:
        return "`frequency_penalty` must be >= -2.0 and <= 2.0"
    return None


def _wrong_length(ask: Ask, limits: Limits) -> str | None:
    if not all(ask.prompts):
        return "`inputs` cannot be empty"
    if ask.max_new_tokens < 1:
        return "`max_new_tokens` must be strictly positive"
    longest = max(ask.prompt_tokens)
    if longest > limits.max_input_tokens:
        return f"`inputs` must have less than {limits.max_input_tokens} tokens. Given: {longest}"
    if longest + ask.max_new_tokens > limits.max_total_tokens:
        return (
            f"`inputs` tokens + `max_new_tokens` must be <= {limits.max_total_tokens}. "
            f"Given: {longest} `inputs` tokens and {ask.max_new_tokens} `max_new_tokens`"
        )
    return None
