"""What has just happened, noted as it happens: who waits, which groups left, and what requests were charged by policy."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, ParamSpec

from policies.base import Waiting
from proxy.app import App
from proxy.fleet import Pool
from telemetry.ledger import Entry

GROUPS_KEPT = 50

P = ParamSpec("P")


@dataclass(slots=True)
class Group:
    """Requests that left their room at one instant. `waited_s` is the longest wait among them, both kinds together."""

    number: int
    at_s: float  # monotonic
    pool: str
    policy: str
    size: int = 0
    waited_s: float = 0.0
    servers: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)


class Charged(NamedTuple):
    """What requests were charged since the start: those whose joules are final, net of idle power."""

    requests: int = 0
    energy_uj: int = 0
    output_tokens: int = 0

    def plus(self, entry: Entry) -> Charged:
        energy_uj = self.energy_uj + entry.energy.active_uj
        return Charged(self.requests + 1, energy_uj, self.output_tokens + entry.output_tokens)

    def minus(self, other: Charged) -> Charged:
        return Charged(*(now - then for now, then in zip(self, other, strict=True)))


class Waiter(NamedTuple):
    """A request that waits, and the group of servers that it waits for."""

    pool: Pool
    entry: Entry


@dataclass(slots=True)
class Recent:
    """Each note costs a request about a microsecond, and nothing here grows with the requests that have gone.

    Attributes:
        by_tier: how many wait, held or ready.
        groups: of two and more that left, the latest last; whoever left alone would only crowd them out.
        alone: how many left alone, since the start.
        largest: group since the latest sample; one that left alone is one, and 0 is nobody.
        charged: by policy and source of the joules.
    """

    app: App
    by_tier: Counter[str] = field(default_factory=Counter)
    groups: deque[Group] = field(default_factory=lambda: deque(maxlen=GROUPS_KEPT))
    charged: dict[tuple[str, str], Charged] = field(default_factory=dict)
    alone: int = 0
    largest: int = 0
    _left: int = 0  # groups since the start
    _waiting: dict[str, Waiter] = field(default_factory=dict)  # in order of arrival
    _again: dict[str, Waiter] = field(default_factory=dict)  # sent back by a server, in order of return
    _leaving: dict[str, Group] = field(default_factory=dict)  # by pool; of this instant

    @property
    def waiting(self) -> int:
        return len(self._waiting) + len(self._again)

    def longest(self, most: int) -> list[Waiter]:
        """Those who have waited the longest, the longest first; it looks at few more than it tells."""
        first = (*islice(self._waiting.values(), most), *islice(self._again.values(), most))
        return sorted(first, key=_arrived)[:most]

    # --- what happens -------------------------------------------------------------------------------------------

    def arrived(self, pool: Pool, entry: Entry, waiting: Waiting | None = None) -> None:
        self._waiting[entry.id] = Waiter(pool, entry)
        self.by_tier[entry.tier] += 1

    def released(self, entry: Entry) -> None:
        """It left. Whoever leaves in the same turn of the loop was let go by the same decision."""
        waiter = self._gone(entry)
        if waiter is None or entry.released_at is None:
            return
        name = waiter.pool.name
        group = self._leaving.get(name)
        if group is None:
            self._left += 1
            group = self._leaving[name] = Group(self._left, entry.released_at, name, entry.policy)
            asyncio.get_running_loop().call_soon(self._whole, name)
        group.size += 1
        group.waited_s = max(group.waited_s, entry.released_at - entry.arrived_at)
        group.servers[entry.server] += 1
        group.outcomes[entry.outcome] += 1

    def _whole(self, pool: str) -> None:
        """Nobody else leaves with this group."""
        group = self._leaving.pop(pool)
        self.largest = max(self.largest, group.size)
        if group.size > 1:
            self.groups.append(group)
        else:
            self.alone += 1

    def returned(self, entry: Entry) -> None:
        """Its server did not take it, and it waits again."""
        pools = self.app.fleet.pools.values()
        pool = next((pool for pool in pools if entry.server in pool.servers), self.app.fleet.default)
        self._again[entry.id] = Waiter(pool, entry)
        self.by_tier[entry.tier] += 1

    def ended(self, entry: Entry) -> None:
        self._gone(entry)

    def final(self, entry: Entry) -> None:
        """Its joules are final."""
        if entry.energy.source is not None:
            key = entry.policy, entry.energy.source.value
            self.charged[key] = self.charged.get(key, Charged()).plus(entry)

    def _gone(self, entry: Entry) -> Waiter | None:
        waiter = self._waiting.pop(entry.id, None) or self._again.pop(entry.id, None)
        if waiter is not None:
            self.by_tier[entry.tier] -= 1
        return waiter


def note(app: App) -> Recent:
    """From now on the proxy tells what happens, after those whom it told before."""
    recent, generation = Recent(app), app.forward.generation
    generation.on_arrival = both(generation.on_arrival, recent.arrived)
    generation.on_release = both(generation.on_release, recent.released)
    generation.on_return = both(generation.on_return, recent.returned)
    generation.on_end = both(generation.on_end, recent.ended)
    if app.energy is not None:
        app.energy.on_final = both(app.energy.on_final, recent.final)
    return recent


def both(first: Callable[P, None], then: Callable[P, None]) -> Callable[P, None]:
    def tell(*args: P.args, **named: P.kwargs) -> None:
        first(*args, **named)
        then(*args, **named)

    return tell


def _arrived(waiter: Waiter) -> float:
    return waiter.entry.arrived_at
