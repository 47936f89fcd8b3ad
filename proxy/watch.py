"""Looks at a copy of what a server answers: when tokens came, how many, and what it says of itself."""

from __future__ import annotations

import logging
from collections.abc import Callable

from proxy.dialects import Dialect
from proxy.dialects.base import Usage
from proxy.dialects.events import EventReader
from proxy.scheduler import Scheduler
from proxy.upstream import Answer
from telemetry.ledger import Entry

log = logging.getLogger("paceline.watch")

# longest answer, not streamed, of which a copy is read for its counts
LONGEST_ANSWER = 8 << 20


Watch = Callable[[bytes], None]


def watcher(answer: Answer, entry: Entry | None, dialect: Dialect, scheduler: Scheduler) -> Watch:
    """What looks at a copy of the answer's chunks; an empty chunk is the end. It never raises."""
    if entry is None or answer.status != 200:
        return lambda chunk: None
    watch, broken = _watch(answer, entry, dialect, scheduler), False

    def fenced(chunk: bytes) -> None:
        nonlocal broken
        if broken:
            return
        try:
            watch(chunk)
        except Exception:  # a server may answer anything; the answer matters, not what we make of it
            broken = True
            log.exception("request %s: its answer could not be read; it is forwarded all the same", entry.id)

    return fenced


def _watch(answer: Answer, entry: Entry, dialect: Dialect, scheduler: Scheduler) -> Watch:
    headers = {name.lower(): value for name, value in answer.headers}
    if headers.get(b"content-type", b"").startswith(b"text/event-stream"):
        entry.streamed = True
        return _watch_stream(entry, dialect, scheduler)
    entry.streamed = False
    return _watch_answer(entry, headers, dialect)


def _watch_stream(entry: Entry, dialect: Dialect, scheduler: Scheduler) -> Watch:
    reader = EventReader(dialect.read_event)
    clock = scheduler.clock
    told = Usage()

    def watch(chunk: bytes) -> None:
        nonlocal told
        tokens = 0
        for event in reader.feed(chunk):
            tokens += event.tokens
            entry.error = event.error or entry.error
            if event.usage is not None:
                told = told.plus(event.usage) if dialect.usage_adds_up else event.usage
        if tokens:
            if entry.first_token_at is None:
                scheduler.first_token(entry.id)
            entry.saw_tokens(clock(), tokens)
        if not chunk:
            _use_counts(entry, told)

    return watch


def _watch_answer(entry: Entry, headers: dict[bytes, bytes], dialect: Dialect) -> Watch:
    copy = bytearray()

    def watch(chunk: bytes) -> None:
        if chunk and len(copy) <= LONGEST_ANSWER:
            copy.extend(chunk)
        if not chunk:
            _use_counts(entry, dialect.read_answer(headers, bytes(copy)))

    return watch


def _use_counts(entry: Entry, told: Usage) -> None:
    """The engine's own counts replace estimates; what it did not tell stays an estimate, and says so."""
    if told.prompt_tokens:
        entry.prompt_tokens, entry.prompt_estimated = told.prompt_tokens, False
    if told.output_tokens:
        entry.output_tokens, entry.output_estimated = told.output_tokens, False
