"""What tells which requests share the beginning of their prompts: a digest of it, and what their senders call a session."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from proxy.dialects.values import members, name

CHARACTERS = 1000  # of a beginning; less is worth no server of its own, unless a system message says that others begin so
TOKENS = CHARACTERS // 4  # of a prompt that comes as token ids
DIGEST_BYTES = 12

_SYSTEM = ("system", "instructions")  # Anthropic's, and /v1/responses'
_PROMPTS = ("messages", "prompt", "input", "inputs", "text", "input_ids", "token_ids")
_SYSTEM_ROLES = ("system", "developer")


def prefix_of(data: Mapping[str, Any]) -> bytes | None:
    """A digest of a prompt's first characters, system message included; of the system message alone, where that is all.

    None: it is short, and has no system message.
    """
    prompt = next((value for key in _PROMPTS if (value := data.get(key))), None)
    parts: list[str] = []
    left = CHARACTERS
    for key in _SYSTEM:
        if key in data:
            left = _gather(data[key], parts, left)
    if isinstance(prompt, list):
        first = prompt[0]
        if isinstance(first, int):
            return _digest(repr(prompt[:TOKENS])) if len(prompt) >= TOKENS else None
        if isinstance(first, dict) and first.get("role") in _SYSTEM_ROLES:
            left = _gather(first, parts, left)
            prompt = prompt[1 : CHARACTERS + 1]
    system = len(parts)
    if _gather(prompt, parts, left) > 0:
        del parts[system:]
    return _digest("".join(parts)) if parts else None


def session_of(data: Mapping[str, Any]) -> str:
    """What a body calls a session: OpenAI's `prompt_cache_key` or `conversation`, SGLang's `session_params`; else `user`."""
    conversation = data.get("conversation")
    told = (
        data.get("prompt_cache_key"),
        conversation.get("id") if isinstance(conversation, dict) else conversation,
        members(data.get("session_params")).get("id"),
        data.get("user"),
    )
    return next((name(text) for text in told if isinstance(text, str) and text), "")


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "replace"), digest_size=DIGEST_BYTES).digest()


def _gather(value: object, parts: list[str], left: int) -> int:
    """Add the first `left` characters of all texts in a value, none copied beyond; how many are still missing."""
    if left <= 0:
        return left
    if isinstance(value, str):
        if value:
            parts.append(value[:left])
        return left - len(value)
    if isinstance(value, list):
        for item in value:
            left = _gather(item, parts, left)
            if left <= 0:
                break
    elif isinstance(value, dict):
        for key in ("content", "text"):
            if key in value:
                left = _gather(value[key], parts, left)
    return left
