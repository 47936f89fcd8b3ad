"""The waiting room: the scheduler's whole state, without clock, loop or wire.

A request waits twice. Its *hold* is the policy's choice and is bounded by the request's own deadline. Its *capacity*
wait is the room's: it lasts while no server has a slot, is ordered by priority, and is bounded by the queue's timeout.
What the room guarantees, whatever a policy does:

1. Nobody is held past their deadline, and nobody leaves without a server.
2. Everybody who came ends in exactly one `Outcome`.
3. A policy that raises lets everybody go (`Outcome.FAULT`); ids it made up are ignored.
4. An instant is whole: drivers apply everything that happens at one instant, then call `tick` once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush
from math import inf
from types import MappingProxyType

from policies.base import InFlight, Outcome, Placement, Policy, ServerView, View, Waiting
from policies.held import SPARE, Held
from telemetry.snapshot import UNKNOWN, Snapshot


@dataclass(frozen=True, slots=True)
class Leaving:
    """One request on its way out: where to, why now, and how long each of its waits was."""

    waiting: Waiting
    server: str
    outcome: Outcome
    held_s: float
    queued_s: float


@dataclass(frozen=True, slots=True)
class Tick:
    """What one tick decided: who leaves, who waited too long for a slot, when to tick again, what went wrong."""

    leaving: Sequence[Leaving] = ()
    expired: Sequence[Waiting] = ()
    wake_at: float | None = None
    fault: Exception | None = None


@dataclass(frozen=True, slots=True)
class _Ready:
    """Released from its hold, waiting for a slot."""

    waiting: Waiting
    outcome: Outcome
    since: float


_Turn = tuple[int, int, _Ready]  # -priority, order of readiness


@dataclass(slots=True)
class _Server:
    slots: int | None
    healthy: bool = True
    in_flight: int = 0
    tokens: int = 0


@dataclass(slots=True)
class Room:
    """One pool of servers that can serve the same requests, and everybody who waits for one of them.

    Attributes:
        servers: slots of each server by its name; None is no limit.
        queue_limit: most requests waiting, held and ready together; one more is rejected.
        queue_timeout_s: longest capacity wait.
    """

    policy: Policy
    placement: Placement
    servers: Mapping[str, int | None]
    queue_limit: int = 100_000
    queue_timeout_s: float = inf
    draining: bool = False
    telemetry: Snapshot = UNKNOWN
    _held: Held = field(default_factory=Held)
    _ready: dict[str, _Ready] = field(default_factory=dict)
    _turns: list[_Turn] = field(default_factory=list)  # heap; some in it are gone
    _timeouts: deque[tuple[float, _Ready]] = field(default_factory=deque)
    _order: int = 0
    _in_flight: dict[str, InFlight] = field(default_factory=dict)
    _servers: dict[str, _Server] = field(init=False)
    _memory: object = None

    def __post_init__(self) -> None:
        self._servers = {name: _Server(slots) for name, slots in self.servers.items()}

    def __repr__(self) -> str:
        return f"<Room: {len(self._held)} held, {len(self._ready)} ready, {len(self._in_flight)} in flight>"

    # --- what happens -------------------------------------------------------------------------------------------

    def admit(self, waiting: Waiting) -> bool:
        """Let a request in; False (`Outcome.REJECTED`) when the queue is full.

        Raises:
            ValueError: the id is already in the room.
        """
        if waiting.id in self._held or waiting.id in self._ready or waiting.id in self._in_flight:
            raise ValueError(f"request {waiting.id!r} is already in the room")
        if len(self._held) + len(self._ready) >= self.queue_limit:
            return False
        self._held.add(waiting)
        return True

    def cancel(self, id: str) -> bool:
        """Its client left while it waited (`Outcome.CANCELLED`); False if it does not wait."""
        return self._held.remove(id) is not None or self._ready.pop(id, None) is not None

    def first_token(self, id: str, now: float) -> None:
        """The engine has begun to answer."""
        flight = self._in_flight.get(id)
        if flight is not None and flight.first_token_at is None:
            self._in_flight[id] = replace(flight, first_token_at=now)

    def ended(self, id: str) -> None:
        """The upstream response ended, however: its slot is free."""
        flight = self._in_flight.pop(id, None)
        if flight is not None:
            server = self._servers[flight.server]
            server.in_flight -= 1
            server.tokens -= _tokens(flight.waiting)

    def use(self, policy: Policy, placement: Placement) -> None:
        """Another strategy rules from the next tick on; it remembers nothing of the former one."""
        self.policy, self.placement, self._memory = policy, placement, None

    def set_slots(self, server: str, slots: int | None) -> None:
        self._servers[server].slots = slots

    def set_health(self, server: str, *, healthy: bool) -> None:
        """Whether requests may leave to a server; those in flight there are not touched."""
        self._servers[server].healthy = healthy

    # --- what is decided ----------------------------------------------------------------------------------------

    def tick(self, now: float, wall_s: float = 0.0) -> Tick:
        """Everything of this instant has been applied: who leaves now, and when to ask again."""
        wake_at, fault = self._end_holds(now, wall_s)
        leaving, placement_fault = self._assign(now, wall_s)
        expired = [self._ready.pop(id).waiting for id in self._overdue(now)]
        wakes = [
            at for at in (wake_at, self._held.earliest_deadline, self._next_timeout()) if at is not None and now < at < inf
        ]
        return Tick(leaving, expired, min(wakes, default=None), fault or placement_fault)

    def _end_holds(self, now: float, wall_s: float) -> tuple[float | None, Exception | None]:
        """Move from held to ready whom the policy, a deadline, a fault or the drain lets go."""
        if not len(self._held):
            return None, None
        if self.draining:
            self._release([w.id for w in self._held], Outcome.DRAINED, now)
            return None, None
        try:
            decision = self.policy.decide(self.view(now, wall_s), self._memory)
            self._release([id for id in decision.release if id in self._held], Outcome.POLICY, now)
            self._memory = decision.memory
            wake_at = None if decision.wake_at is None else float(decision.wake_at)
        except Exception as fault:  # a policy may be anybody's code; whatever it does, requests leave
            self._release([w.id for w in self._held], Outcome.FAULT, now)
            return None, fault
        for id in self._held.due(now):
            self._release([id], Outcome.DEADLINE, now)
        return wake_at, None

    def _release(self, ids: Sequence[str], outcome: Outcome, now: float) -> None:
        for id in ids:
            waiting = self._held.remove(id)
            if waiting is None:
                continue  # named twice
            ready = self._ready[id] = _Ready(waiting, outcome, now)
            self._order += 1
            heappush(self._turns, (-waiting.priority, self._order, ready))
            self._timeouts.append((now + self.queue_timeout_s, ready))
        if max(len(self._turns), len(self._timeouts)) > 2 * len(self._ready) + SPARE:
            self._forget_gone()

    def _forget_gone(self) -> None:
        """Else who gave up is remembered while slots are short."""
        self._turns = [turn for turn in self._turns if self._waits(turn[2])]
        heapify(self._turns)
        self._timeouts = deque(timeout for timeout in self._timeouts if self._waits(timeout[1]))

    def _assign(self, now: float, wall_s: float) -> tuple[list[Leaving], Exception | None]:
        """Give slots to the ready, in order of priority and then of readiness."""
        leaving: list[Leaving] = []
        fault: Exception | None = None
        while self._ready:
            free = sum(server.free for server in self.server_views())
            group = self._take_turns(free)
            if not group:
                break
            try:
                planned = self.placement.place([turn[2].waiting for turn in group], self.view(now, wall_s))
                plan = {id: str(server) for id, server in planned.assignments.items()}
            except Exception as error:  # as with a policy: the request matters, not the code that failed
                fault, plan = error, {}
            gone = [self._leave(turn[2], server, now) for turn in group if (server := self._seat(turn[2], plan, fault))]
            leaving += gone
            for turn in group:
                if self._waits(turn[2]):
                    heappush(self._turns, turn)
            if not gone or fault:
                break
        return leaving, fault

    def _take_turns(self, free: float) -> list[_Turn]:
        group: list[_Turn] = []
        while self._turns and len(group) < free:
            turn = heappop(self._turns)
            if self._waits(turn[2]):
                group.append(turn)
        return group

    def _waits(self, ready: _Ready) -> bool:
        # not by its id, which may have come back
        return self._ready.get(ready.waiting.id) is ready

    def _seat(self, ready: _Ready, plan: Mapping[str, str], fault: Exception | None) -> str | None:
        """The server that a request leaves to: the planned one if it has a slot, any free one after a fault."""
        planned = plan.get(ready.waiting.id)
        if planned in self._servers and self._server_view(planned).free >= 1:
            return planned
        if fault is None:
            return None
        return next((server.name for server in self.server_views() if server.free >= 1), None)

    def _leave(self, ready: _Ready, server: str, now: float) -> Leaving:
        waiting = ready.waiting
        del self._ready[waiting.id]
        self._in_flight[waiting.id] = InFlight(waiting, server, now)
        self._servers[server].in_flight += 1
        self._servers[server].tokens += _tokens(waiting)
        return Leaving(waiting, server, ready.outcome, ready.since - waiting.arrived_at, now - ready.since)

    def _overdue(self, now: float) -> Iterator[str]:
        while self._next_timeout() <= now:
            yield self._timeouts.popleft()[1].waiting.id

    def _next_timeout(self) -> float:
        while self._timeouts and not self._waits(self._timeouts[0][1]):
            self._timeouts.popleft()
        return self._timeouts[0][0] if self._timeouts else inf

    # --- what can be seen ---------------------------------------------------------------------------------------

    def view(self, now: float, wall_s: float = 0.0) -> View:
        return View(now, wall_s, self._held, MappingProxyType(self._in_flight), self.server_views(), self.telemetry)

    def server_views(self) -> tuple[ServerView, ...]:
        return tuple(self._server_view(name) for name in self._servers)

    def _server_view(self, name: str) -> ServerView:
        server = self._servers[name]
        return ServerView(name, server.in_flight, server.tokens, server.slots, server.healthy)

    @property
    def held(self) -> int:
        return len(self._held)

    @property
    def ready(self) -> int:
        return len(self._ready)

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)


def _tokens(waiting: Waiting) -> int:
    return waiting.prompt_tokens + waiting.max_new_tokens
