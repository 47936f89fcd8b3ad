"""The second driver of the room, in simulated time: the same decisions as live, without a wire or a wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf

from policies.base import Action, Outcome, ServerState, Waiting
from policies.engine import Engine, Finished, Job, Step
from policies.room import Room, Tick
from policies.strategy import Strategy
from telemetry.cost import StepModel


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request as the world sees it: what the policy knows, and the output length that nobody knows yet."""

    waiting: Waiting
    output_tokens: int  # of all its sequences


@dataclass(slots=True)
class Served:
    """One simulated request from arrival to end; all times in seconds of simulated time."""

    waiting: Waiting
    output_tokens: int  # of all its sequences
    outcome: Outcome | None = None
    server: str = ""
    released_at: float = inf
    first_token_at: float = inf
    ended_at: float = inf
    energy_j: float = 0.0  # net of idle

    @property
    def wait_s(self) -> float:
        return self.released_at - self.waiting.arrived_at

    @property
    def ttft_s(self) -> float:
        return self.first_token_at - self.waiting.arrived_at

    @property
    def tpot_s(self) -> float:
        """Seconds per output token after the first."""
        return (self.ended_at - self.first_token_at) / max(self.output_tokens / self.waiting.sequences - 1, 1)


@dataclass(slots=True)
class Run:
    """What a simulation saw: every request, and every server's joules up to the last end."""

    served: dict[str, Served] = field(default_factory=dict)
    energy_j: dict[str, float] = field(default_factory=dict)  # per server, idle included
    ended_at: float = 0.0
    faults: int = 0
    actions: list[tuple[float, str, Action]] = field(default_factory=list)  # when which server was told to do what

    @property
    def completed(self) -> int:
        return sum(served.ended_at < inf for served in self.served.values())

    @property
    def joules_per_request(self) -> float:
        """All joules, idle included, over completed requests."""
        return sum(self.energy_j.values()) / max(self.completed, 1)

    def groups(self) -> list[int]:
        """How many left at each instant at which somebody left."""
        counts: dict[float, int] = {}
        for served in self.served.values():
            if served.released_at < inf:
                counts[served.released_at] = counts.get(served.released_at, 0) + 1
        return list(counts.values())


@dataclass(slots=True)
class Simulation:
    """A room and its engines in simulated time, which can be fed while it runs.

    Tell it arrivals in the order of their times, then `advance`: everything that happens up to an instant is then decided,
    so nobody may arrive before it any more. A request leaves `open` for good once it ends, or is refused.

    Attributes:
        strategy: who leaves when, and where to.
        model: each engine's step model.
        servers: their names and slots; None is no limit.
        queue_limit: most requests waiting.
        queue_timeout_s: longest capacity wait.
        began_at: the first instant.
        wall_offset_s: what to add to simulated seconds for seconds since the epoch.
        on_served: told of each request that has ended, in whatever way.
        on_release: told of each that leaves.
    """

    strategy: Strategy
    model: StepModel
    servers: Mapping[str, int | None]
    queue_limit: int = 1_000_000_000
    queue_timeout_s: float = inf
    began_at: float = 0.0
    wall_offset_s: float = 0.0
    on_served: Callable[[Served], None] = lambda served: None
    on_release: Callable[[Served], None] = lambda served: None
    room: Room = field(init=False)
    engines: dict[str, Engine] = field(init=False)
    open: dict[str, Served] = field(default_factory=dict)
    now: float = field(init=False)
    faults: int = 0
    actions: list[tuple[float, str, Action]] = field(default_factory=list)
    _coming: deque[Arrival] = field(default_factory=deque)
    _changes: list[tuple[float, str, ServerState]] = field(default_factory=list)  # heap: servers that fall asleep or wake
    _wake_at: float = inf
    _events: dict[str, float] = field(init=False)  # of each engine: an instant before which nobody starts or ends there
    _jobs: dict[str, tuple[Served, set[str]]] = field(default_factory=dict)  # whose each is, and which of its are not over

    def __post_init__(self) -> None:
        self.now = self.began_at
        self._events = dict.fromkeys(self.servers, inf)
        self.engines = {name: Engine(self.model, clock=self.began_at) for name in self.servers}
        self.room = Room(
            self.strategy.policy,
            self.strategy.placement,
            dict(self.servers),
            queue_limit=self.queue_limit,
            queue_timeout_s=self.queue_timeout_s,
            model=self.model,
        )

    def arrive(self, arrival: Arrival) -> None:
        """Somebody comes, not before anybody who was told before.

        Raises:
            ValueError: it is too late for that.
        """
        at = arrival.waiting.arrived_at
        if at < self.now or (self._coming and at < self._coming[-1].waiting.arrived_at):
            raise ValueError(f"request {arrival.waiting.id!r} arrives at {at}, which is past")
        self._coming.append(arrival)

    def advance(self, until: float) -> None:
        """Everything that happens at or before `until`; with infinity, until nothing more happens."""
        while (now := self.next_at) <= until and now < inf:
            self._instant(now)
        if self.now < until < inf:
            self.now = until

    def play(self, until: float = inf, watch: Callable[[float], None] = lambda now: None) -> None:
        """Instant by instant, as long as somebody is there or comes; `watch` is told of each.

        Raises:
            ValueError: somebody never leaves, since a placement sends him nowhere though there are slots.
        """
        while not self.over and (at := self.next_at) <= until:
            if at == inf:
                raise ValueError(f"{len(self.open)} requests never leave: the placement sends them nowhere")
            self.advance(at)
            watch(self.now)

    @property
    def next_at(self) -> float:
        """The next instant at which something happens; infinity when nothing will."""
        arrives_at = self._coming[0].waiting.arrived_at if self._coming else inf
        changes_at = self._changes[0][0] if self._changes else inf
        return min(arrives_at, self._wake_at, changes_at, *self._events.values())

    @property
    def over(self) -> bool:
        """Whether nobody is there and nobody comes."""
        return not self.open and not self._coming

    def energy_j(self) -> dict[str, float]:
        """Joules of each server until now, idle included."""
        for engine in self.engines.values():
            engine.leap(self.now)  # nobody starts or ends there by then who has not been told
        return {name: engine.energy_j(self.now) for name, engine in self.engines.items()}

    def _instant(self, now: float) -> None:
        self.now = now
        eventful = now >= self._wake_at
        for name in [name for name, at in self._events.items() if at <= now]:
            eventful |= self._progress(self.engines[name].leap(now))
            self._expect(name)
        while self._changes and self._changes[0][0] <= now:
            _, server, state = heappop(self._changes)
            self.room.set_state(server, state)
            eventful = True
        while self._coming and self._coming[0].waiting.arrived_at <= now:
            self._admit(self._coming.popleft())
            eventful = True
        if eventful:
            tick = self.room.tick(now, now + self.wall_offset_s)
            self._wake_at = inf if tick.wake_at is None else tick.wake_at
            self._apply(tick)

    def _expect(self, name: str) -> None:
        """When an engine is to be looked at next."""
        at = self.engines[name].next_event_at
        self._events[name] = inf if at is None else at

    def _admit(self, arrival: Arrival) -> None:
        served = Served(arrival.waiting, arrival.output_tokens)
        self.open[arrival.waiting.id] = served
        if not self.room.admit(arrival.waiting):
            self._close(served, Outcome.REJECTED)

    def _close(self, served: Served, outcome: Outcome | None = None) -> None:
        served.outcome = outcome or served.outcome
        del self.open[served.waiting.id]
        self.on_served(served)

    def _progress(self, steps: Sequence[Step]) -> bool:
        """Tell the room and the record what an engine did; False when nobody started or ended."""
        for step in steps:
            for id in step.started:
                served, _ = self._jobs[id]
                served.first_token_at = min(step.at, served.first_token_at)
                self.room.first_token(served.waiting.id, step.at)
            for finished in step.ended:
                self._end(finished, step.at)
        return any(step.started or step.ended for step in steps)

    def _apply(self, tick: Tick) -> None:
        self.faults += tick.fault is not None
        for waiting in tick.expired:
            self._close(self.open[waiting.id], Outcome.EXPIRED)
        for leaving in tick.leaving:
            served = self.open[leaving.waiting.id]
            served.outcome, served.server, served.released_at = leaving.outcome, leaving.server, self.now
            self._submit(served)
            self.on_release(served)
        for name in dict.fromkeys(leaving.server for leaving in tick.leaving):
            self._expect(name)
        for server, action in tick.actions.items():
            self._act(server, action)

    def _submit(self, served: Served) -> None:
        """A job for each sequence, of as many tokens as they have on average; each computes its prompt itself."""
        engine, waiting = self.engines[served.server], served.waiting
        engine.leap(self.now)  # nobody starts or ends there by now who has not been told
        each, more = divmod(served.output_tokens, waiting.sequences)
        ids = [waiting.id] if waiting.sequences == 1 else [f"{waiting.id}/{number}" for number in range(waiting.sequences)]
        left = set(ids)
        for number, id in enumerate(ids):
            self._jobs[id] = (served, left)
            engine.submit(Job(id, waiting.prompt_tokens, max(each + (number < more), 1)), self.now)

    def _end(self, finished: Finished, at: float) -> None:
        """A job is over, and its request once all of its are."""
        served, left = self._jobs.pop(finished.id)
        served.energy_j += finished.energy_j
        left.discard(finished.id)
        if not left:
            served.ended_at = at
            self.room.ended(served.waiting.id, at, served.output_tokens)
            self._close(served)

    def _act(self, server: str, action: Action) -> None:
        """An engine falls asleep or wakes, which takes its time; one that cannot sleep is awake again at once."""
        self.actions.append((self.now, server, action))
        engine = self.engines[server]
        if action is Action.WAKE:
            heappush(self._changes, (engine.wake(self.now), server, ServerState.AWAKE))
        elif (asleep_at := engine.sleep(self.now)) is not None:
            heappush(self._changes, (asleep_at, server, ServerState.ASLEEP))
        else:
            heappush(self._changes, (self.now, server, ServerState.AWAKE))


def simulate(
    arrivals: Iterable[Arrival],
    strategy: Strategy,
    model: StepModel,
    *,
    servers: int = 1,
    slots: int | None = None,
    queue_timeout_s: float = inf,
    until: float = 0.0,
    wall_offset_s: float = 0.0,
    watch: Callable[[float], None] = lambda now: None,
) -> Run:
    """Run arrivals through one room and `servers` engines, all alike; energy is counted until the last end.

    Args:
        arrivals: in any order.
        strategy: who leaves when, and where to.
        model: each engine's step model.
        servers: how many engines.
        slots: each server's slots; None is no limit.
        queue_timeout_s: longest capacity wait.
        until: count energy at least until this instant.
        wall_offset_s: what to add to simulated seconds for seconds since the epoch.
        watch: told of each instant that has been simulated.

    Raises:
        ValueError: somebody never leaves, since a placement sends him nowhere though there are slots.
    """
    coming = sorted(arrivals, key=lambda arrival: arrival.waiting.arrived_at)
    run = Run()
    names = dict.fromkeys((f"engine-{n}" for n in range(servers)), slots)
    began_at = min(0.0, coming[0].waiting.arrived_at) if coming else 0.0
    simulation = Simulation(
        strategy, model, names, queue_timeout_s=queue_timeout_s, began_at=began_at, wall_offset_s=wall_offset_s
    )
    simulation.on_served = lambda served: run.served.__setitem__(served.waiting.id, served)
    for arrival in coming:
        simulation.arrive(arrival)
    simulation.play(watch=watch)
    last_s = max(until, simulation.now)
    simulation.advance(last_s)
    run.served = {arrival.waiting.id: run.served[arrival.waiting.id] for arrival in coming}
    run.ended_at, run.energy_j = last_s, simulation.energy_j()
    run.faults, run.actions = simulation.faults, simulation.actions
    return run
