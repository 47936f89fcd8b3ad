"""The held requests of a room: in order of arrival, with their sums and earliest deadline always at hand."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from math import inf

from policies.base import Tier, Waiting

SPARE = 64  # entries of a heap whose requests are gone, before it is cleaned


class Held:
    """The held requests: in order of arrival, with their sums and earliest deadline always at hand."""

    def __init__(self, *, by_tier: bool = True) -> None:
        self._by_id: dict[str, Waiting] = {}
        self._tiers = {tier: Held(by_tier=False) for tier in Tier} if by_tier else {}
        self._deadlines: list[tuple[float, int, Waiting]] = []  # heap; some in it are gone
        self._order = 0
        self.prompt_tokens = 0
        self.max_new_tokens = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self._by_id.values())

    def __contains__(self, id: object) -> bool:
        return id in self._by_id

    @property
    def earliest_deadline(self) -> float:
        heap = self._deadlines
        while heap and not self._holds(heap[0][2]):
            heappop(heap)
        return heap[0][0] if heap else inf

    @property
    def oldest_arrival(self) -> float:
        return next((waiting.arrived_at for waiting in self), inf)

    def add(self, waiting: Waiting) -> None:
        self._by_id[waiting.id] = waiting
        self._order += 1
        heappush(self._deadlines, (waiting.deadline, self._order, waiting))
        self.prompt_tokens += waiting.prompt_tokens
        self.max_new_tokens += waiting.max_new_tokens
        if self._tiers:
            self._tiers[waiting.tier].add(waiting)

    def of(self, tier: Tier) -> Held:
        """Those of one tier. Only a whole queue knows tiers; one of a tier is all of its own, and empty for others.

        Raises:
            KeyError: this is a part already.
        """
        return self._tiers[tier]

    def due_before(self, instant: float) -> Iterator[Waiting]:
        """Those whose deadline comes before it, in no order: a walk down the heap that turns back at whoever has time."""
        paths = [0]
        while paths:
            place = paths.pop()
            if place < len(self._deadlines) and self._deadlines[place][0] < instant:
                waiting = self._deadlines[place][2]
                if self._holds(waiting):
                    yield waiting
                paths += (2 * place + 1, 2 * place + 2)

    def remove(self, id: str) -> Waiting | None:
        waiting = self._by_id.pop(id, None)
        if waiting is not None:
            self.prompt_tokens -= waiting.prompt_tokens
            self.max_new_tokens -= waiting.max_new_tokens
            if self._tiers:
                self._tiers[waiting.tier].remove(id)
            if len(self._deadlines) > 2 * len(self) + SPARE:  # else who leaves early is remembered until his deadline
                self._deadlines = [turn for turn in self._deadlines if self._holds(turn[2])]
                heapify(self._deadlines)
        return waiting

    def due(self, now: float) -> Iterator[str]:
        """Ids whose deadline has come; remove each before asking for the next."""
        while self.earliest_deadline <= now:
            yield self._deadlines[0][2].id

    def _holds(self, waiting: Waiting) -> bool:
        # not by its id, which may have come back with another deadline
        return self._by_id.get(waiting.id) is waiting
