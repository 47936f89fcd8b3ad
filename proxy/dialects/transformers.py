"""transformers serve: a strict copy of OpenAI's surface that ignores much of what it accepts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.dialects import admin_routes, errors
from proxy.dialects import openai_requests as requests
from proxy.dialects.asks import Ask
from proxy.dialects.base import Dialect
from proxy.dialects.openai_answers import read_answer, read_event, read_id, stored

DEFAULT_TOKENS = 1024


def read_chat(data: Mapping[str, Any]) -> Ask:
    """It accepts `n` and `max_completion_tokens`, and ignores both."""
    return requests.read_chat({**data, "n": 1, "max_completion_tokens": None}, default_tokens=DEFAULT_TOKENS)


def read_completion(data: Mapping[str, Any]) -> Ask:
    return requests.read_completion({**data, "n": 1, "best_of": None}, default_tokens=DEFAULT_TOKENS)


TRANSFORMERS = Dialect(
    name="transformers",
    provider="transformers",
    routes={
        "/v1/chat/completions": read_chat,
        "/v1/completions": read_completion,
        "/v1/responses": requests.read_responses,
    },
    forms={"/v1/audio/transcriptions": requests.read_form},
    read_event=read_event,
    read_answer=read_answer,
    error=errors.transformers,
    engine_admin=admin_routes.TRANSFORMERS,
    health="/health",
    read_id=read_id,
    stored=stored,
)
