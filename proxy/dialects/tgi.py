"""Hugging Face Text Generation Inference: its own routes, and its version of OpenAI's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from proxy.dialects import admin_routes, errors, timings
from proxy.dialects import openai_requests as requests
from proxy.dialects.asks import Ask, asking, name
from proxy.dialects.base import NOTHING, ONE_TOKEN, Dialect, Event, Injected, Usage
from proxy.dialects.injection import UsageRules, include_usage, tgi_details
from proxy.dialects.openai_answers import error_type, usage_member
from proxy.dialects.openai_answers import read_answer as read_openai_answer
from proxy.dialects.values import count, estimated_tokens, members, parsed, told

DEFAULT_NEW_TOKENS = 100
_ERROR = re.compile(rb'\s*\{\s*"error"')


def _read_generate(data: Mapping[str, Any], *, streamed: bool) -> Ask:
    """Each copy of `best_of` takes one of the router's permits, and is generated whole."""
    parameters = members(data.get("parameters"))
    tokens = estimated_tokens(data.get("inputs"))
    return asking(
        "text_completion",
        {"service_tier": data.get("service_tier"), "model": parameters.get("adapter_id"), "inputs": data.get("inputs")},
        (min(tokens, count(parameters.get("truncate"), tokens)), True),
        tokens_each=count(parameters.get("max_new_tokens"), DEFAULT_NEW_TOKENS),
        sequences=count(parameters.get("best_of"), 1),
        streamed=streamed,
    )


def read_generate(data: Mapping[str, Any]) -> Ask:
    return _read_generate(data, streamed=False)


def read_generate_stream(data: Mapping[str, Any]) -> Ask:
    return _read_generate(data, streamed=True)


def read_chat(data: Mapping[str, Any]) -> Ask:
    """As OpenAI's, but TGI ignores `n`."""
    return requests.read_chat({**data, "n": 1}, default_tokens=DEFAULT_NEW_TOKENS)


def read_completion(data: Mapping[str, Any]) -> Ask:
    """As OpenAI's, without copies; each prompt takes a permit."""
    return requests.read_completion({**data, "n": 1, "best_of": None}, default_tokens=DEFAULT_NEW_TOKENS)


def read_compatible(data: Mapping[str, Any]) -> Ask:
    """POST /: the body says whether the answer streams."""
    return _read_generate(data, streamed=data.get("stream") is True)


def read_invocation(data: Mapping[str, Any]) -> Ask:
    """SageMaker's route takes any of three bodies."""
    if "inputs" in data:
        return read_compatible(data)
    return read_chat(data) if "messages" in data else read_completion(data)


def read_vertex(data: Mapping[str, Any]) -> Ask:
    """Of an instance's parameters only max_new_tokens and the seed are honoured, so no copies are made."""
    asks = [read_invocation({**instance, "parameters": _honoured(instance)}) for instance in data["instances"]]
    each = max((ask.max_new_tokens for ask in asks), default=0)
    tokens = sum(ask.prompt_tokens for ask in asks)
    return asking("text_completion", {}, (tokens, True), tokens_each=each, sequences=len(asks), streamed=False)


def _honoured(instance: Mapping[str, Any]) -> dict[str, Any]:
    return {"max_new_tokens": members(instance.get("parameters")).get("max_new_tokens")}


def read_kserve(data: Mapping[str, Any]) -> Ask:
    """Texts are arrays of bytes, one an input."""
    inputs = [members(item) for item in data["inputs"]]
    sizes = [len(item["data"]) for item in inputs if isinstance(item.get("data"), list)]
    limit = count(members(data.get("parameters")).get("max_new_tokens"), DEFAULT_NEW_TOKENS)
    return asking("text_completion", {}, (sum(sizes) // 4, True), tokens_each=limit, sequences=len(inputs), streamed=False)


def read_event(data: bytes) -> Event:
    """Every event is one token, the final one too; OpenAI's shape may bring counts in an event of its own."""
    if data in (b"[DONE]", b""):
        return NOTHING
    if _ERROR.match(data):
        return Event(error=_error_type(data))
    if b'"token":{' in data:
        return Event(1, _details(data)) if b'"generated_tokens":' in data else ONE_TOKEN
    if b'"completion_tokens":' in data:
        return Event(0 if b'"choices":[]' in data else 1, _part(data))
    return ONE_TOKEN


def _part(data: bytes) -> Usage | None:
    """Completions of several prompts tell the counts of each of them."""
    usage = usage_member(members(parsed(data)))
    return None if usage is None else Usage(usage.prompt_tokens, usage.output_tokens, part=True)


def _details(data: bytes) -> Usage | None:
    details = members(members(parsed(data)).get("details"))
    if "generated_tokens" not in details:
        return None
    return Usage(told(details.get("input_length")) or None, told(details["generated_tokens"]), part=True)


def _error_type(data: bytes) -> str:
    """Native events name the type; a chat's have only a status, which is 422 whatever the cause."""
    event = members(parsed(data))
    status = members(event.get("error")).get("http_status_code")
    return name(event.get("error_type")) or (str(status)[:8] if status else error_type(data))


def read_answer(headers: Mapping[bytes, bytes], body: bytes) -> Usage:
    """TGI tells counts in headers on every answer that is not streamed; with best_of they count the best only."""
    prompt, output = _number(headers.get(b"x-prompt-tokens")), _number(headers.get(b"x-generated-tokens"))
    if prompt is None or output is None:
        return read_openai_answer(headers, body)
    return Usage(prompt or None, output + _other_sequences(body))


def _number(header: bytes | None) -> int | None:
    return told(int(header)) if header is not None and header.isdigit() and len(header) < 12 else None


def _other_sequences(body: bytes) -> int:
    """Tokens of the sequences that were not the best: they were generated all the same."""
    if b'"best_of_sequences"' not in body:
        return 0
    answer = parsed(body)
    details = members(members(answer[0] if isinstance(answer, list) and answer else answer).get("details"))
    others = details.get("best_of_sequences")
    return sum(told(members(other).get("generated_tokens")) or 0 for other in others) if isinstance(others, list) else 0


def inject(path: str, body: bytes) -> Injected | None:
    """A stream's last event tells the prompt's length with `details`, a chat's extra chunk with `include_usage`.

    Completions tell both counts anyway. Null and an empty object are left as they are: TGI refuses the one, and what the
    other means has changed.
    """
    if path == "/generate_stream":
        return tgi_details(body, only_if_streamed=False)
    if path == "/" or (path == "/invocations" and b'"inputs"' in body):
        return tgi_details(body, only_if_streamed=True)
    if path == "/v1/chat/completions" or (path == "/invocations" and b'"messages"' in body):
        return include_usage(body, UsageRules(null=False, empty=False, strict=True))
    return None


TGI = Dialect(
    name="tgi",
    provider="tgi",
    routes={
        "/": read_compatible,
        "/generate": read_generate,
        "/generate_stream": read_generate_stream,
        "/v1/chat/completions": read_chat,
        "/v1/completions": read_completion,
        "/invocations": read_invocation,
        "/vertex": read_vertex,
        "/predict": read_vertex,
    },
    patterns=((re.compile(r"/v2/models/[^/]+/versions/[^/]+/infer"), read_kserve),),
    read_event=read_event,
    read_answer=read_answer,
    read_timings=timings.tgi,
    error=errors.tgi,
    engine_admin=admin_routes.TGI,
    health="/health",
    inject=inject,
)
