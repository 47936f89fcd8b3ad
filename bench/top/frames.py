"""What a proxy's admin port streams at `/live`, as its watchers get it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import httpx

from proxy.admin_address import AdminAddress

SILENT_S = 8.0  # without a word for longer than this, a stream of a frame a second is gone
TRY_AGAIN_S = 2.0


class NoFrames(Exception):
    """The admin port gives no frames; the message says why, and what may help."""


class Refused(NoFrames):
    """It answered, and will not give any: asking again is no use."""


@dataclass(frozen=True, slots=True)
class Event:
    """`history`, `frame` or `closing`; or `lost`, with why, which is ours."""

    name: str
    data: dict[str, Any]


async def once(admin: AdminAddress) -> AsyncGenerator[Event, None]:
    """One connection's events, until it ends.

    Raises:
        NoFrames: it could not be had, or broke off.
    """
    timeout = httpx.Timeout(SILENT_S)
    try:
        async with (
            httpx.AsyncClient(headers=admin.headers, verify=admin.verify, timeout=timeout, trust_env=False) as client,
            client.stream("GET", f"{admin.url.rstrip('/')}/live") as answer,
        ):
            if answer.status_code != 200:
                await answer.aread()
                raise _refusal(admin, answer)
            name = ""
            async for line in answer.aiter_lines():
                key, _, value = line.partition(": ")
                if key == "event":
                    name = value
                elif key == "data":
                    yield Event(name, json.loads(value))
    except (httpx.HTTPError, ValueError) as error:
        raise NoFrames(f"admin port {admin.url}: {str(error) or type(error).__name__}") from error


async def forever(admin: AdminAddress) -> AsyncGenerator[Event, None]:
    """All events, over as many connections as it takes; a loss is told, and then tried again.

    Raises:
        Refused: it will not give any.
    """
    while True:
        try:
            async for event in once(admin):
                yield event
            raise NoFrames(f"admin port {admin.url}: the stream ended")
        except Refused:
            raise
        except NoFrames as error:
            yield Event("lost", {"why": str(error)})
        await asyncio.sleep(TRY_AGAIN_S)


def _refusal(admin: AdminAddress, answer: httpx.Response) -> NoFrames:
    try:
        why = str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        why = answer.text[:200]
    said = f"admin port {admin.url}: {answer.status_code}: {why}"
    if answer.status_code == 404:
        return Refused(f"admin port {admin.url} has no /live: it is no Paceline's admin port, or an older one's")
    # 503 passes: too many watch, or it has just started
    return NoFrames(said) if answer.status_code >= 500 else Refused(said)
