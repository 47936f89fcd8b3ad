"""The live driver of the room: requests await their turn here, and one callback on the loop decides for all."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from policies.base import Action, Outcome, ServerState, Waiting
from policies.room import Leaving, Room, Tick
from policies.strategy import Strategy
from telemetry.snapshot import Snapshot

log = logging.getLogger("paceline.scheduler")

FAULT_LOG_EVERY_S = 60.0


class Refused(Exception):
    """A request that gets no turn: `outcome` says why (rejected, expired, drained, fault)."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.value)
        self.outcome = outcome


@dataclass(slots=True)
class Scheduler:
    """Admits, wakes, and tells the room what happens. Everything runs on one event loop, so nothing is locked.

    Attributes:
        room: whose decisions are carried out.
        strategy: what the room follows, by its names.
        clock: monotonic seconds; finer than uvloop's, whose `time()` counts milliseconds.
        wall: seconds since the epoch, for hours of the day and the blocks of experiments.
        on_outcome: told each outcome.
        on_group: told how many left together.
        on_fault: told that a policy or a placement raised.
        on_tick: told how many seconds a decision for all took.
        on_action: told what a server shall do.
    """

    room: Room
    strategy: Strategy
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    on_outcome: Callable[[Outcome], None] = lambda outcome: None
    on_group: Callable[[int], None] = lambda size: None
    on_fault: Callable[[], None] = lambda: None
    on_tick: Callable[[float], None] = lambda seconds: None
    on_action: Callable[[str, Action], None] = lambda server, action: None
    outcomes: dict[str, int] = field(default_factory=lambda: {outcome.value: 0 for outcome in Outcome})
    admitted: int = 0  # stays in the room that were asked for; each has, or will have, one outcome
    _turns: dict[str, asyncio.Future[Leaving]] = field(default_factory=dict)
    _ticking: bool = False
    _alarm: asyncio.TimerHandle | None = None
    _fault_logged_at: float = float("-inf")

    async def wait_turn(self, waiting: Waiting) -> Leaving:
        """Wait until the room lets this request leave, and hold its slot from then on, until `ended`.

        Raises:
            Refused: the queue is full, or no server had a slot in time.
        """
        self.admitted += 1
        if not self.room.admit(waiting):
            self._count(Outcome.REJECTED)
            raise Refused(Outcome.REJECTED)
        turn: asyncio.Future[Leaving] = asyncio.get_running_loop().create_future()
        self._turns[waiting.id] = turn
        self._touch()
        try:
            return await turn
        except asyncio.CancelledError:
            if self.room.cancel(waiting.id):
                self._count(Outcome.CANCELLED)
                self._touch()
            else:  # it was given a slot at this very instant, and has no use for it
                self.ended(waiting.id)
            raise
        finally:
            self._turns.pop(waiting.id, None)

    def reject(self) -> None:
        """A request came that gets no turn, for a reason that is not the room's."""
        self.admitted += 1
        self._count(Outcome.REJECTED)

    def first_token(self, id: str) -> None:
        self.room.first_token(id, self.clock())
        self._touch()

    def ended(self, id: str, output_tokens: int | None = None) -> None:
        """The upstream response ended: its slot is free. Tokens are told of answers that came to their end."""
        self.room.ended(id, self.clock(), output_tokens)
        self._touch()

    def set_state(self, server: str, state: ServerState) -> None:
        """A server has fallen asleep, or has woken."""
        self.room.set_state(server, state)
        self._touch()

    def observe(self, snapshot: Snapshot) -> None:
        """The meters have new readings."""
        self.room.telemetry = snapshot
        self._touch()

    def use(self, strategy: Strategy) -> None:
        """Another strategy is in force from the next tick on; nobody who waits is lost."""
        self.strategy = strategy
        self.room.use(strategy.policy, strategy.placement)
        self._touch()

    def set_server(self, server: str, *, healthy: bool, slots: int | None) -> None:
        """Whether a server may be used, and for how many sequences at once."""
        self.room.set_health(server, healthy=healthy)
        self.room.set_slots(server, slots)
        self._touch()

    def add_server(self, server: str, slots: int | None) -> None:
        self.room.add_server(server, slots)
        self._touch()

    def retire_server(self, server: str) -> None:
        self.room.retire_server(server)

    def drain(self) -> None:
        """Holds end now, and nobody is held again."""
        self.room.draining = True
        self._touch()

    def refuse_waiting(self, outcome: Outcome) -> None:
        """Whoever waits, waits no longer, and does not leave."""
        for id, turn in self._turns.items():
            if not turn.done():  # else it has its turn, or its client is gone, and is counted there
                self.room.cancel(id)
                self._count(outcome)
                turn.set_exception(Refused(outcome))

    def _touch(self) -> None:
        """Something happened: tick once this instant is over."""
        if not self._ticking and (self.room.held or self.room.ready or self.room.tends):
            self._ticking = True
            # two hops: what else is ready to run at this instant runs before the tick
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        now = self.clock()
        try:
            tick = self.room.tick(now, self.wall())
        except Exception:  # a fault of ours; nobody may wait for ever because of it
            log.exception("the waiting room failed; whoever waits is refused")
            self.refuse_waiting(Outcome.FAULT)
            return
        if tick.fault is not None:
            self._report(tick.fault, now)
        self._carry_out(tick)
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None if tick.wake_at is None else self._set_alarm(tick.wake_at)
        self.on_tick(self.clock() - now)

    def _set_alarm(self, at: float) -> asyncio.TimerHandle:
        loop = asyncio.get_running_loop()
        return loop.call_at(loop.time() + at - self.clock(), self._touch)

    def _carry_out(self, tick: Tick) -> None:
        for leaving in tick.leaving:
            self._count(leaving.outcome)
            turn = self._turns[leaving.waiting.id]
            if not turn.done():
                turn.set_result(leaving)
        for waiting in tick.expired:
            self._count(Outcome.EXPIRED)
            turn = self._turns[waiting.id]
            if not turn.done():
                turn.set_exception(Refused(Outcome.EXPIRED))
        if tick.leaving:
            self.on_group(len(tick.leaving))
        for server, action in tick.actions.items():
            self.on_action(server, action)

    def _count(self, outcome: Outcome) -> None:
        self.outcomes[outcome] += 1
        self.on_outcome(outcome)

    def _report(self, fault: Exception, now: float) -> None:
        self.on_fault()
        if now - self._fault_logged_at >= FAULT_LOG_EVERY_S:
            self._fault_logged_at = now
            log.error("policy %s raised; requests leave without it", self.strategy.policy_name, exc_info=fault)
