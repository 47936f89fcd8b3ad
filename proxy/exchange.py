"""One exchange with one server: the request goes up, the answer comes down byte for byte, and a copy of it is looked at."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from proxy.admission import Refusal
from proxy.call import Call
from proxy.config import Config
from proxy.delivery import Reason, Told, hold_answer, hold_stream
from proxy.dialects.base import Injected
from proxy.dialects.events import EventSplitter
from proxy.fleet import Fleet, Server
from proxy.upstream import Answer, Headers, Unreachable, UpstreamError
from proxy.watch import can_be_changed, watcher
from proxy.wire import OURS, ClientGone, end_to_end, url

log = logging.getLogger("paceline.exchange")

BUSY = (429, 503)
# a gateway in front of the server, or the server itself, says that there is nobody
DOWN = (502, 504)
DID_NOT_ANSWER = "the upstream server did not answer"  # which one is in the log, and none of the client's business
LONGEST_PAUSE_S = 5.0
PAUSE_S = 0.25


class TryAgain(Exception):
    """Nothing has reached the client, and nothing was begun: the request may go elsewhere, or wait."""


class NotReached(TryAgain):
    """No connection to this server."""

    def __init__(self, error: UpstreamError) -> None:
        super().__init__(str(error))
        self.error = error


class Busy(TryAgain):
    """The server has no room now: what it said, and for how long to leave it alone."""

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        super().__init__(status)
        self.status, self.headers, self.body = status, headers, body

    @property
    def end_to_end(self) -> list[tuple[bytes, bytes]]:
        return end_to_end(self.headers, *OURS)

    @property
    def pause_s(self) -> float:
        """Its own `retry-after` in seconds, within reason."""
        told = next((value for name, value in self.headers if name.lower() == b"retry-after"), b"")
        return min(float(told), LONGEST_PAUSE_S) if told.isdigit() and int(told) else PAUSE_S


@dataclass(slots=True)
class Exchange:
    """Carries calls to servers. `drop_body` is told when a call's body is needed no more."""

    config: Config
    fleet: Fleet
    drop_body: Callable[[Call], None]

    async def carry(self, call: Call, server: Server) -> None:
        """One call to one server, and the answer to the client.

        Raises:
            TryAgain: see there.
            Refusal: the server did not answer.
            ClientGone: the answer broke off, and so must ours.
        """
        server.in_use += 1
        try:
            await self._carry(call, server)
        finally:
            server.in_use -= 1

    async def _carry(self, call: Call, server: Server) -> None:
        injected = self._injected(call, server)
        answer = await self._open(call, server, injected)
        try:
            if call.entry is not None and self.config.busy == "wait" and answer.status in BUSY:
                raise Busy(answer.status, answer.headers, await answer.read())
            self.drop_body(call)
            await self._relay(call, server, answer, injected)
        except UpstreamError as error:
            log.warning("request %s: answer broke off: %s", call.id, error)
            call.pool.failed(server.name)
            if call.entry is not None:
                call.entry.error = type(error).__name__.lower()
            if not call.started:
                raise Refusal(error.status, "upstream", DID_NOT_ANSWER) from error
            # the head is out, so all that is left is to let the client see that the body is not complete
            raise ClientGone from error
        finally:
            answer.release()

    def _injected(self, call: Call, server: Server) -> Injected | None:
        """The body that makes the engine tell its counts, where the configuration wants that and the dialect can."""
        if self.config.usage != "inject" or call.ask is None or not call.ask.streamed or not call.body:
            return None
        return (server.dialect or call.dialect).inject(call.path, call.body)

    async def _open(self, call: Call, server: Server, injected: Injected | None) -> Answer:
        body = call.body if injected is None else injected.body
        headers = call.headers_for(server, body, identity=injected is not None or call.awaits_energy)
        try:
            answer = await server.client.open(call.method, url(server.base_url, call.scope), headers, body)
        except Unreachable as error:
            call.pool.failed(server.name, surely=True)
            raise NotReached(error) from error
        except UpstreamError as error:
            log.warning("request %s: %s", call.id, error)
            call.pool.failed(server.name)
            if call.entry is not None:
                call.entry.error = type(error).__name__.lower()
            raise Refusal(error.status, "upstream", DID_NOT_ANSWER) from error
        if answer.status in DOWN:
            call.pool.failed(server.name)
        elif answer.status not in BUSY:
            call.pool.succeeded(server.name)
        return answer

    async def _relay(self, call: Call, server: Server, answer: Answer, injected: Injected | None) -> None:
        if call.entry is not None:
            call.entry.status = answer.status
        watch = watcher(answer, call, server, self.fleet)
        strip = _stripper(answer, injected)
        if answer.status in (204, 304):
            call.scope["method"] = "HEAD"  # else our HTTP server waits for the octets that a content-length speaks of
        headers = end_to_end(answer.headers, *OURS)
        if call.awaits_energy and answer.status == 200 and call.ask is not None:
            if can_be_changed(answer):
                await hold_stream(call, answer, watch, strip, (server.dialect or call.dialect).read_event)
                return
            if not call.ask.streamed:
                await hold_answer(call, answer, watch)
                return
            headers.append(Told(reason=Reason.UNREADABLE).as_header())
        await call.start(answer.status, headers)
        try:
            while chunk := await answer.next():
                watch(chunk)
                passed = chunk if strip is None else strip(chunk)
                if passed:
                    await call.send({"type": "http.response.body", "body": passed, "more_body": True})
        finally:
            watch(b"")
        rest = b"" if strip is None else strip(b"")
        await call.send({"type": "http.response.body", "body": rest, "more_body": False})


def _stripper(answer: Answer, injected: Injected | None) -> Callable[[bytes], bytes] | None:
    """What takes out of a stream what would not be in it without injection; the empty chunk is the end."""
    if injected is None or not can_be_changed(answer):
        return None
    splitter, strip = EventSplitter(), injected.strip

    def take_out(chunk: bytes) -> bytes:
        return b"".join([strip(event) for event in splitter.feed(chunk)]) if chunk else strip(splitter.flush())

    return take_out
