"""The data plane: admit, wait, forward, relay, release. A pure ASGI app that reserves no path for itself."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from uuid import uuid4

from policies.base import Outcome, Waiting
from policies.room import Leaving
from proxy.agreement import PRIORITIES, slack_s, tier_of
from proxy.config import Config
from proxy.dialects import TGI, Dialect
from proxy.dialects.base import Ask, generates
from proxy.scheduler import Refused, Scheduler
from proxy.upstream import Answer, Client, Unreachable, UpstreamError
from proxy.watch import watcher
from proxy.wire import ClientGone, Receive, Scope, Send, body_of, end_to_end, until_gone, url
from telemetry.cost import StepModel
from telemetry.ledger import Entry, Ledger

log = logging.getLogger("paceline.forward")

# what changes an engine's state for everybody (vLLM's and SGLang's administration)
ENGINE_ADMIN = frozenset(
    {"/sleep", "/wake_up", "/pause", "/resume", "/abort_requests", "/abort_request", "/release_kv_cache_memory"}
    | {"/release_memory_occupation", "/resume_memory_occupation", "/pause_generation", "/continue_generation"}
    | {"/start_profile", "/stop_profile", "/reset_mm_cache", "/update_weights_from_tensor", "/init_weights_update_group"}
    | {"/flush_cache", "/reset_prefix_cache", "/load_lora_adapter", "/unload_lora_adapter", "/collective_rpc"}
    | {"/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/update_weights_from_disk", "/load_model", "/reset"}
)


@dataclass(slots=True)
class Forward:
    """Every request of the data port. `dialect` is set once the upstream has been asked what it speaks."""

    config: Config
    scheduler: Scheduler
    client: Client
    ledger: Ledger
    model: StepModel
    on_release: Callable[[Entry], None] = lambda entry: None
    on_end: Callable[[Entry], None] = lambda entry: None
    dialect: Dialect = TGI
    draining: bool = False
    completed: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    _upstreams: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self._upstreams = [upstream.url for upstream in self.config.upstreams]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        id = uuid4().hex
        path = scope["path"]
        try:
            if any(name == b"upgrade" and value.lower() == b"websocket" for name, value in scope["headers"]):
                await self._refuse(send, id, path, 501, "WebSockets are not carried by this proxy", "not_implemented")
            elif not scope["raw_path"].startswith(b"/"):
                await self._refuse(send, id, path, 400, "the request's target is no path", "bad_request")
            elif path in ENGINE_ADMIN and not self.config.allow_engine_admin:
                text = f"{path} administers the engine and is closed on this port (allow_engine_admin opens it)"
                await self._refuse(send, id, path, 403, text, "forbidden")
            elif generates(self.dialect, scope["method"], path):
                await self._generate(scope, receive, send, id)
            else:
                await self._pass(scope, receive, send, id)
        except ClientGone:
            pass

    # --- generation: waits its turn, is timed and charged ---------------------------------------------------------

    async def _generate(self, scope: Scope, receive: Receive, send: Send, id: str) -> None:
        arrived_at = self.scheduler.clock()
        body = b"".join([chunk async for chunk in body_of(receive)])
        ask = self.dialect.ask(scope["method"], scope["path"], body)
        async with until_gone(receive):
            if ask is None:
                await self._exchange(scope, send, id, self._upstreams[0], body, None)
                return
            headers = dict(scope["headers"])
            entry = self._entry(id, arrived_at, ask, headers)
            self.ledger.open(entry)
            try:
                await self._wait_and_exchange(scope, send, entry, ask, headers, body)
            except asyncio.CancelledError:
                entry.error = entry.error or "client_gone"
                entry.outcome = entry.outcome or Outcome.CANCELLED
                raise
            finally:
                self.scheduler.ended(id)
                self.ledger.close(entry, self.scheduler.clock())
                self._count(entry)
                self.on_end(entry)

    def _entry(self, id: str, arrived_at: float, ask: Ask, headers: dict[bytes, bytes]) -> Entry:
        return Entry(
            id=id,
            arrived_at=arrived_at,
            arrived_unix_s=time.time(),
            operation=ask.operation,
            dialect=self.dialect.name,
            model=ask.model,
            tier=tier_of(ask).value,
            streamed=ask.streamed,
            traceparent=headers.get(b"traceparent", b"").decode("latin-1"),
            tracestate=headers.get(b"tracestate", b"").decode("latin-1"),
            prompt_tokens=ask.prompt_tokens,
            prompt_estimated=ask.prompt_estimated,
            max_new_tokens=ask.max_new_tokens,
        )

    async def _wait_and_exchange(
        self, scope: Scope, send: Send, entry: Entry, ask: Ask, headers: dict[bytes, bytes], body: bytes
    ) -> None:
        tier = tier_of(ask)
        slack = slack_s(ask, tier, scope["path"], headers, self.config.slack, self.model)
        waiting = Waiting(
            id=entry.id,
            arrived_at=entry.arrived_at,
            deadline=entry.arrived_at + slack,
            prompt_tokens=ask.prompt_tokens,
            max_new_tokens=ask.max_new_tokens,
            tier=tier,
            priority=PRIORITIES[tier],
            model=ask.model,
        )
        while True:
            try:
                leaving = await self.scheduler.wait_turn(waiting)
                self._leave(entry, leaving)
                await self._exchange(scope, send, entry.id, leaving.server, body, entry)
                return
            except Refused as refused:
                await self._refuse_turn(send, scope["path"], entry, refused.outcome)
                return
            except Unreachable:
                self.scheduler.ended(entry.id)
                waiting = replace(waiting, deadline=entry.arrived_at)  # it has been held already

    def _leave(self, entry: Entry, leaving: Leaving) -> None:
        entry.server, entry.outcome, entry.policy = leaving.server, leaving.outcome, self.scheduler.strategy.policy_name
        entry.held_s, entry.queued_s = leaving.held_s, leaving.queued_s
        entry.released_at = self.scheduler.clock()
        self.on_release(entry)

    async def _refuse_turn(self, send: Send, path: str, entry: Entry, outcome: Outcome) -> None:
        entry.outcome, entry.error = outcome, "overloaded"
        if outcome is Outcome.REJECTED:
            entry.status, text = 429, f"{self.config.queue.limit} requests are waiting, which is the limit"
        elif outcome is Outcome.FAULT:
            entry.status, text = 503, "the proxy's scheduler failed"
        else:
            entry.status, text = 503, f"no server had a slot within {self.config.queue.timeout_s:g} s"
        await self._refuse(send, entry.id, path, entry.status, text, "overloaded", retry=True)

    def _count(self, entry: Entry) -> None:
        if entry.error or entry.status >= 400:
            self.failed += 1
            return
        self.completed += 1
        self.prompt_tokens += entry.prompt_tokens
        self.output_tokens += entry.output_tokens

    # --- everything else: passes at once --------------------------------------------------------------------------

    async def _pass(self, scope: Scope, receive: Receive, send: Send, id: str) -> None:
        headers = {name for name, _ in scope["headers"]}
        carries_body = b"content-length" in headers or b"transfer-encoding" in headers
        body = b"".join([chunk async for chunk in body_of(receive)])
        async with until_gone(receive):
            await self._exchange(scope, send, id, self._upstreams[0], body if carries_body else None, None)

    # --- one exchange with a server -------------------------------------------------------------------------------

    async def _exchange(self, scope: Scope, send: Send, id: str, server: str, body: bytes | None, entry: Entry | None) -> None:
        """Send the request to a server and relay its answer; an error of the server's becomes one of ours.

        Raises:
            Unreachable: there was no connection, so nothing was begun, and there is another server to try.
        """
        try:
            answer = await self.client.open(scope["method"], url(server, scope), end_to_end(scope["headers"], b"host"), body)
        except UpstreamError as error:
            log.warning("request %s: %s", id, error)
            if entry is not None and isinstance(error, Unreachable) and self.scheduler.avoid(server):
                raise
            if entry is not None:
                entry.status, entry.error = error.status, type(error).__name__.lower()
            await self._refuse(send, id, scope["path"], error.status, f"upstream {server} did not answer", "upstream")
            return
        try:
            if entry is not None:
                entry.status = answer.status
            await self._relay(send, id, answer, entry)
        except UpstreamError as error:
            # the head is out, so all that is left is to let the client see that the body is not complete
            log.warning("request %s: answer broke off: %s", id, error)
            if entry is not None:
                entry.error = type(error).__name__.lower()
            raise ClientGone from error
        finally:
            answer.release()

    async def _relay(self, send: Send, id: str, answer: Answer, entry: Entry | None) -> None:
        headers = [*end_to_end(answer.headers), (b"x-paceline-request-id", id.encode())]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        watch = watcher(answer, entry, self.dialect, self.scheduler)
        async for chunk in answer.chunks():
            watch(chunk)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        watch(b"")
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _refuse(self, send: Send, id: str, path: str, status: int, text: str, kind: str, *, retry: bool = False) -> None:
        """An error of ours, in the shape that the dialect's clients expect."""
        body = json.dumps(self.dialect.error(path, text, kind)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(b"x-paceline-request-id", id.encode())] + ([(b"retry-after", b"1")] if retry else [])
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})
