"""Looks at a copy of what a server answers: when tokens came, how many, and what it says of itself."""

from __future__ import annotations

from collections.abc import Callable

from proxy.dialects import Dialect
from proxy.dialects.base import Usage
from proxy.dialects.events import EventReader
from proxy.scheduler import Scheduler
from proxy.upstream import Answer
from telemetry.ledger import Entry

# longest answer, not streamed, of which a copy is read for its counts
LONGEST_ANSWER = 8 << 20


def watcher(answer: Answer, entry: Entry | None, dialect: Dialect, scheduler: Scheduler) -> Callable[[bytes], None]:
    """What looks at a copy of the answer's chunks; an empty chunk is the end."""
    if entry is None or answer.status != 200:
        return lambda chunk: None
    headers = {name.lower(): value for name, value in answer.headers}
    if headers.get(b"content-type", b"").startswith(b"text/event-stream"):
        entry.streamed = True
        return _watch_stream(entry, dialect, scheduler)
    entry.streamed = False
    return _watch_answer(entry, headers, dialect)


def _watch_stream(entry: Entry, dialect: Dialect, scheduler: Scheduler) -> Callable[[bytes], None]:
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


def _watch_answer(entry: Entry, headers: dict[bytes, bytes], dialect: Dialect) -> Callable[[bytes], None]:
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
