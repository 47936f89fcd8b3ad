"""Several strategies on the arrivals that a live one had, each in its own room and on its own modelled engines.

Two of them are always there. *Straight through* (passthrough, spread) is what would have been without Paceline. *As run* is
what was: each request arrives at its modelled engine at the instant at which it really left, at the server that it really
left to. The difference of their joules is the **gain**. Both are the model's: its errors are common to them, so a gain is
better known than either.

A strategy that holds requests is always behind at any instant, so joules until then say nothing. Compared is therefore what
can be: of requests, only those that have ended with both (their Shapley shares of the steps' joules, `policies/engine.py`,
which add up to what steps cost once all have ended); of rest, the whole time (idle power with nobody asleep, less when
engines slept, and what waking cost).

Requests enter as they were: prompts by their real lengths, answers by theirs, so nobody may be told of one before it has
ended. Whoever drives this feeds it behind the present.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush

from policies.base import Action
from policies.engine import Engine
from policies.lived import AS_RUN, LATE_S, STRAIGHT, Lived, Tended, Totals
from policies.simulate import Arrival, Served, Simulation
from policies.strategy import Choice, Strategy, build
from telemetry.cost import StepModel


@dataclass(slots=True)
class Shadow:
    """One strategy at work, and what of its requests cannot be compared yet."""

    name: str
    simulation: Simulation
    totals: Totals
    rest: dict[str, Engine]  # engines without work, which sleep and wake as those with work do
    ours: dict[str, float] = field(default_factory=dict)  # joules of those that have not ended straight through
    theirs: dict[str, float] = field(default_factory=dict)  # joules straight through of those that have not ended here
    asleep: set[str] = field(default_factory=set)  # as run
    _faults: int = 0
    _rest_j: float = 0.0

    def advance(self, until: float) -> Iterator[None]:
        """Everything up to an instant; yields between instants, for whoever has other things to do."""
        while self.simulation.next_at <= until:
            self.simulation.advance(self.simulation.next_at)
            yield
        self.simulation.advance(until)
        self.totals.faults += self.simulation.faults - self._faults
        self._faults = self.simulation.faults

    def act(self, tended: Tended) -> None:
        """What a server really did, its engine does. One that has more to do than the real one had stays awake."""
        engine = self.simulation.engines[tended.server]
        if (tended.action is Action.SLEEP) is (tended.server in self.asleep):
            return  # it is so already
        if tended.action is Action.SLEEP and engine.sleep(tended.at) is not None:
            self.asleep.add(tended.server)
        elif tended.action is Action.WAKE and tended.server in self.asleep:
            self.asleep.discard(tended.server)
            if not engine.in_flight:  # else somebody came early, and it is awake
                engine.wake(tended.at)
        else:
            return
        self.simulation.actions.append((tended.at, tended.server, tended.action))

    def rested_j(self, until: float) -> float:
        """Joules of rest since this was last asked."""
        for at, server, action in self.simulation.actions:
            (self.rest[server].wake if action is Action.WAKE else self.rest[server].sleep)(at)
        self.simulation.actions.clear()
        for engine in self.rest.values():
            engine.advance(until)
        rest_j = sum(engine.energy_j(until) for engine in self.rest.values())
        since_j, self._rest_j = rest_j - self._rest_j, rest_j
        self.totals.rest_j += since_j
        return since_j


@dataclass(slots=True)
class Episode:
    """All strategies side by side, while servers and strategies stay what they are.

    Attributes:
        model: each engine's step model.
        servers: their names and slots; None is no limit.
        strategies: whose shadows run beside straight through and as run, by their names.
        totals: where it is added up, by name; the two are there too.
        began_at: monotonic seconds; requests that arrived before are not for this episode.
        wall_offset_s: what to add for seconds since the epoch.
        in_force: the live policy's name, whose merit it is what sleeping servers save.
        on_release: told the strategy's name and each request that leaves.
    """

    model: StepModel
    servers: Mapping[str, int | None]
    strategies: Mapping[str, Strategy]
    totals: Mapping[str, Totals]
    began_at: float
    wall_offset_s: float = 0.0
    in_force: str = ""
    on_release: Callable[[str, Served], None] = lambda name, served: None
    shadows: dict[str, Shadow] = field(init=False)
    now: float = field(init=False)
    _coming: list[tuple[float, str, int, Lived]] = field(default_factory=list)  # heap by arrival
    _leaving: list[tuple[float, str, int, Lived]] = field(default_factory=list)  # heap by release
    _lived: dict[str, Lived] = field(default_factory=dict)  # with as run
    _tended: deque[Tended] = field(default_factory=deque)
    _order: int = 0

    def __post_init__(self) -> None:
        self.now = self.began_at
        straight = build(Choice("passthrough", {}), Choice("spread", {}))
        every = {STRAIGHT: straight, AS_RUN: straight, **self.strategies}  # as run, requests are bound to their servers
        self.shadows = {name: self._shadow(name, strategy) for name, strategy in every.items()}

    def _shadow(self, name: str, strategy: Strategy) -> Shadow:
        # what really left had its slot
        servers = dict.fromkeys(self.servers) if name == AS_RUN else self.servers
        simulation = Simulation(strategy, self.model, servers, began_at=self.began_at, wall_offset_s=self.wall_offset_s)
        rest = {server: Engine(self.model, clock=self.began_at) for server in servers}
        shadow = Shadow(name, simulation, self.totals[name], rest)
        simulation.on_served = lambda served: self._served(shadow, served)
        simulation.on_release = lambda served: self._released(shadow, served)
        return shadow

    def feed(self, lived: Iterable[Lived], tended: Iterable[Tended] = ()) -> None:
        """Requests that have ended, and what servers were told, in any order. Who came too early for this is left out."""
        for one in lived:
            if one.waiting.arrived_at >= self.began_at:
                self._order += 1
                id = one.waiting.id  # so that whoever comes at one instant does so in the same order however it is fed
                heappush(self._coming, (one.waiting.arrived_at, id, self._order, one))
                heappush(self._leaving, (one.released_at, id, self._order, one))
        self._tended.extend(sorted((one for one in tended if one.server in self.servers), key=lambda one: one.at))

    def advance(self, until: float) -> Iterator[None]:
        """Everything up to an instant, before which nobody may arrive or leave who was not fed; yields between instants."""
        while self._coming and self._coming[0][0] <= until:
            arrival = heappop(self._coming)[3].arrival
            for name, shadow in self.shadows.items():
                if name != AS_RUN:
                    shadow.simulation.arrive(_not_before(arrival, self.now))
            yield
        while self._leaving and self._leaving[0][0] <= until:
            lived = heappop(self._leaving)[3]
            self._lived[lived.waiting.id] = lived
            self.shadows[AS_RUN].simulation.arrive(_not_before(_left(lived), self.now))
            yield
        as_run = self.shadows[AS_RUN]
        while self._tended and self._tended[0].at <= until:
            tended = self._tended.popleft()
            tended = replace(tended, at=max(tended.at, self.now))
            yield from as_run.advance(tended.at)
            as_run.act(tended)
        for shadow in self.shadows.values():
            yield from shadow.advance(until)
        self.now = until
        self._rest(until)

    @property
    def open(self) -> int:
        """Requests that are kept for what is still to come."""
        inside = (len(s.simulation.open) + len(s.ours) + len(s.theirs) for s in self.shadows.values())
        return len(self._coming) + len(self._leaving) + sum(inside)

    @property
    def unfinished(self) -> int:
        """Requests that have not been compared yet."""
        return len(self._leaving) + len(self._lived)

    def _rest(self, until: float) -> None:
        straight_j = self.shadows[STRAIGHT].rested_j(until)
        for name, shadow in self.shadows.items():
            if name != STRAIGHT and (saved_j := straight_j - shadow.rested_j(until)):
                shadow.totals.saved(saved_j, self.in_force)

    def _released(self, shadow: Shadow, served: Served) -> None:
        if shadow.name == AS_RUN:
            return
        totals = shadow.totals
        totals.waits_s.append(served.wait_s)
        totals.late += served.released_at > served.waiting.deadline + LATE_S
        self._count(shadow, served)

    def _count(self, shadow: Shadow, served: Served) -> None:
        outcome = str(served.outcome)
        shadow.totals.releases[outcome] = shadow.totals.releases.get(outcome, 0) + 1
        self.on_release(shadow.name, served)

    def _served(self, shadow: Shadow, served: Served) -> None:
        """One has ended with a strategy: it counts, and is compared once it has with both."""
        id, totals = served.waiting.id, shadow.totals
        totals.requests += 1
        totals.active_j += served.energy_j
        if shadow.name == AS_RUN:
            self._really(totals, self._lived[id])
        else:
            totals.ttfts_s.append(served.ttft_s)
        if shadow.name != STRAIGHT:
            self._meet(shadow, id, shadow.theirs, shadow.ours, served.energy_j)
            return
        for other in self.shadows.values():
            if other.name != STRAIGHT:
                self._meet(other, id, other.ours, other.theirs, served.energy_j)

    def _meet(self, shadow: Shadow, id: str, known: dict[str, float], unknown: dict[str, float], joules: float) -> None:
        if id not in known:
            unknown[id] = joules
            return
        other_j = known.pop(id)
        straight_j, ours_j = (other_j, joules) if known is shadow.theirs else (joules, other_j)
        lived = self._lived.pop(id, None) if shadow.name == AS_RUN else None
        shadow.totals.compared += 1
        shadow.totals.straight_j += straight_j
        shadow.totals.saved(straight_j - ours_j, lived.policy if lived is not None else "")

    def _really(self, totals: Totals, lived: Lived) -> None:
        """Waits and first tokens as run are those that were seen, not modelled."""
        waiting = lived.waiting
        totals.waits_s.append(lived.released_at - waiting.arrived_at)
        totals.late += lived.released_at > waiting.deadline + LATE_S
        if lived.ttft_s is not None:
            totals.ttfts_s.append(lived.ttft_s)


def _left(lived: Lived) -> Arrival:
    """As run, a request comes when it leaves, and nobody chooses its server any more."""
    at = lived.released_at
    arrival = lived.arrival
    return replace(arrival, waiting=replace(arrival.waiting, arrived_at=at, deadline=at, server=lived.server))


def _not_before(arrival: Arrival, now: float) -> Arrival:
    """One that was told too late comes now."""
    waiting = arrival.waiting
    if waiting.arrived_at >= now:
        return arrival
    return replace(arrival, waiting=replace(waiting, arrived_at=now, deadline=max(waiting.deadline, now)))
