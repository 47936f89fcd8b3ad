"""Batch+ by duration: the deadline of a short request starts no long one, so those who run together end together.

Plain Batch+ (`policies/span.py`) starts everybody when anybody must leave. Where lengths are mixed that is dear: each short
request that cannot wait starts the long ones that could have waited for each other. Classify-by-Duration Batch+ (Ren and
Tang, "Online flexible job scheduling for minimum span", SPAA 2017) sorts requests into classes whose durations differ by a
bounded ratio, and each class runs a Batch+ of its own. Its span is within a constant factor of the clairvoyant optimum
whatever the lengths, where Batch+ is within mu + 1 only, mu being the longest duration over the shortest.

One thing is added: a flag takes along its own class *and all shorter ones*. They end before their longer mates could, so
they add nothing to the bound on a group's span (the flag's duration and one more of its class), and they need no group.

Durations are expected ones: by the step model, alone on a server; without one, output tokens stand for steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from math import floor, inf, log, nextafter

from policies.base import Decision, View, Waiting
from telemetry.cost import StepModel

ADMITTED_S = 1.0  # between a request's arrival and its coming to the queue, at most


@dataclass(frozen=True, slots=True)
class Flags:
    """Of each class whose group runs, the id of the request that set it off; and until when who waits has been looked at."""

    of: Mapping[int, str] = field(default_factory=dict)
    looked_at: float = -inf


@dataclass(frozen=True, slots=True)
class Cohort:
    """Release at the earliest deadline all that last as long as that one or less, and while it runs those who come.

    Attributes:
        ratio: longest over shortest expected duration within a class, above 1.
    """

    ratio: float = 2.0

    def __post_init__(self) -> None:
        if not 1 < self.ratio < inf:
            raise ValueError("ratio must be greater than 1, and finite")

    def decide(self, view: View, memory: object) -> Decision:
        known = memory if isinstance(memory, Flags) else Flags()
        flags = {of: id for of, id in known.of.items() if id in view.in_flight}
        due = sorted(view.waiting.due_before(nextafter(view.now, inf)), key=lambda one: (one.deadline, one.arrived_at, one.id))
        flags = {self._class(one, view.model): one.id for one in reversed(due)} | flags
        wake_at = None if due else view.waiting.earliest_deadline
        if not flags:
            return Decision(wake_at=wake_at, memory=Flags())
        longest = max(flags)
        # who was looked at already, and is still here, is longer than the longest flag was then
        since = known.looked_at - ADMITTED_S if longest <= max(known.of, default=longest - 1) else -inf
        recent = takewhile(lambda one: one.arrived_at >= since, reversed(list(view.waiting)))
        joining = [one.id for one in recent if self._class(one, view.model) <= longest]
        joining.reverse()
        older = [one.id for one in due if one.arrived_at < since]
        return Decision([*older, *joining], wake_at, Flags(flags, view.now))

    def _class(self, waiting: Waiting, model: StepModel | None) -> int:
        return floor(log(duration(waiting, model)) / log(self.ratio))


def duration(waiting: Waiting, model: StepModel | None) -> float:
    """How long a request is expected to run: seconds alone on a server, or steps if there is no model; above 0."""
    if model is None:
        return max(waiting.output_tokens, 1.0)
    return model.alone_s(waiting.prompt_tokens, round(waiting.output_tokens))
