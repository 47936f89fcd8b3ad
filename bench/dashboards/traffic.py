"""Who sends what on the stage: tenants, tiers and models, bursts that want more slots than there are, one who is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from proxy.upstream import Client, UpstreamError

AWAY = "away"  # the group whose server does not answer
MODELS = {"llama-8b": "default", "llama-8b-tuned": "default", "llama-70b": AWAY}  # and the groups that serve them
SHARES = (12, 7, 1)
TENANTS = {"chat": "weight = 2.0", "search": "", "nightly": "limit = 12"}  # with their settings; nightly sends more than that
RATE = 20.0  # requests a second
BURST_EVERY_S, BURST = 6.0, 30
TIERS = {"chat": ("default", 0.0), "search": ("flex", 1.0), "nightly": ("batch", 2.0)}  # service tier, most hold in seconds


@dataclass(frozen=True, slots=True)
class _Request:
    at_s: float
    tenant: str
    model: str
    output_tokens: int


def _planned(lasts_s: float) -> Iterator[_Request]:
    drawn, at_s, burst_at_s = Random(7), 0.0, 3.0
    while (at_s := at_s + drawn.expovariate(RATE)) < lasts_s:
        tenant = drawn.choices(list(TENANTS), (5, 3, 2))[0]
        yield _Request(at_s, tenant, drawn.choices(list(MODELS), SHARES)[0], drawn.randint(8, 40))
        if at_s > burst_at_s:
            burst_at_s += BURST_EVERY_S
            yield from (_Request(at_s, drawn.choice(("chat", "nightly")), "llama-8b", 48) for _ in range(BURST))


async def send(url: str, lasts_s: float) -> None:
    """Send all of it, each at its instant; whatever is answered is right."""
    client = Client()
    began_at = asyncio.get_running_loop().time()
    try:
        async with asyncio.TaskGroup() as sending:
            for planned in _planned(lasts_s):
                await asyncio.sleep(began_at + planned.at_s - asyncio.get_running_loop().time())
                sending.create_task(_send(client, url, planned))
    finally:
        await client.close()


async def _send(client: Client, url: str, planned: _Request) -> None:
    tier, hold_s = TIERS[planned.tenant]
    headers = [
        (b"content-type", b"application/json"),
        (b"x-gateway-inference-fairness-id", planned.tenant.encode()),
        (b"x-paceline-max-hold", str(hold_s).encode()),
    ]
    body = {"model": planned.model, "stream": True, "max_tokens": planned.output_tokens, "service_tier": tier}
    message = {"messages": [{"role": "user", "content": "how far do riders go in a slipstream? " * 8}]}
    try:
        answer = await client.open("POST", f"{url}/v1/chat/completions", headers, json.dumps(body | message).encode())
    except UpstreamError:
        return
    try:
        async for _ in answer.chunks():
            pass
    except UpstreamError:
        pass
    finally:
        answer.release()
