"""Holds back the end of a stream until something is known that belongs there, and writes it in."""

from __future__ import annotations

import re
from collections.abc import Callable

from proxy.dialects.base import NOTHING, Event
from proxy.dialects.events import EventSplitter
from proxy.dialects.rewrite import read_object

DONE = b"[DONE]"
LONGEST_END = 8 << 20  # more is held of no stream

_DATA = re.compile(rb"^data:[ \t]*([^\r\n]*)", re.MULTILINE)
_BLANK = (b"\n\n", b"\r\n\r\n")
# by these an event that brings counts says that they are the last: a sequence's or a message's end, or no choices at all
_LAST = re.compile(
    rb'"finish_reason"\s*:\s*(?:\{|"[^"])|"choices"\s*:\s*\[\s*\]|"generated_text"\s*:\s*"|"stop"\s*:\s*true'
    rb'|"type"\s*:\s*"(?:message_delta|response\.(?:completed|incomplete|failed))"'
)


class StreamEnd:
    """Fed with chunks, gives back whole events at once, but for the last ones: from the last counts or `[DONE]` on.

    What seemed to be the end and was not (one of several sequences) goes on with the next token.
    """

    def __init__(self, read: Callable[[bytes], Event]) -> None:
        """Read: what the data of one event tells, as in `Dialect.read_event`."""
        self._read = read
        self._splitter = EventSplitter()
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._whole = True  # what has gone on ends where an event ends
        self._newline = b"\n"

    def feed(self, chunk: bytes) -> bytes:
        """What goes on at once."""
        return b"".join([self._take(event) for event in self._splitter.feed(chunk)])

    def rest(self) -> bytes:
        """All that is held, as it came."""
        return self._let_go() + self._splitter.flush()

    def told(self, text: str, *, member: bool) -> bytes:
        """All that is held, with `energy` in it.

        Args:
            text: JSON in ASCII, on one line.
            member: it becomes a member of the event with the last counts, too, where there is one.
        """
        left = self._splitter.flush()
        if not self._whole:
            return left
        events = [*self._held, left]
        if member:
            events = self._with_member(events, text)
        # else behind the last whole event, for what is left may go without an end
        at = next((n for n, event in enumerate(events) if _data(event) == DONE), len(self._held))
        comment = b": energy " + text.encode() + self._newline * 2
        return b"".join([*events[:at], comment, *events[at:]])

    def _take(self, event: bytes) -> bytes:
        whole, self._whole = self._whole, event.endswith(_BLANK)
        if not (whole and self._whole):  # a piece of one that is too long
            return self._let_go() + event
        self._newline = b"\r\n" if event.endswith(b"\r\n\r\n") else b"\n"
        data = _data(event)
        if data != DONE and not self._brings_last_counts(data) and (not self._held or self._event(data).tokens):
            return self._let_go() + event
        self._held.append(event)
        self._held_bytes += len(event)
        return self._let_go() if self._held_bytes > LONGEST_END else b""

    def _let_go(self) -> bytes:
        held, self._held, self._held_bytes = b"".join(self._held), [], 0
        return held

    def _brings_last_counts(self, data: bytes) -> bool:
        return _LAST.search(data) is not None and self._event(data).usage is not None

    def _event(self, data: bytes) -> Event:
        try:
            return self._read(data) if data else NOTHING
        except Exception:  # a server may write anything; what cannot be read goes on as it is
            return NOTHING

    def _with_member(self, events: list[bytes], text: str) -> list[bytes]:
        last = next((n for n in reversed(range(len(events))) if self._brings_last_counts(_data(events[n]))), None)
        if last is None:
            return events
        return [*events[:last], _with_energy(events[last], text), *events[last + 1 :]]


def _data(event: bytes) -> bytes:
    """The data of an event that has one line of it, else nothing."""
    found = _DATA.findall(event)
    return bytes(found[0]).rstrip() if len(found) == 1 else b""


def _with_energy(event: bytes, text: str) -> bytes:
    """The same event with one more member behind the others; the event itself where that cannot be, or is there already."""
    place = _DATA.search(event)
    found = read_object(place[1]) if place is not None else None
    if place is None or found is None or found.last("energy") is not None:
        return event
    start, end = place.span(1)
    return event[:start] + found.with_values("energy", text).encoded() + event[end:]
