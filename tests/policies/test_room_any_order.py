"""What the room promises, whatever happens in whatever order and whoever decides."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, nan
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from policies.base import Decision, Outcome, Placement, Plan, Policy, View, Waiting
from policies.pack import Pack
from policies.passthrough import Passthrough
from policies.room import Room, Tick
from policies.size import Size
from policies.span import Span
from policies.spread import Spread
from policies.window import Window

SERVERS = ("a", "b")
TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Wild:
    """A policy that does whatever a policy can do wrong; what it does depends on its seed and the instant only."""

    seed: int

    def decide(self, view: View, memory: object) -> Any:
        dice = random.Random(f"{self.seed} {view.now}")
        if dice.random() < 0.15:
            raise RuntimeError("as policies do")
        ids = [waiting.id for waiting in view.waiting]
        release: list[Any] = dice.sample(ids, dice.randint(0, len(ids))) + dice.choices(
            [*ids, "made up", 7], k=dice.randint(0, 3)
        )
        wake_at = dice.choice([None, view.now - 1, view.now, view.now + 0.5, view.now + 100, -inf, inf, nan, "soon", []])
        return dice.choice(
            [Decision(release, wake_at, dice.random())] * 8 + [None, Decision(release=[[]]), Decision(release=None)]
        )


@dataclass(frozen=True)
class WildPlacement:
    """A placement that names too many, too few, servers that do not exist and things that are no server."""

    seed: int

    def place(self, group: Sequence[Waiting], view: View) -> Any:
        dice = random.Random(f"{self.seed} {view.now}")
        if dice.random() < 0.15:
            raise RuntimeError("as placements do")
        names: list[Any] = [*SERVERS, *SERVERS, "nowhere", None, []]
        plan = {waiting.id: dice.choice(names) for waiting in group if dice.random() < 0.8} | {"made up": "a"}
        return dice.choice([Plan(plan)] * 8 + [None, Plan(None)])  # type: ignore[arg-type]


seeds = st.integers(0, 1000)
policies = st.one_of(seeds.map(Wild), seeds.map(Wild), st.sampled_from([Passthrough(), Size(3, 1.0), Span(), Window(1.0)]))
placements = st.one_of(seeds.map(WildPlacement), st.sampled_from([Spread(), Pack(2)]))
quarters = st.integers(0, 12).map(lambda n: n / 4)


class AnyOrder(RuleBasedStateMachine):
    """Drives a room and keeps the books that the room must agree with."""

    @initialize(policy=policies, placement=placements, slots=st.sampled_from([1, 2, 3, None]), limit=st.sampled_from([4, 100]))
    def open(self, policy: Policy, placement: Placement, slots: int | None, limit: int) -> None:
        self.now = 0.0
        self.room = Room(policy, placement, dict.fromkeys(SERVERS, slots), queue_limit=limit, queue_timeout_s=TIMEOUT_S)
        self.slots: dict[str, int | None] = dict.fromkeys(SERVERS, slots)
        self.limit = limit
        self.waiting: dict[str, Waiting] = {}
        self.in_flight: dict[str, str] = {}
        self.gone: list[str] = []
        self.outcomes: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        self.admitted = 0

    @rule(
        slack=quarters,
        priority=st.integers(-1, 2),
        tokens=st.integers(1, 50),
        again=st.booleans(),
        tenant=st.sampled_from(["", "red", "blue"]),
        sequences=st.sampled_from([1, 1, 1, 2, 5]),
        server=st.sampled_from(["", "", "", *SERVERS, "nowhere"]),
    )
    def admit(self, slack: float, priority: int, tokens: int, again: bool, tenant: str, sequences: int, server: str) -> None:
        id = self.gone.pop() if again and self.gone else f"r{self.admitted}"
        self.admitted += 1
        waiting = Waiting(
            *(id, self.now, self.now + slack, tokens, 2 * tokens),
            priority=priority,
            tenant=tenant,
            sequences=sequences,
            server=server,
            weight=1.0 + tokens % 3,
            expected_tokens=1.5 * tokens,
        )
        full = len(self.waiting) >= self.limit
        assert self.room.admit(waiting) is not full
        if full:
            self.outcomes[Outcome.REJECTED] += 1
        else:
            self.waiting[id] = waiting

    @precondition(lambda self: self.waiting or self.in_flight)
    @rule(data=st.data())
    def admit_twice(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from([*self.waiting, *self.in_flight]))
        with pytest.raises(ValueError, match="already in the room"):
            self.room.admit(Waiting(id, self.now, self.now, 1, 1))

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from([*self.waiting, *self.in_flight, "made up"]))
        assert self.room.cancel(id) is (id in self.waiting)
        if self.waiting.pop(id, None):
            self.outcomes[Outcome.CANCELLED] += 1
            self.gone.append(id)

    @rule(data=st.data())
    def first_token(self, data: st.DataObject) -> None:
        self.room.first_token(data.draw(st.sampled_from([*self.waiting, *self.in_flight, "made up"])), self.now)

    @rule(data=st.data())
    def ended(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from([*self.waiting, *self.in_flight, "made up"]))
        self.room.ended(id, self.now)
        if self.in_flight.pop(id, None):
            self.gone.append(id)

    @rule(policy=policies, placement=placements)
    def use(self, policy: Policy, placement: Placement) -> None:
        self.room.use(policy, placement)

    @rule(server=st.sampled_from(SERVERS), slots=st.sampled_from([0, 1, 2, None]))
    def set_slots(self, server: str, slots: int | None) -> None:
        self.room.set_slots(server, slots)
        self.slots[server] = slots

    @rule(begin=st.booleans())
    def drain(self, begin: bool) -> None:
        self.room.draining = begin

    @rule(seconds=quarters)
    def tick(self, seconds: float) -> None:
        self.now += seconds
        before = dict.fromkeys(SERVERS, 0)
        for id, server in self.in_flight.items():
            before[server] += self.room._in_flight[id].waiting.sequences
        tick = self.room.tick(self.now, 1e9 + self.now)
        self._leave(tick, before)
        for waiting in tick.expired:
            assert self.waiting.pop(waiting.id) is waiting
            assert self.now - waiting.arrived_at >= TIMEOUT_S
            self.outcomes[Outcome.EXPIRED] += 1
            self.gone.append(waiting.id)
        self._after(tick)

    def _leave(self, tick: Tick, count: dict[str, int]) -> None:
        for leaving in tick.leaving:
            waiting = self.waiting.pop(leaving.waiting.id)
            assert leaving.waiting is waiting
            assert leaving.outcome in (Outcome.POLICY, Outcome.DEADLINE, Outcome.FAULT, Outcome.DRAINED)
            slots = self.slots[leaving.server]
            # within the slots, or alone on a server that is smaller than itself
            count[leaving.server] += waiting.sequences
            assert slots is None or slots > 0
            assert slots is None or count[leaving.server] <= max(slots, waiting.sequences)
            assert waiting.server not in SERVERS or leaving.server == waiting.server
            assert leaving.held_s >= 0
            assert leaving.queued_s >= 0
            assert leaving.held_s + leaving.queued_s == self.now - waiting.arrived_at
            self.in_flight[waiting.id] = leaving.server
            self.outcomes[leaving.outcome] += 1

    def _after(self, tick: Tick) -> None:
        """Nobody is held past a deadline, nobody waits past the timeout, and the room asks to be woken in time for both."""
        view = self.room.view(self.now)
        assert view.waiting.earliest_deadline > self.now
        timeouts = [max(ready.since, ready.waiting.deadline) + TIMEOUT_S for ready in self.room._ready.values()]
        assert all(at > self.now for at in timeouts)
        assert not (self.room.draining and self.room.held)
        next_at = min([view.waiting.earliest_deadline, *timeouts])
        assert tick.wake_at is None or self.now < tick.wake_at < inf
        assert next_at == inf or (tick.wake_at is not None and tick.wake_at <= next_at)

    @invariant()
    def books_agree(self) -> None:
        held = {waiting.id: waiting for waiting in self.room._held}
        ready = set(self.room._ready)
        assert not held.keys() & ready
        assert held.keys() | ready == self.waiting.keys()
        assert (self.room.held, self.room.ready) == (len(held), len(ready))
        assert self.room._in_flight.keys() == self.in_flight.keys()
        queue = self.room.view(self.now).waiting
        assert queue.prompt_tokens == sum(waiting.prompt_tokens for waiting in held.values())
        assert queue.max_new_tokens == sum(waiting.max_new_tokens for waiting in held.values())
        assert queue.earliest_deadline == min((waiting.deadline for waiting in held.values()), default=inf)
        assert queue.oldest_arrival == min((waiting.arrived_at for waiting in held.values()), default=inf)
        for server in self.room.server_views():
            flights = [flight.waiting for id, flight in self.room._in_flight.items() if self.in_flight[id] == server.name]
            assert server.in_flight == sum(waiting.sequences for waiting in flights)
            assert server.tokens == sum(waiting.prompt_tokens + waiting.max_new_tokens for waiting in flights)

    def teardown(self) -> None:
        """Whatever happened, a sane strategy and free servers empty the room, and everybody has one outcome."""
        if not hasattr(self, "room"):
            return
        self.use(Passthrough(), Spread())
        for server in SERVERS:
            self.set_slots(server, None)
        self.tick(0.25)
        assert not self.waiting
        for id in list(self.in_flight):
            self.room.ended(id, self.now)
        assert (self.room.held, self.room.ready, self.room.in_flight) == (0, 0, 0)
        assert all((server.in_flight, server.tokens) == (0, 0) for server in self.room.server_views())
        assert sum(self.outcomes.values()) == self.admitted


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
