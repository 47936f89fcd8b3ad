"""The log of requests: one line for each after its end, once its joules are known or it is clear that they will not be."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from proxy.call import Call
from proxy.logs import trace_of
from telemetry.ledger import Entry

log = logging.getLogger("paceline.requests")

LOOK_EVERY_S = 0.1
WAIT_S = 10.0  # for joules: a meter that is slower than this is not waited for
MOST = 10_000  # requests that wait for theirs


@dataclass(slots=True)
class RequestLog:
    """What has ended and is not written yet. No prompt, no query and no header is ever in it.

    Attributes:
        settling: ids of ended requests whose joules are not final.
        clock: of `Call.arrived_at`.
    """

    settling: Collection[str]
    clock: Callable[[], float]
    _ended: list[tuple[float, dict[str, Any], Entry | None]] = field(default_factory=list)

    def ended(self, call: Call) -> None:
        """The answer has left, or will not."""
        now = self.clock()
        told = {
            "request_id": call.id,
            "method": call.method,
            "path": call.path,
            "status": call.status or None,
            "tenant": call.tenant.name or None,
            "duration_s": round(now - call.arrived_at, 6),
        }
        self._ended.append((now, told, call.entry))

    async def run(self) -> None:
        """Write, for ever."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self.write()

    def write(self, *, all: bool = False) -> None:
        """Write what can be written; `all`: what is not known will not be waited for."""
        now = self.clock()
        left: list[tuple[float, dict[str, Any], Entry | None]] = []
        all = all or len(self._ended) > MOST
        for ended_at, told, entry in self._ended:
            if entry is not None and not all and self._may_come(entry, now - ended_at):
                left.append((ended_at, told, entry))
            else:
                _write(told if entry is None else told | of_entry(entry))
        self._ended = left

    def _may_come(self, entry: Entry, ago_s: float) -> bool:
        """Whether its joules are still on their way. It is told among those who settle just after its end."""
        return not entry.energy.final and (ago_s < LOOK_EVERY_S or (entry.id in self.settling and ago_s < WAIT_S))


def of_entry(entry: Entry) -> dict[str, Any]:
    """What is known of a request that generated."""
    energy = entry.energy
    told = {
        "model": entry.model,
        "tier": entry.tier,
        "server": entry.server,
        "policy": entry.policy,
        "outcome": entry.outcome,
        "error": entry.error,
        "experiment": entry.experiment,
        "arm": entry.arm,
        "held_s": entry.held_s,
        "queued_s": entry.queued_s,
        "ttft_s": entry.ttft_s,
        "prompt_tokens": entry.prompt_tokens,
        "output_tokens": entry.output_tokens,
        "energy_j": energy.active_uj / 1e6 if energy.source is not None else None,
        "energy_source": str(energy.source) if energy.source is not None else None,
    }
    rounded = {key: round(value, 6) if isinstance(value, float) else value for key, value in told.items()}
    return {key: value for key, value in rounded.items() if value not in (None, "")} | trace_of(entry)


def _write(told: dict[str, Any]) -> None:
    log.info("request %s ended", told["request_id"], extra=told)
