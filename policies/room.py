"""The waiting room: the scheduler's whole state, without clock, loop or wire.

A request waits twice. Its *hold* is the policy's choice and is bounded by the request's own deadline. Its *capacity*
wait is the room's: it lasts while no server has a slot, is ordered by priority, then fairly among tenants
(`policies/fairness.py`), and is bounded by the queue's timeout, counted from the request's deadline: whoever agreed to be held
for an hour, and was let go after a minute, is not refused before the hour is over.
What the room guarantees, whatever a policy does:

1. Nobody is held past their deadline, and nobody leaves without a server.
2. Everybody who came ends in exactly one `Outcome`.
3. A policy that raises lets everybody go (`Outcome.FAULT`); ids it made up are ignored.
4. An instant is whole: drivers apply everything that happens at one instant, then call `tick` once.
5. No server that has work is told to sleep, and somebody who waits while none is awake wakes one.

What the room learns from who comes and ends (rates, lengths, time a token) it learns from these calls alone, so both drivers
know the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush
from math import inf
from types import MappingProxyType

from policies.base import (
    Action,
    InFlight,
    Outcome,
    Placement,
    Plan,
    Policy,
    ServerState,
    ServerView,
    Tending,
    Upkeep,
    View,
    Waiting,
)
from policies.fairness import Shares
from policies.held import SPARE, Held
from telemetry.cost import StepModel
from telemetry.lengths import Lengths
from telemetry.snapshot import UNKNOWN, Snapshot
from telemetry.traffic import Arrivals, Smoothed


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
    actions: Mapping[str, Action] = field(default_factory=dict)  # what servers shall do; the driver tells when they have


@dataclass(frozen=True, slots=True)
class _Ready:
    """Released from its hold, waiting for a slot."""

    waiting: Waiting
    outcome: Outcome
    since: float
    start: float  # in the virtual time of its priority


_Turn = tuple[int, float, int, _Ready]  # -priority, start in virtual time, order of readiness


@dataclass(slots=True)
class _Server:
    slots: int | None
    healthy: bool = True
    retired: bool = False
    state: ServerState = ServerState.AWAKE
    in_flight: int = 0
    tokens: int = 0
    empty_since: float | None = None
    tpot_s: Smoothed = field(default_factory=Smoothed)
    view: ServerView | None = None  # as it was last looked at; None once anything of it has changed


@dataclass(slots=True)
class Room:
    """One pool of servers that can serve the same requests, and everybody who waits for one of them.

    Attributes:
        servers: slots of each server by its name; None is no limit.
        queue_limit: most requests waiting, held and ready together; one more is rejected.
        queue_timeout_s: longest capacity wait beyond the deadline.
        model: what a step costs on each server, for policies that reckon with it.
        arrivals: learns how much comes.
        lengths: learns how long answers are.
    """

    policy: Policy
    placement: Placement
    servers: Mapping[str, int | None]
    queue_limit: int = 100_000
    queue_timeout_s: float = inf
    draining: bool = False
    telemetry: Snapshot = UNKNOWN
    model: StepModel | None = None
    arrivals: Arrivals = field(default_factory=Arrivals)
    lengths: Lengths = field(default_factory=Lengths)
    _held: Held = field(default_factory=Held)
    _ready: dict[str, _Ready] = field(default_factory=dict)
    _ready_sequences: int = 0
    _ready_tokens: int = 0
    _turns: list[_Turn] = field(default_factory=list)  # heap; some in it are gone
    _timeouts: list[tuple[float, int, _Ready]] = field(default_factory=list)  # heap; some in it are gone
    _shares: dict[int, Shares] = field(default_factory=lambda: defaultdict(Shares))  # by priority
    _order: int = 0
    _in_flight: dict[str, InFlight] = field(default_factory=dict)
    _servers: dict[str, _Server] = field(init=False)
    _memory: object = None
    _tending: Tending | None = None

    def __post_init__(self) -> None:
        self.use(self.policy, self.placement)
        self._servers = {name: _Server(slots) for name, slots in self.servers.items()}

    def __repr__(self) -> str:
        return f"<Room: {len(self._held)} held, {len(self._ready)} ready, {len(self._in_flight)} in flight>"

    # --- what happens -------------------------------------------------------------------------------------------

    def expects(self, tenant: str, model: str, most: int) -> float:
        """Output tokens of a sequence, as its like had them: what `admit` fills in where it is not told."""
        return self.lengths.expect(tenant, model, most)

    def admit(self, waiting: Waiting) -> bool:
        """Let a request in; False (`Outcome.REJECTED`) when the queue is full.

        Raises:
            ValueError: the id is already in the room.
        """
        if waiting.id in self._held or waiting.id in self._ready or waiting.id in self._in_flight:
            raise ValueError(f"request {waiting.id!r} is already in the room")
        if len(self._held) + len(self._ready) >= self.queue_limit:
            return False
        if not waiting.expected_tokens:
            expected = self.expects(waiting.tenant, waiting.model, waiting.max_new_tokens)
            waiting = replace(waiting, expected_tokens=expected)
        if not waiting.again:  # else it has been seen
            slack_s = waiting.deadline - waiting.arrived_at
            self.arrivals.saw(waiting.arrived_at, waiting.prompt_tokens, waiting.output_tokens, slack_s)
        self._held.add(waiting)
        return True

    def cancel(self, id: str) -> bool:
        """Its client left while it waited (`Outcome.CANCELLED`); False if it does not wait."""
        return self._held.remove(id) is not None or self._give_up(id) is not None

    def first_token(self, id: str, now: float) -> None:
        """The engine has begun to answer."""
        flight = self._in_flight.get(id)
        if flight is not None and flight.first_token_at is None:
            self._in_flight[id] = replace(flight, first_token_at=now)

    def ended(self, id: str, now: float, output_tokens: int | None = None) -> None:
        """The upstream response ended, however: its slot is free.

        Args:
            id: whose.
            now: monotonic seconds.
            output_tokens: of all its sequences, if it came to its end; None: it did not, and says nothing of its like.
        """
        flight = self._in_flight.pop(id, None)
        if flight is None:
            return
        server, waiting = self._servers[flight.server], flight.waiting
        server.in_flight -= waiting.sequences
        server.tokens -= waiting.tokens
        server.view = None
        if output_tokens is not None:
            self._learn(flight, server, now, output_tokens // waiting.sequences)
        if not server.in_flight:
            server.empty_since = now
            server.tpot_s.forget()  # an empty server is as fast as it can be
            if server.retired:
                del self._servers[flight.server]

    def _learn(self, flight: InFlight, server: _Server, now: float, tokens_each: int) -> None:
        self.lengths.saw(flight.waiting.tenant, flight.waiting.model, tokens_each)
        if flight.first_token_at is not None and tokens_each > 1:
            server.tpot_s.saw((now - flight.first_token_at) / (tokens_each - 1))

    def use(self, policy: Policy, placement: Placement) -> None:
        """Another strategy rules from the next tick on; it remembers nothing of the former one."""
        self.policy, self.placement, self._memory = policy, placement, None
        self._tending = placement if isinstance(placement, Tending) else None

    def set_slots(self, server: str, slots: int | None) -> None:
        self._servers[server].slots = slots
        self._servers[server].view = None

    def set_health(self, server: str, *, healthy: bool) -> None:
        """Whether requests may leave to a server; those in flight there are not touched."""
        self._servers[server].healthy = healthy
        self._servers[server].view = None

    def set_state(self, server: str, state: ServerState) -> None:
        """What a server has become: what it was told to, or of itself."""
        if server in self._servers:
            changed = self._servers[server]
            if state is ServerState.AWAKE and changed.state is not state:
                changed.empty_since = None  # awake anew: how long it has been empty begins anew, at the next tick
            changed.state = state
            changed.view = None

    def add_server(self, server: str, slots: int | None) -> None:
        """One more server, or one that was retired and comes back before its last request has ended."""
        if server in self._servers:
            self._servers[server].retired = False
            self.set_slots(server, slots)
        else:
            self._servers[server] = _Server(slots)

    def retire_server(self, server: str) -> None:
        """Nobody leaves to it any more; it is forgotten once what is in flight there has ended."""
        if self._servers[server].in_flight:
            self._servers[server].retired = True
        else:
            del self._servers[server]

    # --- what is decided ----------------------------------------------------------------------------------------

    def tick(self, now: float, wall_s: float = 0.0) -> Tick:
        """Everything of this instant has been applied: who leaves now, and when to ask again."""
        wake_at, fault = self._end_holds(now, wall_s)
        leaving, placement_fault = self._assign(now, wall_s)
        expired = [ready.waiting for id in self._overdue(now) if (ready := self._give_up(id))]
        upkeep, tending_fault = self._tend(now, wall_s)
        instants = (wake_at, upkeep.wake_at, self._held.earliest_deadline, self._next_timeout())
        wakes = [at for at in instants if at is not None and now < at < inf]
        return Tick(leaving, expired, min(wakes, default=None), fault or placement_fault or tending_fault, upkeep.actions)

    @property
    def tends(self) -> bool:
        """Whether there is something to decide even while nobody waits."""
        return self._tending is not None or any(s.state is not ServerState.AWAKE for s in self._servers.values())

    def _tend(self, now: float, wall_s: float) -> tuple[Upkeep, Exception | None]:
        """What servers shall do: what the placement wants, as far as it harms nobody."""
        wanted, fault = Upkeep(), None
        if not self.tends:
            return wanted, None
        self._note_empty(now)
        if self._tending is not None:
            try:
                asked = self._tending.tend(self.view(now, wall_s))
                actions = {str(name): Action(action) for name, action in asked.actions.items()}
                wanted = Upkeep(actions, None if asked.wake_at is None else float(asked.wake_at))
            except Exception as error:  # as with a policy
                fault = error
        actions = {name: action for name, action in wanted.actions.items() if self._may(name, action)}
        for name, action in actions.items():
            self.set_state(name, ServerState.FALLING_ASLEEP if action is Action.SLEEP else ServerState.WAKING)
        actions |= dict.fromkeys(self._needed(), Action.WAKE)
        return Upkeep(actions, wanted.wake_at), fault

    def _note_empty(self, now: float) -> None:
        """Those that nobody has been to yet, or since they woke, are empty from now on."""
        for server in self._servers.values():
            if not server.in_flight and server.empty_since is None:
                server.empty_since, server.view = now, None

    def _may(self, name: str, action: Action) -> bool:
        server = self._servers.get(name)
        if server is None or server.retired:
            return False
        if action is Action.WAKE:
            return server.state is ServerState.ASLEEP
        bound = any(ready.waiting.server == name for ready in self._ready.values())
        # who drains may be a group that has gone, whose servers are another's now
        return server.state is ServerState.AWAKE and not server.in_flight and not bound and not self.draining

    def _needed(self) -> list[str]:
        """Sleepers to wake whatever the placement says: all if it tends none, whose work somebody waits for, else one."""
        servers = {name: server for name, server in self._servers.items() if server.healthy and not server.retired}
        asleep = [name for name, server in servers.items() if server.state is ServerState.ASLEEP]
        bound = {ready.waiting.server for ready in self._ready.values()}
        woken = [name for name in asleep if self._tending is None or name in bound]
        usable = (ServerState.AWAKE, ServerState.WAKING)
        if self._ready and not woken and not any(server.state in usable for server in servers.values()):
            woken = asleep[:1]
        for name in woken:
            self.set_state(name, ServerState.WAKING)
        return woken

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
            ready = self._ready[id] = _Ready(waiting, outcome, now, self._shares[waiting.priority].start(waiting))
            self._count_ready(waiting, 1)
            self._order += 1
            heappush(self._turns, (-waiting.priority, ready.start, self._order, ready))
            heappush(self._timeouts, (max(now, waiting.deadline) + self.queue_timeout_s, self._order, ready))
        if max(len(self._turns), len(self._timeouts)) > 2 * len(self._ready) + SPARE:
            self._forget_gone()

    def _give_up(self, id: str) -> _Ready | None:
        """One of the ready leaves without a slot."""
        ready = self._ready.pop(id, None)
        if ready is not None:
            self._count_ready(ready.waiting, -1)
            self._shares[ready.waiting.priority].gave_up(ready.waiting)
        return ready

    def _count_ready(self, waiting: Waiting, change: int) -> None:
        self._ready_sequences += change * waiting.sequences
        self._ready_tokens += change * waiting.tokens

    def _forget_gone(self) -> None:
        """Else who gave up is remembered while slots are short."""
        self._turns = [turn for turn in self._turns if self._waits(turn[3])]
        heapify(self._turns)
        self._timeouts = [timeout for timeout in self._timeouts if self._waits(timeout[2])]
        heapify(self._timeouts)

    def _assign(self, now: float, wall_s: float) -> tuple[list[Leaving], Exception | None]:
        """Give slots to the ready, by priority, then fairly among tenants, then by readiness."""
        leaving: list[Leaving] = []
        aside: list[_Turn] = []  # whose only server is busy: others need not wait for that
        fault: Exception | None = None
        while self._ready:
            group = self._take_turns(sum(server.free for server in self.server_views()))
            if not group:
                break
            try:
                # who may go to one server only is no question to a placement
                free_to_go = [turn[3].waiting for turn in group if not self._bound(turn[3].waiting)]
                planned = self.placement.place(free_to_go, self.view(now, wall_s)) if free_to_go else Plan()
                plan = {id: str(server) for id, server in planned.assignments.items()}
            except Exception as error:  # as with a policy: the request matters, not the code that failed
                fault, plan = error, {}
            gone = self._seat_all(group, plan, now, fault)
            leaving += gone
            stuck = [turn for turn in group if self._waits(turn[3])]
            bound = len(aside)
            for turn in stuck:
                if self._bound(turn[3].waiting):
                    aside.append(turn)
                else:
                    heappush(self._turns, turn)
            if fault or not (gone or len(aside) > bound):
                break
        for turn in aside:
            heappush(self._turns, turn)
        if not self._ready:
            self._shares.clear()  # nobody waits, so nobody has a share to make up for
        return leaving, fault

    def _take_turns(self, free: float) -> list[_Turn]:
        """Who is next for `free` slots, one more if the last needs several."""
        group: list[_Turn] = []
        while self._turns and free > 0:
            turn = heappop(self._turns)
            if self._waits(turn[3]):
                group.append(turn)
                free -= turn[3].waiting.sequences
        return group

    def _seat_all(self, group: Sequence[_Turn], plan: Mapping[str, str], now: float, fault: Exception | None) -> list[Leaving]:
        """Who leaves. Nobody overtakes one that needs several slots, else it would wait for as long as others come."""
        gone = []
        for turn in group:
            ready = turn[3]
            server = self._seat(ready, plan, fault)
            if server is not None:
                gone.append(self._leave(ready, server, now))
            elif ready.waiting.sequences > 1 and not self._bound(ready.waiting):
                break
        return gone

    def _bound(self, waiting: Waiting) -> bool:
        """Whether one server only can serve it, and is still there."""
        return waiting.server in self._servers and not self._servers[waiting.server].retired

    def _waits(self, ready: _Ready) -> bool:
        # not by its id, which may have come back
        return self._ready.get(ready.waiting.id) is ready

    def _seat(self, ready: _Ready, plan: Mapping[str, str], fault: Exception | None) -> str | None:
        """The server that a request leaves to: the planned one if it has a slot, any free one after a fault."""
        waiting = ready.waiting
        planned = waiting.server if self._bound(waiting) else plan.get(waiting.id)
        if planned in self._servers and (server := self._server_view(planned)).takes(waiting, server.free):
            return planned
        if fault is None or self._bound(waiting):
            return None
        return next((server.name for server in self.server_views() if server.takes(waiting, server.free)), None)

    def _leave(self, ready: _Ready, server: str, now: float) -> Leaving:
        waiting = ready.waiting
        del self._ready[waiting.id]
        self._count_ready(waiting, -1)
        self._in_flight[waiting.id] = InFlight(waiting, server, now)
        taken = self._servers[server]
        taken.in_flight += waiting.sequences
        taken.empty_since = None
        taken.view = None
        self._shares[waiting.priority].left(ready.start)
        taken.tokens += waiting.tokens
        return Leaving(waiting, server, ready.outcome, ready.since - waiting.arrived_at, now - ready.since)

    def _overdue(self, now: float) -> Iterator[str]:
        while self._next_timeout() <= now:
            yield heappop(self._timeouts)[2].waiting.id

    def _next_timeout(self) -> float:
        while self._timeouts and not self._waits(self._timeouts[0][2]):
            heappop(self._timeouts)
        return self._timeouts[0][0] if self._timeouts else inf

    # --- what can be seen ---------------------------------------------------------------------------------------

    def view(self, now: float, wall_s: float = 0.0) -> View:
        in_flight = MappingProxyType(self._in_flight)
        traffic = self.arrivals.at(now)
        ready = self._ready_sequences, self._ready_tokens
        return View(now, wall_s, self._held, in_flight, self.server_views(), self.telemetry, self.model, traffic, *ready)

    def server_views(self) -> tuple[ServerView, ...]:
        return tuple(self._server_view(name) for name, server in self._servers.items() if not server.retired)

    def _server_view(self, name: str) -> ServerView:
        server = self._servers[name]
        if server.view is None:
            server.view = ServerView(
                name,
                server.in_flight,
                server.tokens,
                server.slots,
                server.healthy,
                server.state,
                server.empty_since,
                server.tpot_s.value,
            )
        return server.view

    @property
    def held(self) -> int:
        return len(self._held)

    @property
    def ready(self) -> int:
        return len(self._ready)

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)
