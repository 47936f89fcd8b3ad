"""Shadow mode: what other strategies would have done with the live arrivals, and what the one in force saves.

Here, on the event loop, is only noted who left when and ended how; `proxy/comparing.py` does the rest in a thread. How long
an answer is becomes known when it ends, so shadows are behind the present by as long as the oldest open request is old. One
that has been with its server for `shadow.lag_s` is not waited for: it is taken to be as long as its like.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Concatenate, ParamSpec

from policies.base import Action, ServerState, Waiting
from policies.lived import STRAIGHT, Lived, Tended
from policies.strategy import Strategy
from proxy.breaker import Circuit
from proxy.comparing import Batch, Comparing
from proxy.config import Config
from proxy.decisions import Decisions
from proxy.fleet import Fleet, Pool
from telemetry.cost import StepModel
from telemetry.ledger import Entry, Ledger
from telemetry.tally import Distribution

log = logging.getLogger("paceline.shadow")

P = ParamSpec("P")

EVERY_S = 1.0
MARGIN_S = 0.25  # a request may be noted so much later than it came: its body is read first
MOST_NOTED = 20_000  # requests that wait for the thread; then all are left out, and rooms begin anew


def harmless(do: Callable[Concatenate[Shadows, P], None]) -> Callable[Concatenate[Shadows, P], None]:
    """Whatever it raises switches shadows off, and nothing else: requests are on their way here."""

    @wraps(do)
    def done(self: Shadows, /, *args: P.args, **options: P.kwargs) -> None:
        try:
            do(self, *args, **options)
        except Exception as error:
            self.comparing.failed(error)

    return done


@dataclass(slots=True)
class _Noted:
    """What happened to one pool's requests, and has not been handed over."""

    lived: list[Lived] = field(default_factory=list)
    tended: list[Tended] = field(default_factory=list)
    afresh: bool = False
    until: float = 0.0


@dataclass(slots=True)
class Shadows:
    """Notes what happens and hands it to the thread, once a second while that is not busy.

    Attributes:
        waits: gives where a strategy's waits are counted.
    """

    config: Config
    fleet: Fleet
    ledger: Ledger
    model: StepModel
    waits: Callable[[str], Distribution]
    clock: Callable[[], float] = time.monotonic
    comparing: Comparing = field(init=False)
    left_out: int = 0
    guessed: int = 0
    strategies: dict[str, Strategy] = field(default_factory=dict)
    _open: dict[str, Waiting] = field(default_factory=dict)  # that have left to a server
    _given: set[str] = field(default_factory=set)  # open, and not waited for
    _noted: dict[str, _Noted] = field(default_factory=dict)  # by pool
    _asleep: set[str] = field(default_factory=set)  # servers, at the last look
    _decisions: Decisions | None = None
    _logging: tuple[str | None, int] = (None, 0)

    def __post_init__(self) -> None:
        self.comparing = Comparing(self.model, self.config.shadow.share)
        self.use(self.config)

    @harmless
    def use(self, config: Config) -> None:
        """Another configuration is in force."""
        self.config = config
        self.strategies = {shadow.name: shadow.strategy() for shadow in config.shadow.strategies}
        file, most_bytes, former = config.shadow.log, config.shadow.log_bytes, self._decisions
        if (file, most_bytes) != self._logging:
            self._decisions, self._logging = Decisions(file, most_bytes) if file is not None else None, (file, most_bytes)
            self.comparing.on_decision = self._decisions.told if self._decisions is not None else None
            if former is not None:
                former.close()

    @property
    def on(self) -> bool:
        return self.config.shadow.on and not self.comparing.fault

    # --- what happens, on the way of requests: microseconds ------------------------------------------------------

    @harmless
    def released(self, entry: Entry) -> None:
        """A request leaves to a server, perhaps not for the first time."""
        pool = self._pool(entry.server)
        flight = pool.scheduler.room.view(self.clock()).in_flight.get(entry.id) if pool is not None else None
        if flight is None:
            return
        if entry.slack_s is None:
            entry.slack_s = max(flight.waiting.deadline - flight.waiting.arrived_at, 0.0)
        if self.on:
            self._open.setdefault(entry.id, flight.waiting)

    @harmless
    def ended(self, entry: Entry) -> None:
        """A request has ended, however."""
        waiting = self._open.pop(entry.id, None)
        if entry.id in self._given:
            self._given.discard(entry.id)
        elif waiting is not None and self.on:
            self._note(entry, waiting, entry.output_tokens)

    def _note(self, entry: Entry, waiting: Waiting, output_tokens: int) -> None:
        pool = self._pool(entry.server)
        if pool is None or entry.released_at is None or output_tokens < 1:
            self.left_out += 1  # what it cost its server nobody knows
            return
        where = (entry.released_at, entry.server, entry.policy, entry.ttft_s)
        self._of(pool.name).lived.append(Lived(waiting, entry.prompt_tokens, output_tokens, *where))

    # --- once a second ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            self.look()

    @harmless
    def look(self) -> None:
        """Hand over what is known, if there is anything and the thread has time."""
        if not self.on:
            self._noted.clear()
            return
        if sum(len(noted.lived) for noted in self._noted.values()) > MOST_NOTED:
            self._leave_out()
        self._see_sleepers()
        if self.comparing.busy or not self.fleet.pools:
            return
        self._noted = {name: noted for name, noted in self._noted.items() if name in self.fleet.pools}
        until = self._known_until(self.clock())
        batches = [self._batch(pool, until) for pool in self.fleet.pools.values() if self._due(pool)]
        if batches:
            self.comparing.share = self.config.shadow.share
            self.comparing.put(batches)

    def _see_sleepers(self) -> None:
        """Who has fallen asleep or has not stayed so: what servers are counts, not what they were told."""
        for pool in self.fleet.pools.values():
            for view in pool.scheduler.room.server_views():
                asleep = view.state is ServerState.ASLEEP
                if asleep != (view.name in self._asleep):
                    (self._asleep.add if asleep else self._asleep.discard)(view.name)
                    action = Action.SLEEP if asleep else Action.WAKE
                    self._of(pool.name).tended.append(Tended(self.clock(), view.name, action))

    def _due(self, pool: Pool) -> bool:
        """A pool that has seen a request. (Engines at rest are the same to all strategies.)"""
        return pool.name in self._noted

    def _known_until(self, now: float) -> float:
        """Of everybody who came before this, all is known or guessed."""
        for entry in self.ledger.open_entries():
            if entry.id in self._given:
                continue
            if entry.released_at is None or now - entry.released_at <= self.config.shadow.lag_s:
                return min(entry.arrived_at - 1e-6, now - MARGIN_S)
            self._guess(entry)
        return now - MARGIN_S

    def _guess(self, entry: Entry) -> None:
        waiting = self._open.get(entry.id)
        self._given.add(entry.id)
        if waiting is not None:
            self.guessed += 1
            self._note(entry, waiting, max(entry.output_tokens, round(waiting.output_tokens * waiting.sequences), 1))

    def _batch(self, pool: Pool, until: float) -> Batch:
        noted = self._of(pool.name)
        noted.until = max(until, noted.until)
        lived, tended, afresh = noted.lived, noted.tended, noted.afresh
        noted.lived, noted.tended, noted.afresh = [], [], False
        working = [server for server in pool.servers.values() if server.breaker.circuit is Circuit.CLOSED]
        for name in (STRAIGHT, *self.strategies):
            if name not in self.comparing.waits:
                self.comparing.waits[name] = self.waits(name)
        return Batch(
            pool.name,
            {server.name: server.slots for server in working or pool.servers.values()},
            self.strategies,
            pool.scheduler.strategy.policy_name,
            lived,
            tended,
            noted.until,
            time.time() - self.clock(),
            afresh,
            self._asleep - {one.server for one in tended},
        )

    def _leave_out(self) -> None:
        """The thread does not keep up: what it has not seen it never will."""
        for noted in self._noted.values():
            self.left_out += len(noted.lived)
            noted.lived, noted.afresh = [], True
        log.warning("shadows cannot keep up within a share of %g of a core: requests are left out", self.config.shadow.share)

    def _of(self, pool: str) -> _Noted:
        return self._noted.setdefault(pool, _Noted())

    def _pool(self, server: str) -> Pool | None:
        return next((pool for pool in self.fleet.pools.values() if server in pool.servers), None)

    def close(self) -> None:
        """Forget what has not been compared. It may block for a moment."""
        self.comparing.close()
        if self._decisions is not None:
            self._decisions.close()
