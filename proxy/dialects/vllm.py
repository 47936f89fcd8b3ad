"""vLLM: OpenAI's surface, Anthropic's messages, pooling models, and token ids in and out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.dialects import admin_routes, errors, openai, sleep_routes, timings
from proxy.dialects import openai_requests as requests
from proxy.dialects.asks import Ask
from proxy.dialects.base import Dialect, Injected
from proxy.dialects.injection import UsageRules, include_usage
from proxy.dialects.openai_answers import read_answer, read_event, read_id, stored


def read_completion(data: Mapping[str, Any]) -> Ask:
    """It ignores `best_of`."""
    return requests.read_completion({**data, "best_of": None})


def inject(path: str, body: bytes) -> Injected | None:
    """`include_usage` is true where `stream_options` leave it out, so an empty object already asks."""
    if path == "/invocations" and not (b'"messages"' in body or b'"prompt"' in body):
        return None
    return include_usage(body, UsageRules(null=True, empty=False)) if path in _COUNTED else None


_COUNTED = (*openai.CHATS_AND_COMPLETIONS, "/invocations")

VLLM = Dialect(
    name="vllm",
    provider="vllm",
    routes={
        **openai.ROUTES,
        "/v1/completions": read_completion,
        "/v1/chat/completions/batch": requests.read_chat_batch,
        "/v1/audio/speech": requests.read_speech,
        "/v2/embed": requests.read_embeddings,
        "/v2/rerank": requests.read_scores,
        "/rerank": requests.read_scores,
        "/score": requests.read_scores,
        "/generative_scoring": requests.read_scores,
        "/pooling": requests.read_embeddings,
        "/classify": requests.read_embeddings,
        "/invocations": requests.read_invocation,
        "/inference/v1/generate": requests.read_token_ids,
    },
    forms=openai.AUDIO,
    read_event=read_event,
    read_timings=timings.vllm,
    read_answer=read_answer,
    error=errors.vllm,
    engine_admin=admin_routes.VLLM,
    health="/health",
    sleep=sleep_routes.VLLM,
    read_id=read_id,
    stored=stored,
    inject=inject,
)
