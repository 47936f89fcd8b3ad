"""Energy with the answer: for a client that asked to wait, an answer's end is held until its joules are final."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from proxy.dialects.base import Event
from proxy.dialects.ending import StreamEnd
from proxy.upstream import Answer, UpstreamError
from proxy.watch import LONGEST_ANSWER, Watch
from proxy.wire import ENERGY, OURS, end_to_end
from telemetry.ledger import Energy, Entry

if TYPE_CHECKING:
    from proxy.call import Call


class Reason(StrEnum):
    """Why a request's joules are not told with its answer."""

    NO_METER = "no-meter"  # none sees the server that it went to
    NO_READING = "no-reading"  # its meter did not see all of its time
    NOT_YET = "not-yet"  # it can be asked for later, by the request's id
    SHUTTING_DOWN = "shutting-down"
    TOO_LONG = "too-long"  # an answer that was not held
    UNREADABLE = "unreadable"  # a stream that nothing can be written into


@dataclass(frozen=True, slots=True)
class Told:
    """What is told of a request's energy: its joules, or why they are unknown. Unknown is never zero."""

    energy: Energy | None = None
    reason: Reason = Reason.NOT_YET

    def as_header(self) -> tuple[bytes, bytes]:
        """A dictionary of RFC 9651; its numbers have three decimals at most."""
        if self.energy is None:
            return ENERGY, f"unknown;reason={self.reason}".encode()
        energy = self.energy
        amounts = f"j={energy.active_uj / 1e6:.3f}, u={energy.uncertainty_j:.3f}"
        return ENERGY, f"{amounts}, source={energy.source}, method={energy.method}, scope={energy.scope}, final".encode()

    def as_json(self) -> str:
        if self.energy is None:
            return json.dumps({"joules": None, "reason": self.reason, "final": False}, separators=(",", ":"))
        told = {
            "joules": self.energy.active_uj / 1e6,
            "uncertainty_joules": round(self.energy.uncertainty_j, 6),
            "source": self.energy.source,
            "method": self.energy.method,
            "scope": self.energy.scope,
            "final": True,
        }
        return json.dumps(told, separators=(",", ":"))


@dataclass(slots=True)
class Delivery:
    """Requests that have ended, and whose clients wait for their joules.

    Attributes:
        covers: whether a meter sees the server that a request went to.
    """

    covers: Callable[[Entry], bool] = lambda entry: False
    closing: bool = False
    _waiting: dict[str, asyncio.Future[None]] = field(default_factory=dict)

    async def told(self, entry: Entry, wait_s: float) -> Told:
        """The energy of a request that has ended, once it is final or the wait is over."""
        if not self.covers(entry):
            return Told(reason=Reason.NO_METER)
        no_more = entry.energy.final or (not self.closing and await self._wait(entry.id, wait_s))
        if entry.energy.final and entry.energy.source is not None:
            return Told(entry.energy)
        if no_more and not self.closing:
            return Told(reason=Reason.NO_READING)
        return Told(reason=Reason.SHUTTING_DOWN if self.closing else Reason.NOT_YET)

    async def _wait(self, id: str, wait_s: float) -> bool:
        """Whether it was settled within the wait."""
        settled = self._waiting[id] = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait((settled,), timeout=wait_s)
            return settled.done()
        finally:
            del self._waiting[id]

    def settled(self, entry: Entry) -> None:
        """No more will be known of a request's energy."""
        waiting = self._waiting.get(entry.id)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def close(self) -> None:
        """The proxy closes: nobody waits any longer."""
        self.closing = True
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result(None)


@dataclass(frozen=True, slots=True)
class HeldAnswer:
    """An answer that was not streamed, whole."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    async def send(self, call: Call, told: Told) -> None:
        await call.start(self.status, [*self.headers, told.as_header()])
        await call.send({"type": "http.response.body", "body": self.body, "more_body": False})


@dataclass(frozen=True, slots=True)
class HeldStream:
    """The end of a stream whose other events have gone out."""

    end: StreamEnd

    async def send(self, call: Call, told: Told) -> None:
        rest = self.end.told(told.as_json(), member=told.energy is not None)
        await call.send({"type": "http.response.body", "body": rest, "more_body": False})


async def hold_answer(call: Call, answer: Answer, watch: Watch) -> None:
    """Take a whole answer from its server, and let go of one that is too long.

    Raises:
        UpstreamError: it broke off.
    """
    headers, chunks, held_bytes = end_to_end(answer.headers, *OURS), list[bytes](), 0
    try:
        while chunk := await answer.next():
            watch(chunk)
            chunks.append(chunk)
            held_bytes += len(chunk)
            if held_bytes <= LONGEST_ANSWER:
                continue
            if not call.started:
                await call.start(answer.status, [*headers, Told(reason=Reason.TOO_LONG).as_header()])
            await call.send({"type": "http.response.body", "body": b"".join(chunks), "more_body": True})
            chunks.clear()
    finally:
        watch(b"")
    if call.started:
        await call.send({"type": "http.response.body", "body": b"", "more_body": False})
    else:
        call.held = HeldAnswer(answer.status, headers, b"".join(chunks))


async def hold_stream(
    call: Call, answer: Answer, watch: Watch, strip: Callable[[bytes], bytes] | None, read: Callable[[bytes], Event]
) -> None:
    """Pass a stream's events on as they come, all but its end.

    Args:
        call: to whose client.
        answer: from its server.
        watch: looks at the chunks as they came.
        strip: takes out of them what the client did not ask for.
        read: what the data of one event tells.

    Raises:
        UpstreamError: it broke off; all of it that came has gone on.
    """
    end = StreamEnd(read)
    await call.start(answer.status, end_to_end(answer.headers, *OURS))
    try:
        while chunk := await answer.next():
            watch(chunk)
            passed = end.feed(chunk if strip is None else strip(chunk))
            if passed:
                await call.send({"type": "http.response.body", "body": passed, "more_body": True})
    except UpstreamError:
        await call.send({"type": "http.response.body", "body": end.rest(), "more_body": True})
        raise
    finally:
        watch(b"")
    passed = end.feed(b"" if strip is None else strip(b""))
    if passed:
        await call.send({"type": "http.response.body", "body": passed, "more_body": True})
    call.held = HeldStream(end)
