"""Reads server-sent events out of a stream's chunks, which may be cut anywhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from proxy.dialects.base import Event

# a line longer than this is no event of a token; it is let go unread so that a stream cannot grow our memory
LONGEST_LINE = LONGEST_EVENT = 1 << 20
# of an event that is too long, the end is kept together: that is where engines write counts
TAIL = 1 << 12

_BLANK = re.compile(rb"\n\n|\r\n\r\n")


class EventReader:
    """Fed with chunks, yields what each `data:` line tells."""

    def __init__(self, read: Callable[[bytes], Event]) -> None:
        self._read = read
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[Event]:
        *lines, self._rest = (self._rest + chunk).split(b"\n") if self._rest else chunk.split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            self._rest = b""
        for line in lines:
            if line.startswith(b"data:"):
                yield self._read(line[5:].strip())


class EventSplitter:
    """Fed with chunks, gives back whole events, each with its blank line; all it gives is all it was fed."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The events that this chunk completes; one that grows too long passes in pieces."""
        searched = max(len(self._rest) - 3, 0)  # a blank line may be cut
        data, events, start = self._rest + chunk, [], 0
        for blank in _BLANK.finditer(data, searched):
            events.append(data[start : blank.end()])
            start = blank.end()
        self._rest = data[start:]
        if len(self._rest) > LONGEST_EVENT:
            events.append(self._rest[:-TAIL])
            self._rest = self._rest[-TAIL:]
        return events

    def flush(self) -> bytes:
        """What is left at the end of a stream."""
        rest, self._rest = self._rest, b""
        return rest
