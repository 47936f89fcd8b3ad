"""Asks a server what it is: dialect, slots and model, by the routes that tell it without doing work."""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from proxy.dialects import OPENAI, TGI, Dialect


@dataclass(frozen=True, slots=True)
class Found:
    """What a server said of itself."""

    dialect: Dialect
    slots: int | None = None
    model: str = ""
    version: str = ""


async def ask(client: httpx.AsyncClient, url: str) -> Found | None:
    """What speaks at `url`; None when nobody does who knows.

    Only TGI has an `/info` that names its router; whatever else answers there speaks OpenAI's surface.
    """
    try:
        answer = await client.get(f"{url}/info")
    except httpx.HTTPError:
        return None
    if answer.status_code == 429 or answer.status_code >= 500:
        return None  # it is still loading, or somebody in front of it answers
    try:
        info = answer.json() if answer.status_code == 200 else {}
    except ValueError:
        info = {}
    if not isinstance(info, dict) or info.get("router") != "text-generation-router":
        return Found(OPENAI)
    slots = info.get("max_concurrent_requests")
    return Found(TGI, slots if isinstance(slots, int) else None, str(info.get("model_id", "")), str(info.get("version", "")))
