"""Two strategies at the same time, each on servers and energy meters of its own; every request belongs to one of them.

A split by request on *one* server is what routers offer, and it is wrong here: both arms share queue, batch, cache and
clocks, so each arm's latency and joules depend on what the other does (interference), and a device's joules cannot be
metered by arm. `refusals` lets nobody build such a split, so the warning "interference not controlled", which it would need,
never applies here: arms that share neither a server nor an energy domain have no batch and no joule in common. For one server
there is the switchback (`policies/switchback.py`).

What is left in common is the room. What it learns of lengths it learns from both arms; who has no healthy server goes to the
other arm's; and where slots are limited, those who wait for a slot of a full arm stand before the other arm's in one queue.
The time in which either happened is no comparison. And what a split cannot tell apart is an arm and its servers: a hotter
device, or a slower one, favours the other arm. Hence run A/A first, or run it twice, the second time `swapped`. `cautions`
says so.

Who belongs where: `policies/sides.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from policies.base import Action, Decision, Placement, Plan, Policy, ServerState, Tending, Upkeep, View, Waiting
from policies.sides import ARMS, Sides, Split, SplitRefused
from policies.strategy import Strategy
from telemetry.design import CONTROL, TREATMENT

__all__ = ["Split", "SplitRefused", "cautions", "refusals", "split_strategy"]

NAME = "split"


def refusals(split: Split, domains: Mapping[str, Iterable[str]]) -> list[str]:
    """Why a split cannot be: a sentence for each reason; empty: it can.

    Args:
        split: as it was asked for.
        domains: of each server of the group the names of its energy domains, or of the devices metered for it.
    """
    chosen = (*split.control, *split.treatment)
    unknown = [name for name in chosen if name not in domains]
    idle = [name for name in domains if name not in chosen]
    dark = [name for name in chosen if name in domains and not list(domains[name])]
    metered = [{domain for name in split.servers(arm) for domain in domains.get(name, ())} for arm in ARMS]
    both = metered[CONTROL] & metered[TREATMENT]
    found: dict[str, Collection[str]] = {
        f"there is no server {', '.join(unknown)}; there are {', '.join(domains)}": unknown,
        f"{', '.join(idle)} is in no arm, and nobody would use it; give it to one": idle,
        f"{', '.join(dark)} is in no energy domain, so its arm's joules are unknown": dark,
        f"both arms are metered together in {', '.join(sorted(both))}, so their joules cannot be told apart; "
        "give each arm whole energy domains, or use a switchback": both,
    }
    return [reason for reason, names in found.items() if names]


def cautions(split: Split, slots: Mapping[str, int | None]) -> list[str]:
    """What to look at in a split that can be.

    Args:
        split: one that nothing refuses.
        slots: of each server; None is no limit.
    """
    said = ["an arm and its servers cannot be told apart: run A/A on the same servers first, or the split once more, swapped"]
    if limited := [name for name in (*split.control, *split.treatment) if slots.get(name) is not None]:
        said.append(
            f"slots of {', '.join(limited)} are limited, and both arms wait for slots in one queue: "
            "what happened while an arm was full is no comparison (see the waits' 99th percentile)"
        )
    if abs(split.treated - len(split.treatment) / (len(split.control) + len(split.treatment))) > 0.01:
        said.append("servers of one arm have more to do than those of the other, and load alone changes joules a token")
    return said


def split_strategy(split: Split, domains: Mapping[str, Iterable[str]], control: Strategy, treatment: Strategy) -> Strategy:
    """The strategy that is both at once.

    Raises:
        SplitRefused: the arms would share a server or an energy domain, or a server is in neither.
    """
    if reasons := refusals(split, domains):
        raise SplitRefused("; ".join(reasons))
    tends = isinstance(control.placement, Tending) or isinstance(treatment.placement, Tending)
    placement = (TendingSplitPlacement if tends else SplitPlacement)(split, control.placement, treatment.placement)
    return Strategy(SplitPolicy(split, control.policy, treatment.policy), placement, NAME, NAME)


@dataclass(frozen=True, slots=True)
class Remembered:
    """What each arm's policy remembers."""

    control: object = None
    treatment: object = None


@dataclass(frozen=True, slots=True)
class SplitPolicy:
    """Each arm's policy, asked about its own. No queue is kept for each arm: that costs a microsecond for each who waits."""

    split: Split
    control: Policy
    treatment: Policy

    def decide(self, view: View, memory: object) -> Decision:
        known = memory if isinstance(memory, Remembered) else Remembered()
        sides = Sides(self.split, view)
        control = self.control.decide(sides.view(CONTROL), known.control)
        treatment = self.treatment.decide(sides.view(TREATMENT), known.treatment)
        wakes = [decision.wake_at for decision in (control, treatment) if decision.wake_at is not None]
        release = [*control.release, *treatment.release]
        return Decision(release, min(wakes, default=None), Remembered(control.memory, treatment.memory))


@dataclass(frozen=True, slots=True)
class SplitPlacement:
    """Each arm's placement, for its own requests and servers."""

    split: Split
    control: Placement
    treatment: Placement

    def place(self, group: Sequence[Waiting], view: View) -> Plan:
        sides = Sides(self.split, view)
        assignments: dict[str, str] = {}
        for arm in ARMS:
            if own := [waiting for waiting in group if sides.arm_of(waiting) == arm]:
                assignments |= self._of(arm).place(own, sides.view(arm)).assignments
        return Plan(assignments)

    def _of(self, arm: int) -> Placement:
        return self.control if arm == CONTROL else self.treatment


@dataclass(frozen=True, slots=True)
class TendingSplitPlacement(SplitPlacement):
    """... where one of them at least tends servers. An arm whose placement tends none keeps its own awake."""

    def tend(self, view: View) -> Upkeep:
        sides, actions, wakes = Sides(self.split, view), dict[str, Action](), [inf]
        for arm in ARMS:
            placement, own = self._of(arm), sides.view(arm)
            if isinstance(placement, Tending):
                upkeep = placement.tend(own)
                actions |= upkeep.actions
                wakes.append(inf if upkeep.wake_at is None else upkeep.wake_at)
            else:
                actions |= {one.name: Action.WAKE for one in own.servers if one.healthy and one.state is ServerState.ASLEEP}
        return Upkeep(actions, None if min(wakes) == inf else min(wakes))
