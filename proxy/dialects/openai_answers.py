"""Where answers of OpenAI's and Anthropic's surfaces tell tokens, counts, errors and ids."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from proxy.dialects.base import NOTHING, ONE_TOKEN, Event, Usage
from proxy.dialects.values import members, parsed, told

# an event brings a token when a text in it is not empty; chunks with only a role or a finish reason bring none
_TEXT = re.compile(rb'"(?:content|text|reasoning_content|reasoning|arguments)"\s*:\s*"[^"]')
_DELTA = re.compile(rb'"(?:delta|text|partial_json|thinking)"\s*:\s*"[^"]')
_ERROR = re.compile(rb'\s*\{\s*(?:"error"\s*:\s*[^\sn]|"(?:type|object)"\s*:\s*"error")')
_TYPE = re.compile(rb'"type"\s*:\s*"(response\.[a-z_.]+|message_start|message_delta|content_block_delta|error)"')
_IDS = re.compile(rb'"token_ids"\s*:\s*\[([^\]]*)\]')
_STORED = re.compile(r"/v1/responses/([^/]+)(?:/[a-z_]+)?/?")


def read_event(data: bytes) -> Event:
    if data == b"[DONE]":
        return NOTHING
    if _ERROR.match(data):
        return Event(error=error_type(data))
    if b'"choices"' not in data:
        return _read_typed(data)
    tokens = tokens_in(data)
    if b'"completion_tokens"' in data:
        return Event(tokens, usage_in(data))
    return ONE_TOKEN if tokens == 1 else Event(tokens)


def tokens_in(data: bytes) -> int:
    """Tokens that a chunk brings: as many as it names by their ids, else one where it has text."""
    ids = _IDS.findall(data) if b'"token_ids"' in data else []
    if any(part.strip() for part in ids):
        return sum(part.count(b",") + 1 for part in ids if part.strip())
    return 1 if _TEXT.search(data) else 0


def _read_typed(data: bytes) -> Event:
    """Events that say their type: the Responses API's, and Anthropic's."""
    found = _TYPE.search(data)
    kind = found[1].decode() if found else ""
    if kind.endswith(("delta", ".delta")) and kind != "message_delta":
        return ONE_TOKEN if _DELTA.search(data) else NOTHING
    if kind == "error":  # it may also be the type of something within
        return Event(error=error_type(data)) if members(parsed(data)).get("type") == "error" else NOTHING
    if kind in ("message_start", "message_delta"):
        event = members(parsed(data))
        return Event(usage=usage_member(event) or usage_member(members(event.get("message"))))
    if kind in ("response.created", "response.completed", "response.incomplete", "response.failed"):
        return _read_response(members(members(parsed(data)).get("response")))
    return NOTHING


def _read_response(response: Mapping[str, Any]) -> Event:
    id, error = response.get("id"), response.get("error")
    kind = str(members(error).get("code") or "error") if error else ""
    return Event(usage=usage_member(response), error=kind, id=id if isinstance(id, str) else "")


def error_type(data: bytes) -> str:
    """What an error in a stream calls itself; not every engine writes it as JSON."""
    event = members(parsed(data))
    error = members(event.get("error"))
    told = error.get("type") or error.get("code") or event.get("error_type") or event.get("code") or "error"
    return str(told)[:64] if isinstance(told, str | int) else "error"


def usage_in(data: bytes) -> Usage | None:
    """`usage` in a JSON text, where there is one."""
    return usage_member(members(parsed(data)))


def usage_member(data: Mapping[str, Any]) -> Usage | None:
    """OpenAI's `usage` object, by any of its names for the counts, or Anthropic's, which tells cached tokens apart."""
    usage = data.get("usage")
    if not isinstance(usage, dict):
        return None
    output = told(usage.get("completion_tokens", usage.get("output_tokens")))
    details = members(usage.get("prompt_tokens_details")) or members(usage.get("input_tokens_details"))
    if "input_tokens" not in usage or "input_tokens_details" in usage:
        prompt = told(usage.get("prompt_tokens", usage.get("input_tokens")))
        if prompt is None and output is None:
            prompt = told(usage.get("total_tokens"))
        return _usage(prompt, output, told(details.get("cached_tokens")))
    cached, written = told(usage.get("cache_read_input_tokens")), told(usage.get("cache_creation_input_tokens"))
    fresh = told(usage["input_tokens"])
    return _usage(None if fresh is None else fresh + (cached or 0) + (written or 0), output, cached)


def _usage(prompt: int | None, output: int | None, cached: int | None) -> Usage:
    return Usage(prompt or None, output, cached)  # no prompt has no tokens: 0 is an engine's way to say nothing


def read_answer(headers: Mapping[bytes, bytes], body: bytes) -> Usage:
    answer = members(parsed(body))
    usage = usage_member(answer)
    if usage is not None:
        return usage
    choices = answer.get("choices")
    if isinstance(choices, list):
        ids = [choice["token_ids"] for choice in choices if isinstance(members(choice).get("token_ids"), list)]
        return Usage(output_tokens=sum(map(len, ids))) if ids else Usage()
    return Usage()


def read_id(body: bytes) -> str:
    """The id of a response that can be asked for again."""
    answer = members(parsed(body)) if b'"response"' in body else {}
    id = answer.get("id")
    return id if answer.get("object") == "response" and isinstance(id, str) else ""


def stored(path: str) -> str:
    found = _STORED.fullmatch(path)
    return found[1] if found else ""
