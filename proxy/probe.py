"""Asks a server what it is: dialect, slots and models, by the routes that tell it without doing work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from proxy.dialects import LLAMACPP, OPENAI, SGLANG, TGI, TRANSFORMERS, VLLM, Dialect
from proxy.dialects.asks import name
from proxy.dialects.values import count, members

NOT_NOW = frozenset({429, 502, 503, 504})  # it is loading, or somebody in front of it answers
LONGEST_S = 10.0  # for all questions together; who is slower is asked again


@dataclass(frozen=True, slots=True)
class Found:
    """What a server said of itself, and `how` it was recognised, in a sentence."""

    dialect: Dialect
    slots: int | None = None
    model: str = ""
    version: str = ""
    models: tuple[str, ...] = ()
    how: str = field(default="", compare=False)
    refused: bool = field(default=False, compare=False)  # it wants a key, or another one


class NotReady(Exception):
    """It cannot say now, and has to be asked again."""


async def ask(client: httpx.AsyncClient, url: str, told: Dialect | None = None) -> Found | None:
    """What speaks at `url`; None when nobody answers who knows.

    Args:
        client: brings the server's key, if it has one.
        url: of the server.
        told: what it speaks by the configuration; then it is asked for its slots and models only.
    """
    server = Server(client, url.rstrip("/"))
    try:
        async with asyncio.timeout(LONGEST_S):
            return await (_recognise(server) if told is None else _tells(server, told))
    except (httpx.HTTPError, httpx.InvalidURL, NotReady, TimeoutError):
        return None


@dataclass(slots=True)
class Server:
    """One server under questioning; the client's headers bring the key where one is needed."""

    client: httpx.AsyncClient
    url: str
    guarded: bool = False
    software: str = ""  # as the `server` header says

    async def get(self, path: str, *, must_answer: bool = True) -> Mapping[str, Any]:
        """A JSON object; an empty one where there is no such route.

        Raises:
            NotReady: the server, or somebody for it, cannot say now.
        """
        answer = await self.client.get(self.url + path)
        self.guarded = self.guarded or answer.status_code in (401, 403)
        self.software = answer.headers.get("server", self.software)
        if must_answer and answer.status_code in NOT_NOW:
            raise NotReady(f"{path} answers {answer.status_code}")
        try:
            return members(answer.json()) if answer.status_code == 200 else {}
        except (ValueError, RecursionError):
            return {}

    async def models(self) -> tuple[tuple[str, ...], str]:
        """Names, and who is said to own the first; not every server that is well can list them."""
        listed = (await self.get("/v1/models", must_answer=False)).get("data")
        models = [members(model) for model in listed] if isinstance(listed, list) else []
        names = tuple(filter(None, (name(model.get("id")) for model in models)))
        return names, name(models[0].get("owned_by")) if models else ""


async def _recognise(server: Server) -> Found:
    """Each engine has a route that no other answers alike; what is the most particular is asked first."""
    for recognise in _ENGINES:
        found = await recognise(server)
        if found is not None:
            return found
    names, owner = await server.models()
    if server.guarded and not names:
        how = "it wants a key, or another one, and is taken for an OpenAI endpoint"
        return Found(OPENAI, how=how, refused=True)
    how = f"/v1/models lists {len(names)} models" + (f" of {owner}" if owner else "") if names else "nothing tells what it is"
    return Found(OPENAI, model=_first(names), models=names, how=f"{how}; it is taken for an OpenAI endpoint")


async def _tells(server: Server, told: Dialect) -> Found:
    """What a server says of itself whose dialect is told. That it answers at all is enough."""
    recognise = _BY_NAME.get(told.name)
    found = await recognise(server) if recognise is not None else None
    if found is not None:
        return found
    names, _ = await server.models()
    return Found(told, model=_first(names), models=names, how="so the configuration says", refused=server.guarded and not names)


async def _tgi(server: Server) -> Found | None:
    info = await server.get("/info")
    if info.get("router") != "text-generation-router":
        return None
    slots, model = _slots(info.get("max_concurrent_requests")), name(info.get("model_id"))
    how = "/info names text-generation-router"
    return Found(TGI, slots, model, name(info.get("version")), (model,) if model else (), how)


async def _llamacpp(server: Server) -> Found | None:
    """It calls itself by its name in every answer, also where it wants a key; a proxy may hide that."""
    props = await server.get("/props")
    if "default_generation_settings" not in props and "total_slots" not in props:
        if server.software != "llama.cpp":
            return None
        names, _ = await server.models()
        return Found(LLAMACPP, model=_first(names), models=names, how="the server header names llama.cpp")
    names, _ = await server.models()
    model = _first(names) or name(props.get("model_alias")) or name(props.get("model_path"))
    how = "/props tells slots and generation settings"
    return Found(LLAMACPP, _slots(props.get("total_slots")), model, name(props.get("build_info")), names, how)


async def _sglang(server: Server) -> Found | None:
    """/model_info is cheap, and older versions have it as /get_model_info; the running limit is in /server_info."""
    prefix = "/"
    told = await server.get("/model_info")
    if "model_path" not in told:
        prefix, told = "/get_", await server.get("/get_model_info")
    if "model_path" not in told or "is_generation" not in told:
        return None
    info = await server.get(f"{prefix}server_info", must_answer=False)
    names, _ = await server.models()
    model = _first(names) or name(info.get("served_model_name")) or name(told.get("model_path"))
    how = f"{prefix}model_info tells model_path and is_generation"
    return Found(SGLANG, _slots(info.get("max_running_requests")), model, name(info.get("version")), names, how)


async def _vllm(server: Server) -> Found | None:
    """Many have a /version, so the owner of its models has to agree, unless they may not be seen."""
    version = name((await server.get("/version")).get("version"))
    if not version:
        return None
    names, owner = await server.models()
    if owner != "vllm" and (names or not server.guarded):
        return None
    how = "/version answers, and " + ("its models are owned by vllm" if names else "/v1/models wants a key")
    return Found(VLLM, None, _first(names), version, names, how)


async def _transformers(server: Server) -> Found | None:
    """FastAPI describes the routes it serves; only transformers serve loads and resets models by these."""
    paths = members((await server.get("/openapi.json", must_answer=False)).get("paths"))
    if not {"/load_model", "/reset", "/v1/chat/completions"} <= set(paths):
        return None
    names, _ = await server.models()
    how = "/openapi.json describes /load_model and /reset"
    return Found(TRANSFORMERS, None, "", "", names, how)  # it lists its cache, not what it serves


_ENGINES: tuple[Callable[[Server], Awaitable[Found | None]], ...] = (_tgi, _llamacpp, _sglang, _vllm, _transformers)


_BY_NAME = {"tgi": _tgi, "llamacpp": _llamacpp, "sglang": _sglang, "vllm": _vllm, "transformers": _transformers}


def _first(names: tuple[str, ...]) -> str:
    return names[0] if names else ""


def _slots(value: object) -> int | None:
    return count(value, 0) or None
