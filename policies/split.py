"""Two strategies at the same time, each on servers and energy meters of its own; every request belongs to one of them.

A split by request on *one* server is what routers offer, and it is wrong here: both arms share queue, batch, cache and
clocks, so each arm's latency and joules depend on what the other does (interference), and a device's joules cannot be
metered by arm. `refusals` tells whether a split would be that; sides that share neither a server nor an energy domain have no
batch and no joule in common. For one server there is the switchback (`policies/switchback.py`).

What a split cannot tell apart is an arm and its servers: a hotter device, or a slower one, favours the other arm. So the sides
run in `counterphase`: in each window of time one has control and the other treatment, and which has which is drawn. Each
is then a switchback, the other way round than its neighbour's at every instant.

What is left in common is the room. What it learns of lengths it learns from both sides; who has no healthy server goes to the
other side's; and where slots are limited, those who wait for a slot of a full side stand before the other's in one queue.
`cautions` says so. Who belongs where: `policies/sides.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from policies.base import Action, Decision, Placement, Plan, Policy, ServerState, Tending, Upkeep, View, Waiting
from policies.sides import BOTH, A, B, Sides, Split, SplitRefused
from policies.strategy import Strategy
from policies.switchback import switchback
from telemetry.design import Design

__all__ = ["Split", "SplitRefused", "cautions", "counterphase", "refusals", "side_by_side", "sides_of"]

NAME = "split"
ROOM = (
    "both sides share one room: it learns answers' lengths from both, and who finds no healthy server on his side goes to the "
    "other; a block of which more than 1 % did is left out"
)
DRAWN = (
    "who belongs to which side is drawn by session, else by tenant, else by request: few tenants make uneven sides, "
    "which the drawn arms even out over pairs, at the price of wider intervals"
)


def sides_of(named: Sequence[str], domains: Mapping[str, Iterable[str]], seed: int) -> Split:
    """The sides of a group's servers that share no meter.

    Args:
        named: servers of side A; none: the servers are parted by the meters that they share, if that makes two sides.
        domains: of each server of the group the names of its energy domains, or of the devices metered for it.
        seed: decides who belongs where.

    Raises:
        SplitRefused: there are no such sides; the message says all that stands against them.
    """
    if len(domains) < 2:
        raise SplitRefused(f"{', '.join(domains)} is the only server: a split needs two that share no meter; use a switchback")
    if unknown := [name for name in named if name not in domains]:
        raise SplitRefused(f"there is no server {', '.join(unknown)}; there are {', '.join(domains)}")
    parts = _together(domains)
    if not named and len(parts) > 2:
        told = "; ".join(", ".join(part) for part in parts)
        raise SplitRefused(f"{len(parts)} sets of servers share no meter: name the servers of one side ({told})")
    first = tuple(named) or parts[0]
    rest = tuple(name for name in domains if name not in first)
    if not rest and named:
        raise SplitRefused(f"{', '.join(named)} are all servers of the group: leave some for the other side")
    if not rest:  # all are metered together, and whoever is told so wants to know by what
        first, rest = first[:1], first[1:]
    split = Split(first, rest, seed)
    if reasons := refusals(split, domains):
        raise SplitRefused("; ".join(reasons))
    return split


def _together(domains: Mapping[str, Iterable[str]]) -> list[tuple[str, ...]]:
    """Servers that share meters, directly or by others, in the order in which they are told."""
    parts: list[tuple[tuple[str, ...], set[str]]] = []
    for name, own in domains.items():
        names: tuple[str, ...] = (name,)
        meters = set(own)
        for part in [part for part in parts if part[1] & meters]:
            parts.remove(part)
            names, meters = (*part[0], *names), meters | part[1]
        parts.append((names, meters))
    order = list(domains)
    return sorted((names for names, _ in parts), key=lambda names: order.index(names[0]))


def refusals(split: Split, domains: Mapping[str, Iterable[str]]) -> list[str]:
    """Why a split cannot be: a sentence for each reason; empty: it can.

    Args:
        split: as it was asked for.
        domains: of each server of the group the names of its energy domains, or of the devices metered for it.
    """
    unknown = [name for name in split.names if name not in domains]
    idle = [name for name in domains if name not in split.names]
    dark = [name for name in split.names if name in domains and not list(domains[name])]
    metered = [{domain for name in split.servers(side) for domain in domains.get(name, ())} for side in BOTH]
    both = metered[A] & metered[B]
    found: dict[str, Collection[str]] = {
        f"there is no server {', '.join(unknown)}; there are {', '.join(domains)}": unknown,
        f"{', '.join(idle)} is on no side, and nobody would use it; give it to one": idle,
        f"{', '.join(dark)} is in no energy domain, so its side's joules are unknown": dark,
        f"both sides are metered together in {'; '.join(sorted(both))}, so their joules cannot be told apart; "
        "give each side whole energy domains, or use a switchback": both,
    }
    return [reason for reason, names in found.items() if names]


def cautions(split: Split, slots: Mapping[str, int | None]) -> list[str]:
    """What to look at in a split that can be.

    Args:
        split: one that nothing refuses.
        slots: of each server; None is no limit.
    """
    said = [ROOM, DRAWN]
    if limited := [name for name in split.names if slots.get(name) is not None]:
        said.append(
            f"slots of {', '.join(limited)} are limited, and both sides wait for slots in one queue: "
            "what happened while a side was full is no comparison (see the waits' 99th percentile)"
        )
    return said


def counterphase(design: Design, split: Split, control: Strategy, treatment: Strategy) -> Strategy:
    """Control on one side and treatment on the other, window by window as the design has drawn it.

    Whoever begins it has asked `refusals` first; it needs an instant since the epoch with every question, as a switchback does.
    """
    return side_by_side(split, *(switchback(design.of_side(side), control, treatment) for side in BOTH))


def side_by_side(split: Split, first: Strategy, second: Strategy) -> Strategy:
    """The strategy that is both at once: the first on side A, the second on side B."""
    tends = isinstance(first.placement, Tending) or isinstance(second.placement, Tending)
    placement = (TendingSplitPlacement if tends else SplitPlacement)(split, first.placement, second.placement)
    return Strategy(SplitPolicy(split, first.policy, second.policy), placement, NAME, NAME)


@dataclass(frozen=True, slots=True)
class Remembered:
    """What each side's policy remembers."""

    first: object = None
    second: object = None


@dataclass(frozen=True, slots=True)
class SplitPolicy:
    """Each side's policy, asked about its own. No queue is kept for each side: that costs a microsecond for each who waits."""

    split: Split
    first: Policy
    second: Policy

    def decide(self, view: View, memory: object) -> Decision:
        known = memory if isinstance(memory, Remembered) else Remembered()
        sides = Sides(self.split, view)
        first = self.first.decide(sides.view(A), known.first)
        second = self.second.decide(sides.view(B), known.second)
        wakes = [decision.wake_at for decision in (first, second) if decision.wake_at is not None]
        return Decision([*first.release, *second.release], min(wakes, default=None), Remembered(first.memory, second.memory))


@dataclass(frozen=True, slots=True)
class SplitPlacement:
    """Each side's placement, for its own requests and servers."""

    split: Split
    first: Placement
    second: Placement

    def place(self, group: Sequence[Waiting], view: View) -> Plan:
        sides = Sides(self.split, view)
        assignments: dict[str, str] = {}
        for side in BOTH:
            if own := [waiting for waiting in group if sides.side_of(waiting) == side]:
                assignments |= self._of(side).place(own, sides.view(side)).assignments
        return Plan(assignments)

    def _of(self, side: int) -> Placement:
        return self.first if side == A else self.second


@dataclass(frozen=True, slots=True)
class TendingSplitPlacement(SplitPlacement):
    """... where one of them at least tends servers. A side whose placement tends none keeps its own awake."""

    def tend(self, view: View) -> Upkeep:
        sides, actions, wakes = Sides(self.split, view), dict[str, Action](), [inf]
        for side in BOTH:
            placement, own = self._of(side), sides.view(side)
            if isinstance(placement, Tending):
                upkeep = placement.tend(own)
                actions |= upkeep.actions
                wakes.append(inf if upkeep.wake_at is None else upkeep.wake_at)
            else:
                actions |= {one.name: Action.WAKE for one in own.servers if one.healthy and one.state is ServerState.ASLEEP}
        return Upkeep(actions, None if min(wakes) == inf else min(wakes))
