"""Looks at a proxy while a load runs: what each request saw, and what each device had counted when.

The admin port tells joules of a window for all devices together. Which of several drew them is read off their counters, told
some times a second; between two looks power is taken as constant, which is off by less than a look's joules at each end.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self

from bench.admin import AdminPort
from bench.open_loop import Sending

LOOK_EVERY_S = 0.25


@dataclass(slots=True)
class Watching:
    """Looks beside one load, which hands itself over at its start, and until its joules are settled."""

    admin: AdminPort
    sending: Sending | None = None
    counted: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # device: instants of its steps, and joules

    _looking: asyncio.Task[None] | None = None

    async def __call__(self, sending: Sending) -> None:
        self.sending = sending

    async def __aenter__(self) -> Self:
        await self.look()
        self._looking = asyncio.create_task(self._look_on())
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._looking is not None
        self._looking.cancel()
        await asyncio.gather(self._looking, return_exceptions=True)
        if error[0] is None:
            await self.look()

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Note what each device has counted so far; instants are of the proxy's clock."""
        status = await self.admin.status()
        for device in (status["energy"] or {}).get("devices", ()):
            steps = self.counted.setdefault(device["device"], [])
            step = (status["now_s"] - device["age_s"], device["counted_j"])
            if not steps or step[1] > steps[-1][1]:
                steps.append(step)

    def devices_j(self, since_s: float, until_s: float) -> dict[str, float | None]:
        """Joules of each device between two instants; None where its counter was not seen around them."""
        return {device: _between(steps, since_s, until_s) for device, steps in self.counted.items()}

    def samples(self) -> dict[str, list[float]]:
        """Seconds to the first token and for each token after it, of each completed request that was streamed."""
        completed = [sample for sample in self.sending.samples if sample.completed] if self.sending else []
        return {
            "ttft_s": [round(sample.ttft_s, 5) for sample in completed if sample.ttft_s is not None],
            "tpot_s": [round(sample.tpot_s, 6) for sample in completed if sample.tpot_s is not None],
        }


def _between(steps: list[tuple[float, float]], since_s: float, until_s: float) -> float | None:
    began, ended = counted_at(steps, since_s), counted_at(steps, until_s)
    return None if began is None or ended is None else ended - began


def counted_at(steps: list[tuple[float, float]], at_s: float) -> float | None:
    """What a counter had counted at an instant, on the line between the steps around it; None outside of them."""
    for (began_s, began_j), (ended_s, ended_j) in pairwise(steps):
        if began_s <= at_s <= ended_s:
            return began_j + (ended_j - began_j) * (at_s - began_s) / (ended_s - began_s) if ended_s > began_s else ended_j
    return None


async def ready(admin: AdminPort, within_s: float) -> None:
    """Wait until every server has told what it speaks and is awake, so that each run begins alike.

    Raises:
        TimeoutError: one has not; the message names it.
    """
    behind: list[str] = []
    try:
        async with asyncio.timeout(within_s):
            while behind := [server["name"] for server in (await admin.status())["servers"] if not _is_ready(server)]:
                await asyncio.sleep(LOOK_EVERY_S)
    except TimeoutError:
        raise TimeoutError(f"{', '.join(behind)}: no answer, or not awake, within {within_s:g} s") from None


def _is_ready(server: dict[str, Any]) -> bool:
    return server["dialect"] is not None and server.get("state", "awake") == "awake"
