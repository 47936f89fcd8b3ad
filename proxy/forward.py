"""The data plane: admit, wait, forward, relay, release. A pure ASGI app that reserves no path for itself."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache

from policies.base import Outcome, Waiting
from policies.room import Leaving
from proxy.admission import Admission, Refusal
from proxy.agreement import PRIORITIES, slack_s, tier_of
from proxy.call import Call
from proxy.config import Config
from proxy.dialects import DIALECTS
from proxy.dialects.base import Ask
from proxy.dialects.rewrite import set_model
from proxy.exchange import Busy, Exchange, NotReached
from proxy.fleet import Fleet, Pool, Server
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
    on_end: Callable[[Entry], None] = lambda entry: None
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

    # --- who comes in, and where to -------------------------------------------------------------------------------

    async def _admit(self, call: Call, receive: Receive) -> None:
        self._check(call)
        call.tenant = self.admission.tenant_of(call.method, call.path, call.headers)
        await self._read_body(call, receive)
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
        if self.config.allow_engine_admin:
            return
        spoken = tuple(pool.dialect.name for pool in self.fleet.pools.values() if pool.known)
        if administers(spoken or tuple(DIALECTS), call.method, call.path):
            text = f"{call.path} administers the engine and is closed on this port (allow_engine_admin opens it)"
            raise Refusal(403, "forbidden", text)

    async def _read_body(self, call: Call, receive: Receive) -> None:
        """The whole body into memory, within bounds.

        Raises:
            Refusal: it is too long, or there is no memory for it.
            ClientGone: the client left before its end.
        """
        limits = self.config.limits
        length = call.headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > limits.body_bytes:
            raise _too_large(limits.body_bytes)
        chunks, more = [], True
        while more:
            chunk, more = await next_of_body(receive)
            if call.held_bytes + len(chunk) > limits.body_bytes:
                raise _too_large(limits.body_bytes)
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
        kept = self.fleet.keeper(ask.previous)
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
            server=kept[1].name if kept is not None else "",
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
            self._begin_wait(call, entry)
            try:
                leaving = await pool.scheduler.wait_turn(waiting)
            except Refused as refused:
                entry.outcome = refused.outcome
                raise self._refusal(refused.outcome) from None
            finally:
                self.admission.end_wait(call.tenant)
            self._leave(pool, entry, leaving)
            server = pool.servers.get(leaving.server)
            if server is None:  # a new configuration has taken it away at this very instant
                self._retry("unreachable")
                pool.scheduler.ended(call.id)
                waiting = replace(waiting, deadline=waiting.arrived_at, server="")
                continue
            give_up_at = min(give_up_at, pool.scheduler.clock() + self.config.queue.timeout_s)
            try:
                await self.exchange.carry(call, server)
                return
            except NotReached as missed:
                log.warning("request %s: %s", call.id, missed.error)
                if server.name in not_reached or len(pool.servers) == 1:
                    raise _unreachable(server, missed) from missed
                not_reached.add(server.name)
                self._retry("unreachable")
            except Busy as busy:
                if pool.scheduler.clock() >= give_up_at:
                    await _pass_on(call, busy)
                    return
                pool.pause(server.name, busy.pause_s)
                self._retry("busy")
            pool.scheduler.ended(call.id)
            waiting = replace(waiting, deadline=waiting.arrived_at, server="")  # it has been held already

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
        if self.config.models and (call.method, call.path) == ("GET", "/v1/models"):
            await call.answer(200, _listing(self.config))
            return
        kept = self.fleet.keeper(call.dialect.stored(call.path))
        if kept is not None:
            call.pool = kept[0]
        servers = [kept[1]] if kept is not None else _candidates(call.pool)
        for server in servers:
            try:
                await self.exchange.carry(call, server)
                return
            except NotReached as missed:
                log.warning("request %s: %s", call.id, missed.error)
                if server is servers[-1]:
                    raise _unreachable(server, missed) from missed


@lru_cache(maxsize=1024)
def administers(dialects: tuple[str, ...], method: str, path: str) -> bool:
    """Whether a request would change the state of an engine that speaks one of these."""
    return any(DIALECTS[name].administers(method, path) for name in dialects)


def _candidates(pool: Pool) -> list[Server]:
    """The server for what is not scheduled, and who takes its place if it cannot be reached."""
    fixed = pool.fixed
    return [fixed, *(server for server in pool.servers.values() if server is not fixed)]


def _too_large(limit: int) -> Refusal:
    return Refusal(413, "too_large", f"a request's body may have {limit} bytes here")


def _unreachable(server: Server, missed: NotReached) -> Refusal:
    return Refusal(missed.error.status, "upstream", f"upstream {server.name} did not answer")


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


def _listing(config: Config) -> bytes:
    """The models that are routed here, as OpenAI's surface lists them; patterns are no names."""
    names = [model.name for model in config.models if not set(model.name) & set("*?[")]
    models = [{"id": name, "object": "model", "created": 0, "owned_by": "paceline"} for name in names]
    return json.dumps({"object": "list", "data": models}).encode()
