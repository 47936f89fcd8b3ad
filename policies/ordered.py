"""The order in which those leave whom the inner policy lets go.

Where it counts: inside `capped`, where it says who goes first under the bound, and among requests of one tenant and one
priority that wait for a slot. Between those who wait for a slot the room has an order of its own, which no policy
changes: priority first, then fair shares among tenants (`policies/fairness.py`), then the order in which they left their
hold, which is this one. So `Capped(Ordered(Span(), by="deadline"), in_flight=96)` is served by deadline, and `Ordered` alone,
with slots to spare, changes nothing but who is first of a group.

`fair` is the rule of Sheng et al. ("Fairness in Serving Large Language Models", OSDI 2024): the tenant with the least service
goes first; counted here is what is in flight, prompt and possible output tokens over the tenant's weight, since a policy
has no history. Earliest deadline first is optimal for one server if all deadlines can be met (Liu and Layland, "Scheduling
algorithms for multiprogramming in a hard-real-time environment", JACM 1973), and no promise beyond.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from typing import Literal

from policies.base import Decision, Policy, View, Waiting
from policies.capped import LetGo, ask, those
from policies.fairness import service
from policies.span import Span


@dataclass(frozen=True, slots=True)
class Ordered:
    """Those whom the inner policy lets go, in another order.

    Attributes:
        policy: who may leave.
        by: `fifo` (arrival), `priority` (highest first), `deadline` (earliest first) or `fair` (the tenant with the least
            service in flight first); whoever is equal by it goes by arrival.
    """

    policy: Policy = field(default_factory=Span)
    by: Literal["fifo", "priority", "deadline", "fair"] = "fifo"

    def __post_init__(self) -> None:
        if self.by not in ("fifo", "priority", "deadline", "fair"):
            raise ValueError(f"by must be fifo, priority, deadline or fair, not {self.by!r}")

    def decide(self, view: View, memory: object) -> Decision:
        decision, ids = ask(self.policy, view, memory)
        if len(ids) > 1:
            ids = [waiting.id for waiting in self._sorted(those(ids, view).values(), view)]
        return Decision(ids, decision.wake_at, LetGo(decision.memory, tuple(ids)))

    def _sorted(self, group: Iterable[Waiting], view: View) -> list[Waiting]:
        by_arrival = sorted(group, key=lambda waiting: waiting.arrived_at)
        if self.by == "priority":
            return sorted(by_arrival, key=lambda waiting: -waiting.priority)
        if self.by == "deadline":
            return sorted(by_arrival, key=lambda waiting: waiting.deadline)
        return _fairly(by_arrival, view) if self.by == "fair" else by_arrival


def _fairly(group: Iterable[Waiting], view: View) -> list[Waiting]:
    """Again and again the first of the tenant that has the least, what was given before in this group counted."""
    served: dict[str, float] = defaultdict(float)
    for flight in view.in_flight.values():
        served[flight.waiting.tenant] += service(flight.waiting)
    queues: dict[str, deque[Waiting]] = defaultdict(deque)
    for waiting in group:
        queues[waiting.tenant].append(waiting)
    turns = [(served[tenant], order, tenant) for order, tenant in enumerate(queues)]
    heapify(turns)
    result = []
    while turns:
        had, order, tenant = turns[0]
        waiting = queues[tenant].popleft()
        result.append(waiting)
        if queues[tenant]:
            heapreplace(turns, (had + service(waiting), order, tenant))
        else:
            heappop(turns)
    return result
