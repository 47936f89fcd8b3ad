"""Hugging Face Text Generation Inference: its own routes, and its version of OpenAI's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from proxy.dialects import openai
from proxy.dialects.base import NOTHING, ONE_TOKEN, Ask, Dialect, Event, Usage, count, estimated_tokens, usage_in

DEFAULT_NEW_TOKENS = 100


def _read_generate(data: Mapping[str, Any], *, streamed: bool) -> Ask:
    parameters = data.get("parameters") or {}
    return Ask(
        operation="text_completion",
        streamed=streamed,
        prompt_tokens=estimated_tokens(data["inputs"]),
        prompt_estimated=True,
        max_new_tokens=count(parameters.get("max_new_tokens"), DEFAULT_NEW_TOKENS) * count(parameters.get("best_of"), 1),
        model=str(parameters.get("adapter_id") or ""),
        service_tier=str(data.get("service_tier") or ""),
    )


def read_generate(data: Mapping[str, Any]) -> Ask:
    return _read_generate(data, streamed=False)


def read_generate_stream(data: Mapping[str, Any]) -> Ask:
    return _read_generate(data, streamed=True)


def read_chat(data: Mapping[str, Any]) -> Ask:
    """As OpenAI's, but TGI ignores `n`."""
    return openai.read_chat({**data, "n": 1}, default_tokens=DEFAULT_NEW_TOKENS)


def read_compatible(data: Mapping[str, Any]) -> Ask:
    """POST /: the body says whether the answer streams."""
    return _read_generate(data, streamed=data.get("stream") is True)


def read_invocation(data: Mapping[str, Any]) -> Ask:
    """SageMaker's route takes any of three bodies."""
    if "inputs" in data:
        return read_compatible(data)
    return read_chat(data) if "messages" in data else openai.read_completion(data)


def read_vertex(data: Mapping[str, Any]) -> Ask:
    asks = [read_invocation(instance) for instance in data["instances"]]
    return Ask(
        operation="text_completion",
        streamed=False,
        prompt_tokens=sum(ask.prompt_tokens for ask in asks),
        prompt_estimated=True,
        max_new_tokens=sum(ask.max_new_tokens for ask in asks),
    )


def read_event(data: bytes) -> Event:
    """Every event is one token, the final one too; OpenAI's shape may bring counts in an event of its own."""
    if data == b"[DONE]":
        return NOTHING
    if b'"error"' in data[:40]:
        return Event(error=_error_type(data))
    if b'"token":{' in data:
        return Event(1, _details(data)) if b'"generated_tokens":' in data else ONE_TOKEN
    if b'"choices":[]' in data:
        return Event(0, usage_in(data))
    if b'"completion_tokens":' in data:
        return Event(1, usage_in(data))
    return ONE_TOKEN


def _details(data: bytes) -> Usage | None:
    try:
        details = json.loads(data)["details"]
        return Usage(count(details.get("input_length"), 0) or None, count(details["generated_tokens"], 0) or None)
    except (ValueError, KeyError, TypeError):
        return None


def _error_type(data: bytes) -> str:
    try:
        error = json.loads(data)
        return str(error.get("error_type") or error["error"].get("http_status_code") or "error")
    except (ValueError, AttributeError, KeyError, TypeError):
        return "error"


def read_answer(headers: Mapping[bytes, bytes], body: bytes) -> Usage:
    """TGI tells counts in headers on every answer that is not streamed; with best_of they count the best only."""
    prompt, output = headers.get(b"x-prompt-tokens"), headers.get(b"x-generated-tokens")
    if prompt is None or output is None:
        return openai.read_answer(headers, body)
    try:
        return Usage(int(prompt), int(output))
    except ValueError:
        return Usage()


def error(path: str, message: str, kind: str) -> dict[str, object]:
    if path.startswith("/v1/"):
        return openai.error(path, message, kind)
    return {"error": message, "error_type": kind}


TGI = Dialect(
    name="tgi",
    provider="tgi",
    routes={
        "/": read_compatible,
        "/generate": read_generate,
        "/generate_stream": read_generate_stream,
        "/v1/chat/completions": read_chat,
        "/v1/completions": openai.read_completion,
        "/invocations": read_invocation,
        "/vertex": read_vertex,
    },
    read_event=read_event,
    read_answer=read_answer,
    error=error,
    usage_adds_up=True,
)
