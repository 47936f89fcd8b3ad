"""OpenAI's surface as vLLM, SGLang, llama.cpp's server and transformers serve speak it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from proxy.dialects.base import NOTHING, ONE_TOKEN, Ask, Dialect, Event, Usage, count, estimated_tokens, usage_in

# vLLM's default for completions, and what a chat is assumed to be long when it does not say
COMPLETION_TOKENS, CHAT_TOKENS = 16, 512

# an event brings a token when a text in it is not empty; chunks with only a role or a finish reason bring none
_TEXT = re.compile(rb'"(?:content|text|reasoning_content|reasoning|arguments)"\s*:\s*"[^"]')


def read_chat(data: Mapping[str, Any], *, default_tokens: int = CHAT_TOKENS) -> Ask:
    return Ask(
        operation="chat",
        streamed=data.get("stream") is True,
        prompt_tokens=estimated_tokens(data.get("messages")),
        prompt_estimated=True,
        max_new_tokens=count(data.get("max_completion_tokens"), count(data.get("max_tokens"), default_tokens))
        * count(data.get("n"), 1),
        model=str(data.get("model") or ""),
        service_tier=str(data.get("service_tier") or ""),
    )


def read_completion(data: Mapping[str, Any]) -> Ask:
    prompt_tokens, estimated, prompts = _prompt(data.get("prompt"))
    return Ask(
        operation="text_completion",
        streamed=data.get("stream") is True,
        prompt_tokens=prompt_tokens,
        prompt_estimated=estimated,
        max_new_tokens=count(data.get("max_tokens"), COMPLETION_TOKENS) * count(data.get("n"), 1) * prompts,
        model=str(data.get("model") or ""),
        service_tier=str(data.get("service_tier") or ""),
    )


def _prompt(prompt: object) -> tuple[int, bool, int]:
    """Tokens, whether they are an estimate, and how many prompts: a text, token ids, or a list of either."""
    if isinstance(prompt, list) and prompt:
        if isinstance(prompt[0], int):
            return len(prompt), False, 1
        if isinstance(prompt[0], list):
            return sum(len(ids) for ids in prompt), False, len(prompt)
        return estimated_tokens(prompt), True, len(prompt)
    return estimated_tokens(prompt), True, 1


def read_event(data: bytes) -> Event:
    if data == b"[DONE]":
        return NOTHING
    if b'"error"' in data[:40]:
        return Event(error=_error_type(data))
    tokens = 1 if _TEXT.search(data) else 0
    if b'"completion_tokens"' in data:
        return Event(tokens, usage_in(data))
    return ONE_TOKEN if tokens else NOTHING


def _error_type(data: bytes) -> str:
    try:
        error = json.loads(data)["error"]
        return str(error.get("type") or error.get("code") or "error")
    except (ValueError, AttributeError, KeyError, TypeError):
        return "error"


def read_answer(headers: Mapping[bytes, bytes], body: bytes) -> Usage:
    return usage_in(body) or Usage()


def error(path: str, message: str, kind: str) -> dict[str, object]:
    return {"error": {"message": message, "type": kind, "param": None, "code": kind}}


OPENAI = Dialect(
    name="openai",
    provider="openai",
    routes={
        "/v1/chat/completions": read_chat,
        "/v1/completions": read_completion,
        "/chat/completions": read_chat,
        "/completions": read_completion,
    },
    read_event=read_event,
    read_answer=read_answer,
    error=error,
)
