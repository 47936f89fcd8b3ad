"""Reads server-sent events out of a stream's chunks, which may be cut anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from proxy.dialects.base import Event

# a line longer than this is no event of a token; it is let go unread so that a stream cannot grow our memory
LONGEST_LINE = 1 << 20


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
