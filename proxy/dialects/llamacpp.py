"""llama.cpp's server: its native completions, and OpenAI's and Anthropic's surfaces with timings in the answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from proxy.dialects import admin_routes, errors, openai, openai_answers, timings
from proxy.dialects import openai_requests as requests
from proxy.dialects.asks import Ask, asking
from proxy.dialects.base import Dialect, Event, Usage
from proxy.dialects.openai_answers import read_id, stored, tokens_in, usage_member
from proxy.dialects.values import count, estimated_tokens, members, parsed, prompts, told

# the last chunk of a sequence: it finishes, or it has no choices and only counts
_LAST = re.compile(rb'"finish_reason"\s*:\s*"|"choices"\s*:\s*\[\s*\]')
_STOPPED = re.compile(rb'"stop"\s*:\s*true')
_NATIVE = re.compile(rb'"stop"\s*:\s*(?:true|false)')


def read_native(data: Mapping[str, Any]) -> Ask:
    """/completion and /infill: `n_predict` of -1 means until the context ends, which nobody can plan with."""
    put_in = data.get("prompt")
    tokens, estimated, number = prompts(put_in["prompt_string"] if isinstance(put_in, dict) else put_in)
    around = [data.get("input_prefix"), data.get("input_suffix"), data.get("input_extra")]
    if any(around):
        tokens, estimated = tokens + estimated_tokens(around), True
    limit = count(data.get("n_predict"), count(data.get("max_tokens"), requests.CHAT_TOKENS))
    copies = count(data.get("n_cmpl"), count(data.get("n"), 1))
    return asking("text_completion", data, (tokens, estimated), tokens_each=limit, sequences=number * copies)


def read_completion(data: Mapping[str, Any]) -> Ask:
    return requests.read_completion({**data, "best_of": None}, default_tokens=requests.CHAT_TOKENS)


def read_event(data: bytes) -> Event:
    """Timings tell the counts of one sequence in its last chunk, whatever was asked for.

    They may come in every chunk as well (`timings_per_token`), with counts so far: those are left alone.
    """
    if b'"choices"' not in data and _NATIVE.search(data) and b'"content"' in data:
        return Event(tokens_in(data), _counts(data) if _STOPPED.search(data) else None)
    if b'"timings"' in data and b'"choices"' in data:
        return Event(tokens_in(data), _counts(data) if _LAST.search(data) else None)
    return openai_answers.read_event(data)


def _counts(data: bytes) -> Usage:
    usage = read_counts(members(parsed(data)))
    return Usage(usage.prompt_tokens, usage.output_tokens, usage.cached_tokens, part=True)


def read_counts(answer: Mapping[str, Any]) -> Usage:
    """Counts of one answer: its timings, which tell cached tokens apart, else what its surface has."""
    timings = members(answer.get("timings"))
    fresh, cached, output = (told(timings.get(key)) for key in ("prompt_n", "cache_n", "predicted_n"))
    if fresh is None:
        return usage_member(answer) or Usage(told(answer.get("tokens_evaluated")) or None, told(answer.get("tokens_predicted")))
    return Usage((fresh + (cached or 0)) or None, output, cached)


def read_answer(headers: Mapping[bytes, bytes], body: bytes) -> Usage:
    """Several prompts are answered with a list."""
    answer = parsed(body)
    if not isinstance(answer, list):
        usage, choices = read_counts(members(answer)), members(answer).get("choices")
        if not isinstance(choices, list) or len(choices) < 2:
            return usage
        # of several sequences it tells one only, so the others are taken to be like it
        return Usage(usage.prompt_tokens, (usage.output_tokens or 0) * len(choices), usage.cached_tokens, estimated=True)
    total = Usage()
    for one in answer:
        usage = read_counts(members(one))
        total = total.plus(Usage(usage.prompt_tokens, usage.output_tokens, usage.cached_tokens, part=True))
    return total


LLAMACPP = Dialect(
    name="llamacpp",
    provider="llamacpp",
    routes={
        **openai.ROUTES,
        "/v1/completions": read_completion,
        "/completion": read_native,
        "/completions": read_native,
        "/infill": read_native,
        "/api/chat": requests.read_chat,
        "/embedding": requests.read_embeddings,
        "/embeddings": requests.read_embeddings,
        "/rerank": requests.read_scores,
        "/reranking": requests.read_scores,
        "/v1/reranking": requests.read_scores,
    },
    forms=openai.AUDIO,
    read_event=read_event,
    read_timings=timings.llamacpp,
    read_answer=read_answer,
    error=errors.llamacpp,
    engine_admin=admin_routes.LLAMACPP,
    health="/health",
    read_id=read_id,
    stored=stored,
)
