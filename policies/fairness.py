"""Whose turn is next for a slot: tenants share the servers by weight, whatever the length of each one's queue.

Start-time fair queueing (Goyal, Vin and Cheng, "Start-time Fair Queueing", SIGCOMM 1996): a request starts, in virtual
time, when its tenant's one before it would have finished, or now if that is later, and lasts its tokens over its tenant's
weight; who starts first leaves first. Virtual time is the start of the latest that left. Sheng et al. ("Fairness in
Serving Large Language Models", OSDI 2024) count the same service for language models: prompt and output tokens. Output is
not known yet, so the most that it may be is counted.

One tenant alone is served in order of readiness. A tenant without a backlog neither saves up service nor pays for what
nobody else wanted.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from policies.base import Waiting

SPARE = 64  # tenants remembered beyond those that matter, before they are cleaned


@dataclass(slots=True)
class Shares:
    """Virtual time of one class of priority."""

    now: float = 0.0
    _finish: dict[str, float] = field(default_factory=dict)  # by tenant, of its latest request
    _clean_at: int = SPARE

    def start(self, waiting: Waiting) -> float:
        """The virtual time at which a request that gets ready now starts."""
        start = max(self.now, self._finish.get(waiting.tenant, 0.0))
        self._finish[waiting.tenant] = start + service(waiting)
        if len(self._finish) > self._clean_at:
            self._forget()
        return start

    def left(self, start: float) -> None:
        """Somebody who starts at `start` got his slot."""
        self.now = max(self.now, start)

    def gave_up(self, waiting: Waiting) -> None:
        """Somebody left without service: his tenant's next ones need not stand behind it."""
        if waiting.tenant in self._finish:
            self._finish[waiting.tenant] -= service(waiting)

    def _forget(self) -> None:
        """Tenants whose latest request starts before now are as if they had never come."""
        self._finish = {tenant: finish for tenant, finish in self._finish.items() if finish > self.now}
        self._clean_at = 2 * len(self._finish) + SPARE  # else ten thousand tenants would be looked at for each request


def service(waiting: Waiting) -> float:
    """What a request costs its tenant: tokens over weight."""
    return waiting.tokens / waiting.weight
