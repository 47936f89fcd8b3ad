"""Who belongs to which arm of a split, and what each arm may see of the room.

Who belongs where is decided by a hash of what should stay together: the session, else the tenant, else the request. Then it is
sessions or tenants that were drawn, not requests, and few tenants are a small experiment however much they send. A request
that only one server can serve (it continues what that one stored) belongs to that server's arm. Whoever's arm has no healthy
server goes to the other arm: an experiment may cost joules, never a request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from math import ceil, inf

from policies.base import Queue, Tier, View, Waiting
from telemetry.design import CONTROL, TREATMENT

ARMS = (CONTROL, TREATMENT)


class SplitRefused(ValueError):
    """Arms that would share what must be theirs alone; the message says all of it, and what is allowed."""


@dataclass(frozen=True, slots=True)
class Split:
    """Which servers are whose, and how requests are drawn.

    Attributes:
        control: names of servers.
        treatment: names of others.
        seed: decides who belongs where.
        share: of sessions, tenants or requests that belong to treatment; not set: its part of the servers, so that each
            server has as much to do.
    """

    control: tuple[str, ...]
    treatment: tuple[str, ...]
    seed: int = 0
    share: float | None = None

    def __post_init__(self) -> None:
        if not (self.control and self.treatment):
            raise SplitRefused("each arm needs a server of its own")
        if shared := sorted(set(self.control) & set(self.treatment)):
            raise SplitRefused(f"{', '.join(shared)} would serve both arms, which then share its queue and its batch")
        if self.share is not None and not 0 < self.share < 1:
            raise SplitRefused("share must be between 0 and 1")

    @property
    def treated(self) -> float:
        """The share that belongs to treatment."""
        return len(self.treatment) / (len(self.control) + len(self.treatment)) if self.share is None else self.share

    @property
    def swapped(self) -> Split:
        """The arms on each other's servers: what both runs find alike is not the servers'."""
        return Split(self.treatment, self.control, self.seed, self.share)

    def servers(self, arm: int) -> tuple[str, ...]:
        return self.control if arm == CONTROL else self.treatment

    def arm_of(self, waiting: Waiting) -> int:
        """CONTROL or TREATMENT, the same for all of a session, else of a tenant."""
        if waiting.server in self.control:
            return CONTROL
        if waiting.server in self.treatment:
            return TREATMENT
        return TREATMENT if _place(self.seed, _sticky(waiting)) < self.treated else CONTROL


@dataclass(frozen=True, slots=True)
class Sides:
    """A view, as each arm may see it."""

    split: Split
    whole: View
    only: int | None = field(init=False)  # the arm that has all, since the other has no healthy server

    def __post_init__(self) -> None:
        healthy = {server.name for server in self.whole.servers if server.healthy}
        working = [arm for arm in ARMS if healthy & set(self.split.servers(arm))]
        object.__setattr__(self, "only", working[0] if len(working) == 1 else None)

    def arm_of(self, waiting: Waiting) -> int:
        return self.split.arm_of(waiting) if self.only is None else self.only

    def view(self, arm: int) -> View:
        """Its requests and servers; of arrivals and of those without a slot yet its share, for whose they are is not told."""
        names, view = self.split.servers(arm), self.whole
        part = self.split.treated if arm == TREATMENT else 1 - self.split.treated
        traffic = view.traffic
        if traffic.per_s is not None:
            traffic = replace(traffic, per_s=traffic.per_s * part, flexible_per_s=traffic.flexible_per_s * part)
        return replace(
            view,
            waiting=Side(view.waiting, self, arm),
            in_flight={id: flight for id, flight in view.in_flight.items() if flight.server in names},
            servers=[server for server in view.servers if server.name in names],
            traffic=traffic,
            ready_sequences=ceil(view.ready_sequences * part),  # at least one, else nobody wakes its sleepers for him
            ready_tokens=ceil(view.ready_tokens * part),
        )


@dataclass(frozen=True, slots=True)
class Side:
    """Those who wait of one arm, in order of arrival; they are looked for once, when they are first asked about."""

    queue: Queue
    sides: Sides
    arm: int
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
        return Side(self.queue.of(tier), self.sides, self.arm)

    def due_before(self, instant: float) -> Iterator[Waiting]:
        return (waiting for waiting in self.queue.due_before(instant) if self.sides.arm_of(waiting) == self.arm)

    @property
    def _own(self) -> Sequence[Waiting]:
        if not self._found:
            self._found.append([waiting for waiting in self.queue if self.sides.arm_of(waiting) == self.arm])
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
