"""The data plane: a pure ASGI app that reserves no path for itself. Here it is decided who comes in, and which way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from posixpath import normpath

from proxy.admission import Admission, Refusal
from proxy.call import Call
from proxy.config import Config
from proxy.dialects import DIALECTS
from proxy.dialects.rewrite import set_model
from proxy.exchange import Exchange
from proxy.fleet import Fleet, fits
from proxy.generation import Counts, Generation
from proxy.passing import Passing, model_in
from proxy.wire import ClientGone, Receive, Scope, Send, next_of_body
from telemetry.cost import StepModel
from telemetry.ledger import Ledger

log = logging.getLogger("paceline.forward")


@dataclass(slots=True)
class Forward:
    """Every request of the data port. `use` puts another configuration in force, from the next request on."""

    config: Config
    fleet: Fleet
    ledger: Ledger
    model: StepModel
    on_refusal: Callable[[str], None] = lambda kind: None
    on_left: Callable[[Call], None] | None = None  # whoever it was, whatever came of it
    draining: bool = False
    admission: Admission = field(init=False)
    exchange: Exchange = field(init=False)
    generation: Generation = field(init=False)
    passing: Passing = field(init=False)
    _open: set[Call] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.admission = Admission(self.config)
        self.exchange = Exchange(self.config, self.fleet, self._drop_body)
        self.generation = Generation(self.config, self.model, self.fleet, self.ledger, self.admission, self.exchange)
        self.passing = Passing(self.config, self.fleet, self.exchange)

    def use(self, config: Config, model: StepModel) -> None:
        for part in (self, self.admission, self.exchange, self.generation, self.passing):
            part.config = config
        self.model = self.generation.model = model

    @property
    def counts(self) -> Counts:
        return self.generation.counts

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
                await (self.passing.run(call) if call.ask is None else self.generation.run(call, call.ask))
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
            if self.on_left is not None:
                self.on_left(call)

    def _say_refused(self, call: Call, refusal: Refusal) -> None:
        self.counts.refused += 1
        self.on_refusal(refusal.kind)
        log.info("request %s refused: %d %s (%s %r)", call.id, refusal.status, refusal.text, call.method, call.path)

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
        if self.config.paths and not all(any(fits(form, known) for known in self.config.paths) for form in forms(call.path)):
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
        limit = limits.body_bytes
        length = call.headers.get(b"content-length", b"")
        if keyless and (length not in (b"", b"0") or b"transfer-encoding" in call.headers):
            raise Refusal(401, "unauthorized", "a valid API key is needed to send a body")
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
        if self.config.models:
            self._route_by_model(call)
        if call.ask is not None and (kept := self.fleet.keeper(call.ask.previous)) is not None:
            call.pool = kept[0]  # what it continues is there

    def _route_by_model(self, call: Call) -> None:
        model = call.ask.model if call.ask is not None else model_in(call.body)
        routed = self.fleet.route(model)
        if routed is None:
            raise Refusal(404, "model_not_found", f"no server here serves the model {model!r}")
        call.pool, rewrite = routed
        if call.pool is not self.fleet.default:
            call.ask = call.dialect.ask(call.method, call.path, call.body or b"")
        if rewrite is not None and call.body is not None and model:
            call.body = set_model(call.body, rewrite)
            call.rewritten = True


def forms(path: str) -> set[str]:
    """A path as it came, and as somebody behind us may read it who normalises paths."""
    return {path, normpath("/" + path.lstrip("/"))}


@lru_cache(maxsize=1024)
def administers(dialects: tuple[str, ...], method: str, path: str) -> bool:
    """Whether a request would change the state of an engine that speaks one of these."""
    return any(DIALECTS[name].administers(method, form) for name in dialects for form in forms(path))


def _too_large(limit: int) -> Refusal:
    return Refusal(413, "too_large", f"a request's body may have {limit} bytes here")
