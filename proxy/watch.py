"""Looks at a copy of what a server answers: when tokens came, how many, and what it says of itself."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from proxy.call import Call
from proxy.dialects import Dialect
from proxy.dialects.base import Usage
from proxy.dialects.events import EventReader
from proxy.fleet import Fleet, Server
from proxy.upstream import Answer
from telemetry.ledger import Entry

log = logging.getLogger("paceline.watch")

# longest answer, not streamed, of which a copy is read for its counts
LONGEST_ANSWER = 8 << 20


Watch = Callable[[bytes], None]

_ERROR = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


def watcher(answer: Answer, call: Call, server: Server, fleet: Fleet) -> Watch:
    """What looks at a copy of the answer's chunks; an empty chunk is the end. It never raises."""
    if call.entry is None or answer.status != 200:
        return lambda chunk: None
    watch, broken = _watch(answer, call, call.entry, server, fleet), False

    def fenced(chunk: bytes) -> None:
        nonlocal broken
        if broken:
            return
        try:
            watch(chunk)
        except Exception:  # a server may answer anything; the answer matters, not what we make of it
            broken = True
            log.exception("request %s: its answer could not be read; it is forwarded all the same", call.id)

    return fenced


def _watch(answer: Answer, call: Call, entry: Entry, server: Server, fleet: Fleet) -> Watch:
    headers = {name.lower(): value for name, value in answer.headers}
    dialect = server.dialect or call.dialect

    def stored(id: str) -> None:
        if id:
            fleet.remember(id, server.name)

    entry.streamed = headers.get(b"content-type", b"").startswith(b"text/event-stream")
    if entry.streamed:
        return _watch_stream(call, entry, dialect, stored)
    return _watch_answer(entry, headers, dialect, stored)


def _watch_stream(call: Call, entry: Entry, dialect: Dialect, stored: Callable[[str], None]) -> Watch:
    reader = EventReader(dialect.read_event)
    scheduler = call.pool.scheduler
    clock = scheduler.clock
    told = Usage()

    def watch(chunk: bytes) -> None:
        nonlocal told
        tokens = 0
        for event in reader.feed(chunk):
            tokens += event.tokens
            if event.error:
                entry.error = _kind(event.error)
            if event.id:
                stored(event.id)
            if event.usage is not None:
                told = told.plus(event.usage) if dialect.usage_adds_up else event.usage
        if tokens:
            if entry.first_token_at is None:
                scheduler.first_token(entry.id)
            entry.saw_tokens(clock(), tokens)
        if b"[DONE]" in chunk:
            call.complete = True
        if not chunk:
            _use_counts(entry, told)

    return watch


def _watch_answer(entry: Entry, headers: dict[bytes, bytes], dialect: Dialect, stored: Callable[[str], None]) -> Watch:
    copy = bytearray()

    def watch(chunk: bytes) -> None:
        if chunk and len(copy) <= LONGEST_ANSWER:
            copy.extend(chunk)
        if not chunk:
            body = bytes(copy)
            _use_counts(entry, dialect.read_answer(headers, body))
            entry.timings = dialect.read_timings(headers, body)
            stored(dialect.read_id(body))

    return watch


def _kind(error: str) -> str:
    """An error's type, if that is what it looks like: an engine may write anything there, and it goes to disk."""
    return error if _ERROR.fullmatch(error) else "error"


def _use_counts(entry: Entry, told: Usage) -> None:
    """The engine's own counts replace estimates; what it did not tell stays an estimate, and says so."""
    if told.prompt_tokens is not None:
        entry.prompt_tokens, entry.prompt_estimated = told.prompt_tokens, told.estimated
    if told.output_tokens is not None:
        entry.output_tokens, entry.output_estimated = told.output_tokens, told.estimated
    if told.cached_tokens is not None:
        entry.cached_tokens = min(told.cached_tokens, entry.prompt_tokens)


def can_be_changed(answer: Answer) -> bool:
    """Whether something may be written into an answer, or taken out: a stream of events, unencoded, of no told length."""
    headers = {name.lower(): value for name, value in answer.headers}
    if answer.status != 200 or not headers.get(b"content-type", b"").startswith(b"text/event-stream"):
        return False
    return b"content-length" not in headers and headers.get(b"content-encoding", b"identity") == b"identity"
