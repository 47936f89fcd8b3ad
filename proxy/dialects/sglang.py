"""SGLang: OpenAI's surface, its native /generate, Ollama's routes and Vertex AI's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from proxy.dialects import admin_routes, errors, openai, openai_answers, sleep_routes
from proxy.dialects import openai_requests as requests
from proxy.dialects.asks import Ask, asking
from proxy.dialects.base import Dialect, Event, Injected, Usage
from proxy.dialects.injection import UsageRules, include_usage
from proxy.dialects.openai_answers import read_id, stored
from proxy.dialects.values import count, estimated_tokens, members, parsed, prompts, told

DEFAULT_NEW_TOKENS = 128
_FINISHED = re.compile(rb'"finish_reason"\s*:\s*[{"]')


def read_generate(data: Mapping[str, Any]) -> Ask:
    """Native: texts or token ids, with parameters for all of them or for each."""
    tokens, estimated, number = prompts(data["text"] if data.get("text") is not None else data.get("input_ids"))
    each = data.get("sampling_params")
    parameters = [members(item) for item in each] if isinstance(each, list) else [members(each)]
    limit = max((count(item.get("max_new_tokens"), DEFAULT_NEW_TOKENS) for item in parameters), default=DEFAULT_NEW_TOKENS)
    copies = max((count(item.get("n"), 1) for item in parameters), default=1)
    return asking("text_completion", data, (tokens, estimated), tokens_each=limit, sequences=number * copies)


def read_vertex(data: Mapping[str, Any]) -> Ask:
    instances = [members(item) for item in data["instances"]]
    parameters = members(data.get("parameters"))
    key = "text" if any("text" in item for item in instances) else "input_ids"
    return read_generate({**parameters, key: [item.get(key, "") for item in instances]})


def read_ollama(data: Mapping[str, Any]) -> Ask:
    """Ollama's routes stream unless they are told not to."""
    prompt = estimated_tokens([data.get("system"), data.get("prompt"), data.get("messages")])
    limit = count(members(data.get("options")).get("num_predict"), DEFAULT_NEW_TOKENS)
    kind = "chat" if "messages" in data else "text_completion"
    return asking(kind, data, (prompt, True), tokens_each=limit, streamed=data.get("stream") is not False)


def read_completion(data: Mapping[str, Any]) -> Ask:
    return requests.read_completion({**data, "best_of": None})


def read_event(data: bytes) -> Event:
    """Native events each tell the text so far, and the counts so far of their own sequence: the last ones count."""
    if b'"meta_info"' not in data or b'"choices"' in data:
        return openai_answers.read_event(data)
    if not _FINISHED.search(data):
        return Event(1)
    event = members(parsed(data))
    reason = members(members(event.get("meta_info")).get("finish_reason"))
    return Event(1, _sum([event]), "abort" if reason.get("type") == "abort" else "")


def read_answer(headers: Mapping[bytes, bytes], body: bytes) -> Usage:
    if b'"meta_info"' in body:
        answer = parsed(body)
        answers = members(answer).get("predictions", answer)
        return _sum(answers if isinstance(answers, list) else [answers]) or Usage()
    if b'"eval_count"' in body:  # Ollama's shape; streamed, it tells none
        answer = members(parsed(body))
        return Usage(told(answer.get("prompt_eval_count")) or None, told(answer.get("eval_count")))
    return openai_answers.read_answer(headers, body)


def _sum(answers: Iterable[object]) -> Usage | None:
    """Counts of sequences together; several copies of one prompt each tell its tokens, all but the first as cached."""
    total: Usage | None = None
    for answer in answers:
        info = members(members(answer).get("meta_info"))
        prompt, output, cached = (told(info.get(key)) for key in ("prompt_tokens", "completion_tokens", "cached_tokens"))
        usage = Usage(prompt or None, output, cached, part=True)
        total = usage if total is None else total.plus(usage)
    return total


def inject(path: str, body: bytes) -> Injected | None:
    """An empty `stream_options` asks for nothing here."""
    return include_usage(body, UsageRules(null=True, empty=True)) if path in _COUNTED else None


_COUNTED = (*openai.CHATS_AND_COMPLETIONS, "/invocations")

SGLANG = Dialect(
    name="sglang",
    provider="sglang",
    routes={
        **openai.ROUTES,
        "/v1/completions": read_completion,
        "/generate": read_generate,
        "/encode": requests.read_embeddings,
        "/classify": requests.read_embeddings,
        "/api/chat": read_ollama,
        "/api/generate": read_ollama,
        "/vertex_generate": read_vertex,
        "/invocations": requests.read_chat,
    },
    forms={**openai.AUDIO, "/generate_from_file": requests.read_form},
    read_event=read_event,
    read_answer=read_answer,
    error=errors.sglang,
    engine_admin=admin_routes.SGLANG,
    health="/ping",
    sleep=sleep_routes.SGLANG,
    read_id=read_id,
    stored=stored,
    inject=inject,
)
