"""Which routes generate, administer or name stored things, and how errors of ours look on them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.dialects import DIALECTS, LLAMACPP, OPENAI, SGLANG, TGI, TRANSFORMERS, VLLM, Dialect

PASSES = [
    "/health",
    "/ping",
    "/info",
    "/metrics",
    "/v1/models",
    "/tokenize",
    "/detokenize",
    "/chat_tokenize",
    "/props",
    "/slots",
]
PASSES += ["/version", "/server_info", "/apply-template", "/docs", "/v1/messages/count_tokens", "/v1/responses/resp_1/cancel"]
PASSES += ["/v1/responses/resp_1", "/", "/v1/chat/completions/"]


@pytest.mark.parametrize("dialect", list(DIALECTS.values()))
def test_what_passes_at_once(dialect: Dialect) -> None:
    for path in PASSES:
        expected = dialect is TGI and path == "/"
        assert dialect.generates("POST", path) == expected, path
        assert not dialect.generates("GET", path)
        assert dialect.ask("GET", path, b"") is None
    assert dialect.generates("POST", "/v1/chat/completions")
    assert not dialect.generates("OPTIONS", "/v1/chat/completions")


def test_one_path_means_different_things_to_different_engines() -> None:
    """/generate exists in TGI and SGLang with different bodies; others do not have it."""
    assert [name for name, dialect in DIALECTS.items() if dialect.generates("POST", "/generate")] == ["tgi", "sglang"]
    assert TGI.generates("POST", "/v2/models/m/versions/1/infer")
    assert not TGI.generates("POST", "/v2/models/m/versions/1/ready")
    assert [name for name, dialect in DIALECTS.items() if dialect.generates("POST", "/v1/embeddings")] == [
        "vllm",
        "sglang",
        "llamacpp",
        "openai",
    ]


ADMIN: list[tuple[Dialect, str, str, bool]] = [
    (VLLM, "POST", "/sleep", True),
    (VLLM, "POST", "/sleep/", True),
    (VLLM, "GET", "/sleep", True),
    (VLLM, "GET", "/is_sleeping", False),
    (VLLM, "POST", "/v1/load_lora_adapter", True),
    (VLLM, "POST", "/release_memory_occupation", False),  # SGLang's
    (SGLANG, "POST", "/release_memory_occupation", True),
    (SGLANG, "GET", "/flush_cache", True),
    (SGLANG, "GET", "/hicache/storage-backend", False),
    (SGLANG, "PUT", "/hicache/storage-backend", True),
    (LLAMACPP, "GET", "/slots", False),
    (LLAMACPP, "POST", "/slots/0", True),  # ?action=save|restore|erase
    (LLAMACPP, "GET", "/lora-adapters", False),
    (LLAMACPP, "POST", "/lora-adapters", True),
    (LLAMACPP, "GET", "/props", False),
    (LLAMACPP, "POST", "/props", True),
    (LLAMACPP, "POST", "/models/load", True),
    (LLAMACPP, "GET", "/models", False),
    (TRANSFORMERS, "POST", "/load_model", True),
    (TRANSFORMERS, "POST", "/reset", True),
    (TGI, "POST", "/sleep", False),
    (OPENAI, "POST", "/sleep", True),  # of an unknown engine, whatever any engine has
    (OPENAI, "POST", "/slots/0", True),
    (OPENAI, "POST", "/", False),
]


@pytest.mark.parametrize(("dialect", "method", "path", "expected"), ADMIN)
def test_administration(dialect: Dialect, method: str, path: str, expected: bool) -> None:
    assert dialect.administers(method, path) is expected


def test_nothing_that_generates_administers() -> None:
    for dialect in DIALECTS.values():
        for path in [*dialect.routes, *dialect.forms, dialect.health]:
            assert not OPENAI.administers("POST", path)
            assert not dialect.administers("GET", path)


def test_health_routes_make_no_engine_work() -> None:
    assert {name: dialect.health for name, dialect in DIALECTS.items()} == {
        "tgi": "/health",
        "vllm": "/health",
        "sglang": "/ping",  # its /health generates a token when it is idle
        "llamacpp": "/health",
        "transformers": "/health",
        "openai": "/v1/models",
    }


@pytest.mark.parametrize(
    ("path", "id"),
    [
        ("/v1/responses/resp_1", "resp_1"),
        ("/v1/responses/resp_1/", "resp_1"),
        ("/v1/responses/resp_1/cancel", "resp_1"),
        ("/v1/responses/resp_1/input_items", "resp_1"),
        ("/v1/responses", ""),
        ("/v1/responses/", ""),
        ("/v1/responses/a/b/c", ""),
        ("/x/v1/responses/a", ""),
    ],
)
def test_paths_that_name_a_stored_thing(path: str, id: str) -> None:
    assert {dialect.stored(path) for dialect in DIALECTS.values()} == {id, ""}


def test_answers_that_store() -> None:
    body = json.dumps({"id": "resp_1", "object": "response", "output": []}).encode()
    assert [name for name, dialect in DIALECTS.items() if dialect.read_id(body) == "resp_1"] == [
        "vllm",
        "sglang",
        "llamacpp",
        "transformers",
        "openai",
    ]
    assert VLLM.read_id(json.dumps({"id": "c", "object": "chat.completion", "x": "response"}).encode()) == ""
    assert VLLM.read_id(b'{"id":5,"object":"response"}') == ""


KINDS = ["overloaded", "upstream", "not_implemented", "bad_request", "forbidden", "unauthorized", "too_large", "timeout"]
KINDS += ["model_not_found", "shutting_down", "something_new"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_error_has_the_shape_of_its_route(kind: str) -> None:
    assert TGI.error("/generate", "no", kind).keys() == {"error", "error_type"}
    for path in ("/v1/completions", "/anything"):
        vllm: Any = VLLM.error(path, "no", kind)["error"]
        assert vllm.keys() == {"message", "type", "param", "code"}
        assert isinstance(vllm["code"], int)
        llama: Any = LLAMACPP.error(path, "no", kind)["error"]
        assert llama.keys() == {"code", "message", "type"}
        assert TRANSFORMERS.error(path, "no", kind) == {"detail": "no"}
    assert SGLANG.error("/v1/completions", "no", kind).keys() == {"object", "message", "type", "param", "code"}
    assert SGLANG.error("/generate", "no", kind) == {"error": {"message": "no"}}
    for dialect in (VLLM, SGLANG, LLAMACPP, OPENAI):
        told: Any = dialect.error("/v1/messages", "no", kind)
        assert (told["type"], told["error"]["message"]) == ("error", "no")


@pytest.mark.parametrize(
    ("dialect", "path", "kind", "told"),
    [
        (TGI, "/generate", "overloaded", "overloaded"),  # text-generation's clients raise by these names
        (TGI, "/generate", "shutting_down", "overloaded"),
        (TGI, "/", "too_large", "validation"),
        (TGI, "/", "upstream", "upstream"),
        (TGI, "/v1/chat/completions", "overloaded", "overloaded"),
        (OPENAI, "/v1/chat/completions", "overloaded", "overloaded"),
        (VLLM, "/v1/chat/completions", "model_not_found", "NotFoundError"),
        (VLLM, "/v1/chat/completions", "upstream", "InternalServerError"),
        (VLLM, "/v1/messages", "overloaded", "overloaded_error"),
        (VLLM, "/v1/messages", "upstream", "api_error"),
        (LLAMACPP, "/completion", "overloaded", "unavailable_error"),
        (SGLANG, "/v1/completions", "bad_request", "BadRequestError"),
    ],
)
def test_kinds_are_called_as_the_engine_calls_them(dialect: Dialect, path: str, kind: str, told: str) -> None:
    answer: Any = dialect.error(path, "no", kind)
    where = answer if "error_type" in answer or answer.get("object") == "error" else answer["error"]
    assert where.get("error_type", where.get("type")) == told
