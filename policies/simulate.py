"""The second driver of the room, in simulated time: the same decisions as live, without a wire or a wait."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf

from policies.base import Outcome, Waiting
from policies.engine import Engine, Job, Step
from policies.room import Room, Tick
from policies.strategy import Strategy
from telemetry.cost import StepModel


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request as the world sees it: what the policy knows, and the output length that nobody knows yet."""

    waiting: Waiting
    output_tokens: int


@dataclass(slots=True)
class Served:
    """One simulated request from arrival to end; all times in seconds of simulated time."""

    waiting: Waiting
    output_tokens: int
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
        return (self.ended_at - self.first_token_at) / max(self.output_tokens - 1, 1)


@dataclass(slots=True)
class Run:
    """What a simulation saw: every request, and every server's joules up to the last end."""

    served: dict[str, Served] = field(default_factory=dict)
    energy_j: dict[str, float] = field(default_factory=dict)  # per server, idle included
    ended_at: float = 0.0
    faults: int = 0

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


def simulate(
    arrivals: Iterable[Arrival],
    strategy: Strategy,
    model: StepModel,
    *,
    servers: int = 1,
    slots: int | None = None,
    queue_timeout_s: float = inf,
    until: float = 0.0,
) -> Run:
    """Run arrivals (in order of time) through one room and `servers` engines; energy is counted until the last end.

    Args:
        arrivals: ordered by `waiting.arrived_at`.
        strategy: who leaves when, and where to.
        model: each engine's step model.
        servers: engines, all alike.
        slots: each server's slots; None is no limit.
        queue_timeout_s: longest capacity wait.
        until: count energy at least until this instant.
    """
    engines = {f"engine-{n}": Engine(model) for n in range(servers)}
    room = Room(strategy.policy, strategy.placement, dict.fromkeys(engines, slots), queue_timeout_s=queue_timeout_s)
    run = Run()
    coming = sorted(arrivals, key=lambda arrival: arrival.waiting.arrived_at)
    position, wake_at = 0, inf
    while True:
        ends = {name: at for name, engine in engines.items() if (at := engine.next_at) is not None}
        arrives_at = coming[position].waiting.arrived_at if position < len(coming) else inf
        now = min(arrives_at, wake_at, *ends.values()) if ends else min(arrives_at, wake_at)
        if now == inf:
            break
        eventful = now in (arrives_at, wake_at)
        for name, at in ends.items():
            if at <= now:
                eventful |= _progress(run, room, engines[name].advance(now))
        while position < len(coming) and coming[position].waiting.arrived_at <= now:
            _arrive(run, room, coming[position])
            position += 1
        if eventful:
            tick = room.tick(now, now)
            _apply(run, engines, tick, now)
            wake_at = tick.wake_at if tick.wake_at is not None else inf
    run.ended_at = max([until, *(engine.clock for engine in engines.values())])
    run.energy_j = {name: engine.energy_j(run.ended_at) for name, engine in engines.items()}
    return run


def _arrive(run: Run, room: Room, arrival: Arrival) -> None:
    served = run.served[arrival.waiting.id] = Served(arrival.waiting, arrival.output_tokens)
    if not room.admit(arrival.waiting):
        served.outcome = Outcome.REJECTED


def _progress(run: Run, room: Room, steps: Sequence[Step]) -> bool:
    """Tell the room and the record what the engine did; False when nobody started or ended."""
    for step in steps:
        for id in step.started:
            run.served[id].first_token_at = step.at
            room.first_token(id, step.at)
        for finished in step.ended:
            run.served[finished.id].ended_at = step.at
            run.served[finished.id].energy_j = finished.energy_j
            room.ended(finished.id)
    return any(step.started or step.ended for step in steps)


def _apply(run: Run, engines: dict[str, Engine], tick: Tick, now: float) -> None:
    run.faults += tick.fault is not None
    for waiting in tick.expired:
        run.served[waiting.id].outcome = Outcome.EXPIRED
    for leaving in tick.leaving:
        served = run.served[leaving.waiting.id]
        served.outcome, served.server, served.released_at = leaving.outcome, leaving.server, now
        engines[leaving.server].submit(Job(served.waiting.id, served.waiting.prompt_tokens, served.output_tokens), now)
