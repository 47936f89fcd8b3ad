"""Who belongs to which side of a split, and what each side may see of the room.

Who belongs where is decided by a hash of what should stay together: the session, else the tenant, else the request. Then it is
sessions or tenants that were drawn, not requests, and few tenants make uneven sides. A request that only one server can serve
(it continues what that one stored) belongs to that server's side. Whoever's side has no healthy server goes to the other: an
experiment may cost joules, never a request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from math import ceil, inf

from policies.base import Queue, Tier, View, Waiting

A, B = 0, 1
BOTH = (A, B)


class SplitRefused(ValueError):
    """Sides that would share what must be theirs alone; the message says all of it, and what is allowed."""


@dataclass(frozen=True, slots=True)
class Split:
    """Which servers are whose, and how requests are drawn: each server has as much to do.

    Attributes:
        a: names of side A's servers.
        b: names of side B's.
        seed: decides who belongs where.
    """

    a: tuple[str, ...]
    b: tuple[str, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.a and self.b):
            raise SplitRefused("each side needs a server of its own")
        if shared := sorted(set(self.a) & set(self.b)):
            raise SplitRefused(f"{', '.join(shared)} would be on both sides, which then share its queue and its batch")

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.a, *self.b)

    @property
    def share(self) -> float:
        """Of sessions, tenants or requests, that belong to side B."""
        return len(self.b) / len(self.names)

    def servers(self, side: int) -> tuple[str, ...]:
        return self.a if side == A else self.b

    def side_with(self, server: str) -> int | None:
        """The side that a server is on; None: on neither."""
        return A if server in self.a else B if server in self.b else None

    def side_of(self, waiting: Waiting) -> int:
        """A or B, the same for all of a session, else of a tenant."""
        bound = self.side_with(waiting.server)
        if bound is not None:
            return bound
        return B if _place(self.seed, _sticky(waiting)) < self.share else A


@dataclass(frozen=True, slots=True)
class Sides:
    """A view, as each side may see it."""

    split: Split
    whole: View
    only: int | None = field(init=False)  # the side that has all, since the other has no healthy server

    def __post_init__(self) -> None:
        healthy = {server.name for server in self.whole.servers if server.healthy}
        working = [side for side in BOTH if healthy & set(self.split.servers(side))]
        object.__setattr__(self, "only", working[0] if len(working) == 1 else None)

    def side_of(self, waiting: Waiting) -> int:
        return self.split.side_of(waiting) if self.only is None else self.only

    def view(self, side: int) -> View:
        """Its requests and servers; of arrivals and of those without a slot yet its share, for whose they are is not told."""
        names, view = self.split.servers(side), self.whole
        part = self.split.share if side == B else 1 - self.split.share
        traffic = view.traffic
        if traffic.per_s is not None:
            traffic = replace(traffic, per_s=traffic.per_s * part, flexible_per_s=traffic.flexible_per_s * part)
        return replace(
            view,
            waiting=Side(view.waiting, self, side),
            in_flight={id: flight for id, flight in view.in_flight.items() if flight.server in names},
            servers=[server for server in view.servers if server.name in names],
            traffic=traffic,
            ready_sequences=ceil(view.ready_sequences * part),  # at least one, else nobody wakes its sleepers for him
            ready_tokens=ceil(view.ready_tokens * part),
        )


@dataclass(frozen=True, slots=True)
class Side:
    """Those who wait of one side, in order of arrival; they are looked for once, when they are first asked about."""

    queue: Queue
    sides: Sides
    side: int
    _found: list[Sequence[Waiting]] = field(default_factory=list, compare=False)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)

    def __contains__(self, id: object) -> bool:
        return id in self.queue and any(waiting.id == id for waiting in self._own)

    @property
    def earliest_deadline(self) -> float:
        return min((waiting.deadline for waiting in self._own), default=inf)

    @property
    def oldest_arrival(self) -> float:
        return self._own[0].arrived_at if self._own else inf

    @property
    def prompt_tokens(self) -> int:
        return sum(waiting.prompt_tokens for waiting in self._own)

    @property
    def max_new_tokens(self) -> int:
        return sum(waiting.max_new_tokens for waiting in self._own)

    def of(self, tier: Tier) -> Queue:
        return Side(self.queue.of(tier), self.sides, self.side)

    def due_before(self, instant: float) -> Iterator[Waiting]:
        return (waiting for waiting in self.queue.due_before(instant) if self.sides.side_of(waiting) == self.side)

    @property
    def _own(self) -> Sequence[Waiting]:
        if not self._found:
            self._found.append([waiting for waiting in self.queue if self.sides.side_of(waiting) == self.side])
        return self._found[0]


def _sticky(waiting: Waiting) -> str:
    """What stays together."""
    if waiting.session:
        return f"session {waiting.tenant}/{waiting.session}"
    return f"tenant {waiting.tenant}" if waiting.tenant else waiting.id


@lru_cache(maxsize=1 << 16)
def _place(seed: int, key: str) -> float:
    """Where a key falls between 0 and 1, by chance but always the same."""
    return int.from_bytes(blake2b(f"{seed} {key}".encode(), digest_size=8).digest()) / 2**64
