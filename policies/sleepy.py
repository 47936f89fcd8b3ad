"""Servers that packing has emptied are told to sleep, and are woken before they are needed.

How long an empty server stays awake is the ski rental problem (Karlin, Manasse, Rudolph and Sleator, "Competitive snoopy
caching", 1988): staying awake costs idle less sleeping power for each second, waking costs its joules once. Whoever sleeps once
the seconds awake have cost as much as waking, at ``wake_j / (idle_power_w - sleep_power_w)``, never pays more than twice what
somebody would who knew when the next request comes, and no rule without such knowledge does better. Sleeping sooner is
cheaper only for who knows that nobody comes soon.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import inf

from policies.base import Action, Placement, Plan, ServerState, ServerView, Upkeep, View, Waiting
from policies.pack import Pack
from telemetry.cost import StepModel

UNKNOWN_AFTER_S = 60.0  # where no model tells what waking costs
LEAST_AFTER_S = 10.0  # no model knows what waking costs in wear, and in the patience of who comes first


@dataclass(frozen=True, slots=True)
class Sleepy:
    """Places by another placement, lets empty servers sleep, and wakes them when those awake fill up.

    Nobody is placed on a sleeper. When all sleep, the room wakes one for the first who comes, and that one waits for it.

    Attributes:
        after_s: a server sleeps once it has been empty for so long, seconds; also once it was woken and stayed empty. Not set:
            the model's break-even, 10 s at the least, and 60 s where the model does not tell what waking costs.
        awake: so many servers stay awake, whatever comes.
        wake_at_share: the next is woken when the load, those who wait for a slot counted, exceeds this share of what those
            awake take before they are full.
        placement: who places; its knee says when a server is full, and so do the other bounds of `pack`.
    """

    after_s: float | None = None
    awake: int = 1
    wake_at_share: float = 0.75
    placement: Placement = field(default_factory=Pack)

    def __post_init__(self) -> None:
        if self.after_s is not None and not self.after_s > 0:
            raise ValueError("after_s must be above 0")
        if self.awake < 0:
            raise ValueError("awake must be at least 0")
        if not 0 < self.wake_at_share <= 1:
            raise ValueError("wake_at_share must be above 0, and 1 at most")

    def place(self, group: Sequence[Waiting], view: View) -> Plan:
        return self.placement.place(group, view)

    def tend(self, view: View) -> Upkeep:
        servers = [server for server in view.servers if server.healthy]
        up = [server for server in servers if server.state in (ServerState.AWAKE, ServerState.WAKING)]
        asleep = [server for server in servers if server.state is ServerState.ASLEEP]
        # not those that are falling asleep: they have nobody, and whoever wants them waits until they can be woken
        demand = sum(self._load(server, view.model) for server in up) + view.ready_sequences + self._due(view)
        woken = list(self._woken(up, asleep, demand))
        if woken:
            return Upkeep(dict.fromkeys(woken, Action.WAKE), self._next_due(view))
        slept, wake_at = self._slept(up, demand, view)
        return Upkeep(dict.fromkeys(slept, Action.SLEEP), min(wake_at, self._next_due(view) if asleep else inf))

    def _woken(self, up: Sequence[ServerView], asleep: Sequence[ServerView], demand: float) -> Iterator[str]:
        """So many sleepers that the load is a share of what those awake take."""
        takes, awake = sum(map(self._takes, up)), len(up)
        for server in asleep:
            if awake >= self.awake and demand <= self.wake_at_share * takes:
                return
            yield server.name
            takes, awake = takes + self._takes(server), awake + 1

    def _slept(self, up: Sequence[ServerView], demand: float, view: View) -> tuple[list[str], float]:
        """Who was empty long enough and is not needed, the last first, and when the next will be."""
        after_s, slept, wake_at = self._after_s(view.model), [], inf
        takes, awake = sum(map(self._takes, up)), len(up)
        for server in reversed(up):
            takes, awake = takes - self._takes(server), awake - 1
            empty = server.state is ServerState.AWAKE and not server.in_flight and server.empty_since is not None
            if not empty or awake < self.awake or demand > self.wake_at_share * takes:
                takes, awake = takes + self._takes(server), awake + 1
                continue
            assert server.empty_since is not None
            if view.now >= server.empty_since + after_s:
                slept.append(server.name)
            else:
                wake_at = min(wake_at, server.empty_since + after_s)
        return slept, wake_at

    def _after_s(self, model: StepModel | None) -> float:
        if self.after_s is not None:
            return self.after_s
        return max(break_even_s(model) or UNKNOWN_AFTER_S, LEAST_AFTER_S)

    def _due(self, view: View) -> int:
        """Sequences of those held who will leave before a server that is woken now can work."""
        wake_s = view.model.wake_s if view.model is not None else 0.0
        most = self._knee * len(view.servers)  # more say nothing more
        return sum(waiting.sequences for waiting in islice(view.waiting.due_before(view.now + wake_s), most))

    def _next_due(self, view: View) -> float:
        """When to look at the held again."""
        wake_s = view.model.wake_s if view.model is not None else 0.0
        return view.waiting.earliest_deadline - wake_s if wake_s else inf

    def _takes(self, server: ServerView) -> int:
        """Sequences until it is full."""
        return self._knee if server.slots is None else min(self._knee, server.slots)

    def _load(self, server: ServerView, model: StepModel | None) -> float:
        """Its sequences; more where another bound of `pack` is nearer than the knee: as many as make up the same share."""
        inner = self._inner
        share = inner.filled(server, model) if isinstance(inner, Pack) else 0.0
        return max(server.in_flight, share * self._takes(server))

    @property
    def _knee(self) -> int:
        knee = getattr(self._inner, "knee", None)
        return knee if isinstance(knee, int) else Pack().knee

    @property
    def _inner(self) -> object:
        """The innermost placement, or the first on the way to it that has a knee."""
        inner: object = self.placement
        while not isinstance(getattr(inner, "knee", None), int) and (within := getattr(inner, "placement", None)) is not None:
            inner = within
        return inner


def break_even_s(model: StepModel | None) -> float | None:
    """Seconds empty that cost as much as waking: ``wake_j / (idle_power_w - sleep_power_w)``.

    None where the model does not tell; infinite where sleeping saves nothing.
    """
    if model is None or model.sleep_power_w is None or not model.wake_j:
        return None
    saved_w = model.idle_power_w - model.sleep_power_w
    return model.wake_j / saved_w if saved_w > 0 else inf
