"""The data plane: admit, wait, forward, relay, release. A pure ASGI app that reserves no path for itself."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from posixpath import normpath

from policies.base import Outcome, Waiting
from policies.room import Leaving
from proxy.admission import Admission, Refusal
from proxy.agreement import PRIORITIES, slack_s, tier_of
from proxy.breaker import Circuit
from proxy.call import Call
from proxy.config import Config
from proxy.dialects import DIALECTS
from proxy.dialects.base import Ask
from proxy.dialects.rewrite import set_model
from proxy.exchange import DID_NOT_ANSWER, Busy, Exchange, NotReached, TryAgain
from proxy.fleet import Fleet, Pool, Server, fits
from proxy.scheduler import Refused
from proxy.wire import ClientGone, Receive, Scope, Send, next_of_body
from telemetry.cost import StepModel
from telemetry.ledger import Entry, Ledger

log = logging.getLogger("paceline.forward")


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
class Forward:
    """Every request of the data port. `use` puts another configuration in force, from the next request on."""

    config: Config
    fleet: Fleet
    ledger: Ledger
    model: StepModel
    on_release: Callable[[Entry], None] = lambda entry: None
    on_return: Callable[[Entry], None] = lambda entry: None
    on_end: Callable[[Entry], None] = lambda entry: None
    on_refusal: Callable[[str], None] = lambda kind: None
    on_retry: Callable[[str], None] = lambda reason: None
    draining: bool = False
    counts: Counts = field(default_factory=Counts)
    admission: Admission = field(init=False)
    exchange: Exchange = field(init=False)
    _open: set[Call] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.admission = Admission(self.config)
        self.exchange = Exchange(self.config, self.fleet, self._drop_body)

    def use(self, config: Config, model: StepModel) -> None:
        self.config = self.admission.config = self.exchange.config = config
        self.model = model

    def cut(self) -> None:
        """The proxy closes: whoever has no answer yet gets 503, and answers under way break off."""
        for call in list(self._open):
            call.cut = True
            if call.task is not None:
                call.task.cancel()

    @property
    def open(self) -> int:
        """Requests that are in this process, of whatever kind."""
        return len(self._open)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        pool = self.fleet.default
        call = Call(scope, send, pool, pool.scheduler.clock(), task=asyncio.current_task())
        self._open.add(call)
        try:
            await self._admit(call, receive)
            with call.presence:
                await (self._pass(call) if call.ask is None else self._generate(call, call.ask))
        except Refusal as refusal:
            self._say_refused(call, refusal)
            await call.refuse(refusal)
        except ClientGone:
            pass
        except asyncio.CancelledError:
            if not call.cut:
                raise
            if call.task is not None:
                call.task.uncancel()
            if not call.started:
                await call.refuse(Refusal(503, "shutting_down", "the proxy is closing", retry_after_s=1))
        finally:
            self._drop_body(call)
            self._open.discard(call)

    def _say_refused(self, call: Call, refusal: Refusal) -> None:
        self.counts.refused += 1
        self.on_refusal(refusal.kind)
        log.info("request %s refused: %d %s (%s %s)", call.id, refusal.status, refusal.text, call.method, call.path)

    # --- who comes in, and where to -------------------------------------------------------------------------------

    async def _admit(self, call: Call, receive: Receive) -> None:
        self._check(call)
        call.tenant = self.admission.tenant_of(call.method, call.path, call.headers)
        call.authenticated = self.config.auth.required
        await self._read_body(call, receive)
        call.pool = self.fleet.default  # another, perhaps, since a new configuration came with the body
        call.ask = call.dialect.ask(call.method, call.path, call.body or b"")
        self._route(call)

    def _check(self, call: Call) -> None:
        """What is never carried.

        Raises:
            Refusal: see there.
        """
        if call.headers.get(b"upgrade", b"").lower() == b"websocket":
            raise Refusal(501, "not_implemented", "WebSockets are not carried by this proxy")
        if not call.scope["raw_path"].startswith(b"/"):
            raise Refusal(400, "bad_request", "the request's target is no path")
        if self.config.paths and not any(fits(call.path, pattern) for pattern in self.config.paths):
            raise Refusal(404, "not_found", f"{call.path} is not served here")
        if self.config.allow_engine_admin:
            return
        pools = self.fleet.pools.values()
        spoken = self.fleet.default.spoken if len(pools) == 1 else tuple({name for pool in pools for name in pool.spoken})
        if administers(spoken, call.method, call.path):
            raise Refusal(403, "forbidden", f"{call.path} administers the engine, which is closed on this port")

    async def _read_body(self, call: Call, receive: Receive) -> None:
        """The whole body into memory, within bounds.

        Raises:
            Refusal: it is too long, or there is no memory for it.
            ClientGone: the client left before its end.
        """
        limits = self.config.limits
        keyless = call.authenticated and not call.tenant.name  # let in without a key, for what needs no body
        limit = 0 if keyless else limits.body_bytes
        length = call.headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > limit:
            raise _too_large(limit)
        chunks, more = [], True
        while more:
            chunk, more = await next_of_body(receive)
            if call.held_bytes + len(chunk) > limit:
                raise _too_large(limit)
            if chunk:
                self.admission.take_bytes(call.tenant, len(chunk))
                call.held_bytes += len(chunk)
                chunks.append(chunk)
        if length or b"transfer-encoding" in call.headers:
            call.body = b"".join(chunks)

    def _drop_body(self, call: Call) -> None:
        if call.held_bytes:
            self.admission.drop_bytes(call.tenant, call.held_bytes)
            call.held_bytes, call.body = 0, None

    def _route(self, call: Call) -> None:
        """The pool that serves the model which the request names, and the name that it has there.

        Raises:
            Refusal: nobody serves it.
        """
        if call.ask is not None and (kept := self.fleet.keeper(call.ask.previous)) is not None:
            call.pool = kept[0]
            return
        if not self.config.models:
            return
        model = call.ask.model if call.ask is not None else _model_in(call.body)
        routed = self.fleet.route(model)
        if routed is None:
            raise Refusal(404, "model_not_found", f"no server here serves the model {model!r}")
        call.pool, rewrite = routed
        if call.pool is not self.fleet.default:
            call.ask = call.dialect.ask(call.method, call.path, call.body or b"")
        if rewrite is not None and call.body is not None and model:
            call.body = set_model(call.body, rewrite)
            call.rewritten = True

    # --- generation: waits its turn, is timed and charged ---------------------------------------------------------

    async def _generate(self, call: Call, ask: Ask) -> None:
        scheduler = call.pool.scheduler
        entry = call.entry = self._entry(call, ask)
        self.ledger.open(entry)
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
            scheduler.ended(call.id)
            self.ledger.close(entry, scheduler.clock())
            self._count(entry)
            self.on_end(entry)

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
        )

    def _waiting(self, call: Call, ask: Ask, entry: Entry) -> Waiting:
        objective = self.admission.objective_of(call.headers)
        tier = tier_of(ask, objective)
        slack = slack_s(ask, tier, call.path, call.headers, self.config.slack, self.model, call.tenant.slack_s)
        return Waiting(
            id=entry.id,
            arrived_at=entry.arrived_at,
            deadline=entry.arrived_at + slack,
            prompt_tokens=ask.prompt_tokens,
            max_new_tokens=ask.max_new_tokens,
            tier=tier,
            priority=PRIORITIES[tier] + call.tenant.priority + (objective.priority if objective is not None else 0),
            tenant=self.admission.share_of(call.tenant, call.headers),
            weight=call.tenant.weight,
            sequences=ask.sequences,
            server=self._kept(ask),
            model=ask.model,
        )

    async def _in_turn(self, call: Call, ask: Ask, entry: Entry) -> None:
        """Wait for a server, and again for another while nothing of an answer has come.

        Raises:
            Refusal: there was none in time, or none answered.
        """
        waiting, pool = self._waiting(call, ask, entry), call.pool
        call.headers.clear()  # they are read; ten thousand may wait
        not_reached: set[str] = set()
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
                not_reached.add(leaving.server)
                if waiting.server == leaving.server == self._kept(ask):
                    raise _unreachable(missed) from missed  # no other has what it continues
                waiting = replace(waiting, server=_another(pool, not_reached, missed))
                self._retry("unreachable")
            except Busy as busy:
                if pool.scheduler.clock() + busy.pause_s >= give_up_at:
                    await _pass_on(call, busy)
                    return
                pool.pause(leaving.server, busy.pause_s)
                self._retry("busy")
            pool.scheduler.ended(call.id)
            entry.released_at = None
            self.on_return(entry)
            waiting = replace(waiting, deadline=waiting.arrived_at)  # it has been held already

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
        entry.held_s += leaving.held_s
        entry.queued_s += leaving.queued_s
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

    # --- everything else: passes at once --------------------------------------------------------------------------

    async def _pass(self, call: Call) -> None:
        if self.config.models and call.method == "GET" and (listed := _listed(self.config, call.path)) is not None:
            await call.answer(200, listed)
            return
        for pool, server in (servers := self._candidates(call)):
            call.pool = pool
            try:
                await self.exchange.carry(call, server)
                return
            except NotReached as missed:
                log.warning("request %s: %s", call.id, missed.error)
                if server is servers[-1][1]:
                    raise _unreachable(missed) from missed

    def _candidates(self, call: Call) -> list[tuple[Pool, Server]]:
        """The server for what is not scheduled, and who takes its place if it cannot be reached.

        A stored thing is on one server only. What names no model may be asked of any group.
        """
        kept = self.fleet.keeper(call.dialect.stored(call.path))
        if kept is not None:
            return [kept]
        pools = [call.pool]
        if call.pool is self.fleet.default and not _model_in(call.body):
            pools += [pool for pool in self.fleet.pools.values() if pool is not call.pool]
        fixed = [(pool, pool.fixed) for pool in pools]
        return fixed + [(pool, server) for pool in pools for server in pool.servers.values() if (pool, server) not in fixed]


@lru_cache(maxsize=1024)
def administers(dialects: tuple[str, ...], method: str, path: str) -> bool:
    """Whether a request would change the state of an engine that speaks one of these, whoever may normalise its path."""
    return any(
        DIALECTS[name].administers(method, form) for name in dialects for form in (path, normpath("/" + path.lstrip("/")))
    )


def _too_large(limit: int) -> Refusal:
    return Refusal(413, "too_large", f"a request's body may have {limit} bytes here")


def _unreachable(missed: NotReached) -> Refusal:
    return Refusal(missed.error.status, "upstream", DID_NOT_ANSWER)


def _another(pool: Pool, not_reached: set[str], missed: NotReached) -> str:
    """Which server to insist on, when the room might give one again that was not reached: none while others work.

    Raises:
        Refusal: none is left to try.
    """
    left = [server for server in pool.servers.values() if server.name not in not_reached]
    if not left:
        raise _unreachable(missed) from missed
    return "" if any(server.breaker.circuit is not Circuit.OPEN for server in left) else left[0].name


async def _pass_on(call: Call, busy: Busy) -> None:
    """What a busy server said, once there is no time left to wait for it."""
    if call.entry is not None:
        call.entry.status, call.entry.error = busy.status, "overloaded"
    await call.start(busy.status, busy.end_to_end)
    await call.send({"type": "http.response.body", "body": busy.body, "more_body": False})


def _model_in(body: bytes | None) -> str:
    """The model that a JSON body names, if it is one and names one."""
    try:
        data = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        return ""
    name = data.get("model") if isinstance(data, dict) else None
    return name if isinstance(name, str) else ""


def _listed(config: Config, path: str) -> bytes | None:
    """The models that are routed here, or one of them, as OpenAI's surface tells them; patterns are no names."""
    models = [
        {"id": model.name, "object": "model", "created": 0, "owned_by": "paceline"}
        for model in config.models
        if "*" not in model.name
    ]
    if path == "/v1/models":
        return json.dumps({"object": "list", "data": models}).encode()
    return next((json.dumps(model).encode() for model in models if path == f"/v1/models/{model['id']}"), None)
