"""OpenAI's surface as any server may speak it; what nothing more is known of is taken for this."""

from __future__ import annotations

from proxy.dialects import admin_routes, errors
from proxy.dialects import openai_requests as requests
from proxy.dialects.base import Dialect, Injected, Read
from proxy.dialects.injection import UsageRules, include_usage
from proxy.dialects.openai_answers import read_answer, read_event, read_id, stored

ROUTES: dict[str, Read] = {
    "/v1/chat/completions": requests.read_chat,
    "/v1/completions": requests.read_completion,
    "/v1/responses": requests.read_responses,
    "/v1/messages": requests.read_messages,
    "/v1/embeddings": requests.read_embeddings,
    "/v1/rerank": requests.read_scores,
    "/v1/score": requests.read_scores,
    "/chat/completions": requests.read_chat,
    "/completions": requests.read_completion,
}
CHATS_AND_COMPLETIONS = ("/v1/chat/completions", "/v1/completions", "/chat/completions", "/completions")
AUDIO = {"/v1/audio/transcriptions": requests.read_form, "/v1/audio/translations": requests.read_form}


def inject(path: str, body: bytes) -> Injected | None:
    """Of a server that nobody knows, it is not known what `{}` asks for; OpenAI takes null."""
    return include_usage(body, UsageRules(null=True, empty=False)) if path in CHATS_AND_COMPLETIONS else None


OPENAI = Dialect(
    name="openai",
    provider="openai",
    routes=ROUTES,
    forms=AUDIO,
    read_event=read_event,
    read_answer=read_answer,
    error=errors.openai,
    engine_admin=admin_routes.ALL,
    health="/v1/models",
    read_id=read_id,
    stored=stored,
    inject=inject,
)
