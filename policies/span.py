"""Batch+: nobody leaves before someone must; then all leave, and so do all who come while that one runs.

An engine costs nearly the same per step whatever the batch, so what should be small is the time during which it runs
at all: the *span*. With parallelism to spare this is minimum-span scheduling of flexible jobs of unknown length, and
Batch+ (Ren and Tang, "Online flexible job scheduling for minimum span", SPAA 2017) is within a factor of mu + 1 of the
clairvoyant optimum, mu being the ratio of the longest to the shortest job; no online policy of its kind does better.

Requests without slack have their deadline at their arrival: they leave at once, and take along everybody who waits.
"""

from __future__ import annotations

from dataclasses import dataclass

from policies.base import Decision, View


@dataclass(frozen=True, slots=True)
class Span:
    """Release all at the earliest deadline, and everybody at once while the request that set it off runs.

    Remembers the id of that request, the flag.
    """

    def decide(self, view: View, memory: object) -> Decision:
        flag = memory if isinstance(memory, str) and memory in view.in_flight else None
        if flag is None and view.now >= view.waiting.earliest_deadline:
            flag = min(view.waiting, key=lambda waiting: waiting.deadline).id
        if flag is None:
            return Decision(wake_at=view.waiting.earliest_deadline)
        return Decision([waiting.id for waiting in view.waiting], memory=flag)
