"""What a server is found to be, by what it answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from bench.engine.server import SimulatedServer
from proxy.dialects import LLAMACPP, OPENAI, SGLANG, TGI, TRANSFORMERS, VLLM
from proxy.probe import Found, ask
from tests.serving import Seen, upstream

INFO = {"model_id": "m", "router": "text-generation-router", "version": "3.3.6", "max_concurrent_requests": 128}
PROPS = {"default_generation_settings": {"n_ctx": 4096}, "total_slots": 4, "model_path": "/m.gguf", "build_info": "b9"}
MODEL_INFO = {"model_path": "m", "tokenizer_path": "m", "is_generation": True}
OPENAPI = {"info": {"title": "FastAPI"}, "paths": {path: {} for path in ("/v1/chat/completions", "/load_model", "/reset")}}


def models(owner: str, *names: str) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": owner} for name in names]}


Answers = Mapping[str, object]


async def found(
    answers: Answers, *, headers: bytes = b"", otherwise: bytes = b"404 Not Found"
) -> tuple[Found | None, list[str]]:
    """What is found of a server that answers some paths, and the paths it was asked for."""

    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> None:
        path = seen.head.split(b" ")[1].decode()
        told = answers.get(path, otherwise)
        status, body = (told, b"") if isinstance(told, bytes) else (b"200 OK", json.dumps(told).encode())
        writer.write(b"HTTP/1.1 %s\r\n%scontent-length: %d\r\n\r\n" % (status, headers, len(body)) + body)

    async with upstream(answer) as server, httpx.AsyncClient(trust_env=False) as client:
        return await ask(client, f"http://{server.address}"), [seen.head.split(b" ")[1].decode() for seen in server.seen]


ENGINES: list[tuple[Answers, Found, str]] = [
    ({"/info": INFO}, Found(TGI, 128, "m", "3.3.6", ("m",)), "text-generation-router"),
    ({"/info": {"router": "text-generation-router"}}, Found(TGI), "text-generation-router"),
    (
        {"/version": {"version": "0.33.0"}, "/v1/models": models("vllm", "a", "adapter")},
        Found(VLLM, None, "a", "0.33.0", ("a", "adapter")),
        "owned by vllm",
    ),
    ({"/version": {"version": "0.33.0"}, "/v1/models": b"401 Unauthorized"}, Found(VLLM, None, "", "0.33.0"), "wants a key"),
    (
        {
            "/model_info": MODEL_INFO,
            "/server_info": {"version": "0.5.23", "max_running_requests": 64},
            "/v1/models": models("sglang", "m"),
        },
        Found(SGLANG, 64, "m", "0.5.23", ("m",)),
        "/model_info",
    ),
    ({"/get_model_info": MODEL_INFO, "/get_server_info": {"max_running_requests": None}}, Found(SGLANG, None, "m"), "/get_"),
    (
        {"/props": PROPS, "/v1/models": models("llamacpp", "alias")},
        Found(LLAMACPP, 4, "alias", "b9", ("alias",)),
        "/props",
    ),
    ({"/props": PROPS}, Found(LLAMACPP, 4, "/m.gguf", "b9"), "/props"),
    ({"/openapi.json": OPENAPI, "/v1/models": b"500 Internal Server Error"}, Found(TRANSFORMERS), "/load_model"),
    ({"/v1/models": models("me", "x")}, Found(OPENAI, model="x", models=("x",)), "of me"),
    ({}, Found(OPENAI), "nothing tells"),
]


@pytest.mark.parametrize(("answers", "expected", "how"), ENGINES)
async def test_engines_are_told_apart(answers: Answers, expected: Found, how: str) -> None:
    told, asked = await found(answers)
    assert told == expected
    assert told is not None
    assert how in told.how
    assert "/health" not in asked  # SGLang would generate a token for it


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"/version": {"version": "1.0"}, "/v1/models": models("someone", "x")}, "x"),  # a gateway has a version too
        ({"/version": {"version": "1.0"}}, ""),
        ({"/openapi.json": {"paths": {"/v1/chat/completions": {}}}}, ""),  # so has FastAPI everywhere
        ({"/server_info": {"vllm_config": "..."}}, ""),  # vLLM's, in its developer's mode
        ({"/info": []}, ""),
        ({"/info": {"router": "another", "max_concurrent_requests": True}, "/version": {"version": 5}}, ""),
        ({"/v1/models": {"data": [5, {"id": 6}, {"id": "\ud800", "owned_by": None}]}}, "?"),
    ],
)
async def test_what_only_resembles_an_engine_speaks_openais_surface(answers: Answers, expected: str) -> None:
    told, _ = await found(answers)
    assert told == Found(OPENAI, model=expected, models=(expected,) if expected else ())


@pytest.mark.parametrize("status", [b"503 Service Unavailable", b"429 Too Many Requests", b"502 Bad Gateway"])
async def test_who_cannot_say_now_is_asked_again(status: bytes) -> None:
    assert await found({}, otherwise=status) == (None, ["/info"])
    told, _ = await found({"/props": status})
    assert told is None


async def test_a_server_that_fails_at_unknown_routes_is_not_asked_for_ever() -> None:
    told, _ = await found({}, otherwise=b"500 Internal Server Error")
    assert told == Found(OPENAI)


async def test_behind_a_key() -> None:
    told, _ = await found({}, otherwise=b"401 Unauthorized")
    assert told == Found(OPENAI)
    assert told is not None
    assert "key" in told.how
    named, _ = await found({}, headers=b"server: llama.cpp\r\n", otherwise=b"401 Unauthorized")
    assert named == Found(LLAMACPP)


async def test_the_clients_key_opens() -> None:
    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> None:
        path = seen.head.split(b" ")[1].decode()
        body = json.dumps(PROPS if path == "/props" else {}).encode()
        status = b"200 OK" if b"authorization: bearer k\r\n" in seen.head.lower() else b"401 Unauthorized"
        writer.write(b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n" % (status, len(body)) + body)

    async with (
        upstream(answer) as server,
        httpx.AsyncClient(trust_env=False, headers={"authorization": "Bearer k"}) as client,
    ):
        assert await ask(client, f"http://{server.address}/") == Found(LLAMACPP, 4, "/m.gguf", "b9")


@pytest.mark.parametrize("body", [b"<html>", b"\xff\xfe", b"[" * 50_000, b'{"router":' + b"9" * 5000 + b"}", b""])
async def test_answers_that_are_no_json(body: bytes) -> None:
    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    async with upstream(answer) as server, httpx.AsyncClient(trust_env=False) as client:
        assert await ask(client, f"http://{server.address}") == Found(OPENAI)


async def test_nobody_is_found_where_nobody_answers() -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        assert await ask(client, "http://127.0.0.1:9") is None


async def test_who_breaks_off_is_asked_again() -> None:
    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{")
        writer.close()

    async with upstream(answer) as server, httpx.AsyncClient(trust_env=False) as client:
        assert await ask(client, f"http://{server.address}") is None


@pytest.mark.parametrize(("speaks", "expected"), [("tgi", TGI), ("openai", VLLM)])
async def test_the_simulated_engines(speaks: str, expected: object) -> None:
    async with SimulatedServer(speaks) as server, httpx.AsyncClient(trust_env=False) as client:
        told = await ask(client, server.url)
    assert told is not None
    assert (told.dialect, told.model) == (expected, "meta-llama/Llama-3.1-8B-Instruct")
