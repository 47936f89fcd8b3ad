"""Some tiers of a queue as a queue, for policies that leave a part of those who wait to another policy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from heapq import merge
from itertools import chain

from policies.base import Decision, Policy, Queue, Tier, View, Waiting
from policies.held import Held

NOBODY = Held(by_tier=False)  # nothing is ever added to it
PROMPT = (Tier.PRIORITY, Tier.INTERACTIVE)  # somebody looks at the screen
DEFERRABLE = (Tier.FLEX, Tier.BATCH)  # whose senders agreed that it may take longer


@dataclass(frozen=True, slots=True)
class Part:
    """Those of some tiers, in order of arrival, with what a `Queue` has at hand; nothing is copied."""

    queue: Queue
    tiers: tuple[Tier, ...]

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues())

    def __iter__(self) -> Iterator[Waiting]:
        return merge(*self._queues(), key=lambda waiting: waiting.arrived_at)

    def __contains__(self, id: object) -> bool:
        return any(id in queue for queue in self._queues())

    @property
    def earliest_deadline(self) -> float:
        return min(queue.earliest_deadline for queue in self._queues())

    @property
    def oldest_arrival(self) -> float:
        return min(queue.oldest_arrival for queue in self._queues())

    @property
    def prompt_tokens(self) -> int:
        return sum(queue.prompt_tokens for queue in self._queues())

    @property
    def max_new_tokens(self) -> int:
        return sum(queue.max_new_tokens for queue in self._queues())

    def of(self, tier: Tier) -> Queue:
        return self.queue.of(tier) if tier in self.tiers else NOBODY

    def due_before(self, instant: float) -> Iterator[Waiting]:
        return chain.from_iterable(queue.due_before(instant) for queue in self._queues())

    def _queues(self) -> list[Queue]:
        return [self.queue.of(tier) for tier in self.tiers]


def ask(policy: Policy, view: View, waiting: Queue, memory: object) -> Decision:
    """What a policy decides when it sees only a part of those who wait; as the room, it asks nothing about nobody."""
    return policy.decide(replace(view, waiting=waiting), memory) if len(waiting) else Decision(memory=memory)


def sooner(*instants: float | None) -> float | None:
    """The first of the instants at which somebody wants to be asked again."""
    return min((at for at in instants if at is not None), default=None)
