"""Generation: a request waits its turn, goes to a server, is timed and charged."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from policies.base import Outcome, Waiting
from policies.room import Leaving
from proxy.admission import Admission, Refusal
from proxy.agreement import PRIORITIES, session_of, slack_s, tier_of
from proxy.breaker import Circuit
from proxy.call import Call
from proxy.config import Config
from proxy.delivery import Delivery
from proxy.dialects.base import Ask
from proxy.exchange import DID_NOT_ANSWER, Busy, Exchange, NotReached, TryAgain
from proxy.fleet import Fleet, Pool
from proxy.scheduler import Refused
from proxy.wire import ENERGY, ClientGone
from telemetry.cost import StepModel
from telemetry.ledger import Entry, Ledger

NONE: frozenset[str] = frozenset()  # one for all: ten thousand may wait

log = logging.getLogger("paceline.generation")


@dataclass(slots=True)
class Counts:
    """Sums of the data port since the start, for `/status`."""

    completed: int = 0
    failed: int = 0
    retried: int = 0
    refused: int = 0  # by us, of whatever kind
    prompt_tokens: int = 0
    output_tokens: int = 0


@dataclass(slots=True)
class Generation:
    """What generation requests go through once they are let in.

    Attributes:
        on_arrival: told of each that comes, and to which pool.
        on_waiting: told of each that comes what the room will know of it.
        on_release: told of each that leaves to a server.
        on_return: told of each that its server did not take, and that waits again.
        on_end: told of each that has ended, however.
        on_retry: told why one waits again.
        delivery: those that have ended, and whose clients wait for their joules.
    """

    config: Config
    model: StepModel
    fleet: Fleet
    ledger: Ledger
    admission: Admission
    exchange: Exchange
    on_arrival: Callable[[Pool, Entry], None] = lambda pool, entry: None
    on_waiting: Callable[[Pool, Entry, Waiting], None] = lambda pool, entry, waiting: None
    on_release: Callable[[Entry], None] = lambda entry: None
    on_return: Callable[[Entry], None] = lambda entry: None
    on_end: Callable[[Entry], None] = lambda entry: None
    on_retry: Callable[[str], None] = lambda reason: None
    counts: Counts = field(default_factory=Counts)
    delivery: Delivery = field(default_factory=Delivery)

    async def run(self, call: Call, ask: Ask) -> None:
        scheduler = call.pool.scheduler
        entry = call.entry = self._entry(call, ask)
        self.ledger.open(entry)
        self.on_arrival(call.pool, entry)
        try:
            await self._in_turn(call, ask, entry)
        except Refusal as refusal:
            entry.status, entry.error = refusal.status, entry.error or refusal.kind
            raise
        except (ClientGone, TryAgain):
            raise
        except Exception:
            log.exception("request %s: a fault of ours", call.id)
            entry.status, entry.error = entry.status or 500, "fault"
            if call.started:
                raise ClientGone from None
            raise Refusal(500, "fault", "the proxy failed") from None
        except asyncio.CancelledError:
            if call.complete:  # it had all of its answer, and closed before the server did
                raise
            entry.error = entry.error or ("shutting_down" if call.cut else "client_gone")
            entry.outcome = entry.outcome or Outcome.CANCELLED
            raise
        finally:
            whole = not entry.error and 0 < entry.status < 400 and entry.output_tokens > 0
            scheduler.ended(call.id, entry.output_tokens if whole else None)
            self.ledger.close(entry, scheduler.clock())
            self._count(entry)
            self.on_end(entry)
        if call.held is not None:  # the server's part is over, and what is left is between the client and us
            await call.held.send(call, await self.delivery.told(entry, self.config.energy.wait_s))

    def _entry(self, call: Call, ask: Ask) -> Entry:
        return Entry(
            id=call.id,
            arrived_at=call.arrived_at,
            arrived_unix_s=time.time(),
            operation=ask.operation,
            dialect=call.dialect.name,
            model=ask.model,
            tier=tier_of(ask, self.admission.objective_of(call.headers)).value,
            tenant=call.tenant.name,
            streamed=ask.streamed,
            traceparent=call.headers.get(b"traceparent", b"").decode("latin-1"),
            tracestate=call.headers.get(b"tracestate", b"").decode("latin-1"),
            prompt_tokens=ask.prompt_tokens,
            prompt_estimated=ask.prompt_estimated,
            max_new_tokens=ask.max_new_tokens,
            sequences=ask.sequences,
        )

    def _waiting(self, call: Call, ask: Ask, entry: Entry) -> Waiting:
        objective = self.admission.objective_of(call.headers)
        tier = tier_of(ask, objective)
        slack = slack_s(ask, tier, call.path, call.headers, self.config.slack, self.model, call.tenant.slack_s)
        tenant = self.admission.share_of(call.tenant, call.headers)
        return Waiting(
            id=entry.id,
            arrived_at=entry.arrived_at,
            deadline=entry.arrived_at + slack,
            prompt_tokens=ask.prompt_tokens,
            max_new_tokens=ask.max_new_tokens,
            tier=tier,
            priority=PRIORITIES[tier] + call.tenant.priority + (objective.priority if objective is not None else 0),
            tenant=tenant,
            weight=call.tenant.weight,
            sequences=ask.sequences,
            server=self._kept(ask),
            model=ask.model,
            prefix=ask.prefix,
            session=session_of(ask, call.headers),
            expected_tokens=call.pool.scheduler.room.expects(tenant, ask.model, ask.max_new_tokens),
        )

    async def _in_turn(self, call: Call, ask: Ask, entry: Entry) -> None:
        """Wait for a server, and again for another while nothing of an answer has come.

        Raises:
            Refusal: there was none in time, or none answered.
        """
        waiting, pool = self._waiting(call, ask, entry), call.pool
        self.on_waiting(pool, entry, waiting)
        call.awaits_energy = call.headers.get(ENERGY, b"").lower() == b"wait"
        call.headers.clear()  # they are read; ten thousand may wait
        not_reached = NONE
        give_up_at = float("inf")
        while True:
            leaving = await self._turn(call, entry, waiting)
            server = pool.servers.get(leaving.server)
            give_up_at = min(give_up_at, pool.scheduler.clock() + self.config.queue.timeout_s)
            try:
                if server is not None:  # else a new configuration has taken it away at this very instant
                    await self.exchange.carry(call, server)
                    return
                waiting = replace(waiting, server="")
                self._retry("unreachable")
            except NotReached as missed:
                log.warning("request %s: %s", call.id, missed.error)
                not_reached |= {leaving.server}
                if waiting.server == leaving.server == self._kept(ask):
                    raise _unreachable(missed) from missed  # no other has what it continues
                waiting = replace(waiting, server=_another(pool, not_reached, missed))
                self._retry("unreachable")
            except Busy as busy:
                pool.pause(leaving.server, busy.pause_s)
                now = pool.scheduler.clock()
                alone = not any(view.healthy for view in pool.scheduler.room.server_views())
                if now >= give_up_at or (alone and now + busy.pause_s >= give_up_at):
                    await _pass_on(call, busy)
                    return
                waiting = replace(waiting, server=self._kept(ask))
                self._retry("busy")
            pool.scheduler.ended(call.id)
            entry.released_at = None
            self.on_return(entry)
            waiting = replace(waiting, deadline=waiting.arrived_at, again=True)  # it has been held already

    async def _turn(self, call: Call, entry: Entry, waiting: Waiting) -> Leaving:
        """A slot, as soon as the room gives one.

        Raises:
            Refusal: it gives none.
        """
        scheduler = call.pool.scheduler
        self._begin_wait(call, entry)
        since = scheduler.clock()
        try:
            leaving = await scheduler.wait_turn(waiting)
        except Refused as refused:
            entry.outcome = refused.outcome
            if refused.outcome is Outcome.EXPIRED:
                waited = scheduler.clock() - since
                entry.queued_s += min(waited, self.config.queue.timeout_s)
                entry.held_s += max(waited - self.config.queue.timeout_s, 0.0)
            raise self._refusal(refused.outcome) from None
        finally:
            self.admission.end_wait(call.tenant)
        if not entry.server:
            entry.held_s = leaving.held_s  # of the first wait; later ones hold nobody
        entry.queued_s += leaving.queued_s
        self._leave(call.pool, entry, leaving)
        return leaving

    def _kept(self, ask: Ask) -> str:
        """The server that has what the request continues; empty when it continues nothing that is known."""
        kept = self.fleet.keeper(ask.previous)
        return kept[1].name if kept is not None else ""

    def _begin_wait(self, call: Call, entry: Entry) -> None:
        """Count it among its tenant's that wait.

        Raises:
            Refusal: there are too many of them already.
        """
        try:
            self.admission.begin_wait(call.tenant)
        except Refusal:
            call.pool.scheduler.reject()
            entry.outcome = Outcome.REJECTED
            raise

    def _leave(self, pool: Pool, entry: Entry, leaving: Leaving) -> None:
        entry.server, entry.outcome, entry.policy = leaving.server, leaving.outcome, pool.scheduler.strategy.policy_name
        entry.released_at = pool.scheduler.clock()
        self.on_release(entry)

    def _refusal(self, outcome: Outcome) -> Refusal:
        queue = self.config.queue
        if outcome is Outcome.REJECTED:
            return Refusal(429, "overloaded", f"{queue.limit} requests are waiting, which is the limit", retry_after_s=1)
        if outcome is Outcome.DRAINED:
            return Refusal(503, "shutting_down", "the proxy is closing", retry_after_s=1)
        if outcome is Outcome.FAULT:
            return Refusal(503, "no_slot", "the proxy's scheduler failed", retry_after_s=1)
        return Refusal(503, "no_slot", f"no server had a slot within {queue.timeout_s:g} s", retry_after_s=1)

    def _retry(self, reason: str) -> None:
        self.counts.retried += 1
        self.on_retry(reason)

    def _count(self, entry: Entry) -> None:
        if entry.error or entry.status >= 400:
            self.counts.failed += 1
            return
        self.counts.completed += 1
        self.counts.prompt_tokens += entry.prompt_tokens
        self.counts.output_tokens += entry.output_tokens


def _unreachable(missed: NotReached) -> Refusal:
    return Refusal(missed.error.status, "upstream", DID_NOT_ANSWER)


def _another(pool: Pool, not_reached: Collection[str], missed: NotReached) -> str:
    """Which server to insist on, when the room might give one again that was not reached: none while others work.

    Raises:
        Refusal: none is left to try.
    """
    left = {server.name: server for server in pool.servers.values() if server.name not in not_reached}
    if any(server.breaker.circuit is not Circuit.OPEN for server in left.values()):
        return ""
    free = (view.name for view in pool.scheduler.room.server_views() if view.name in left and view.free >= 1)
    name = next(free, None)
    if name is None:
        raise _unreachable(missed) from missed
    return name


async def _pass_on(call: Call, busy: Busy) -> None:
    """What a busy server said, once there is no time left to wait for it."""
    if call.entry is not None:
        call.entry.status, call.entry.error = busy.status, "overloaded"
    await call.start(busy.status, busy.end_to_end)
    await call.send({"type": "http.response.body", "body": busy.body, "more_body": False})
