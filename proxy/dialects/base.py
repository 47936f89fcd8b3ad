"""What every dialect is made of: a table of generating routes, and small functions that read copies of bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from re import Pattern
from typing import Any

from proxy.dialects import timings
from proxy.dialects.asks import Ask, unread
from proxy.dialects.sleep_routes import SleepRoutes
from telemetry.ledger import Timings

__all__ = ["NOTHING", "ONE_TOKEN", "Ask", "Dialect", "Event", "Injected", "Read", "Usage"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts that the engine itself told; None is not told."""

    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None  # prompt tokens that the engine found in its prefix cache
    part: bool = field(default=False, compare=False)  # of one of several sequences, rather than of all so far
    estimated: bool = field(default=False, compare=False)  # worked out from what was told

    def plus(self, other: Usage) -> Usage:
        """What is known once `other` was told too: a part adds up, a count of all so far takes the place of the last one."""
        return Usage(
            _both(self.prompt_tokens, other.prompt_tokens, other.part),
            _both(self.output_tokens, other.output_tokens, other.part),
            _both(self.cached_tokens, other.cached_tokens, other.part),
            self.part or other.part,
        )


def _both(before: int | None, now: int | None, add: bool) -> int | None:
    if before is None or now is None:
        return before if now is None else now
    return before + now if add else now


@dataclass(frozen=True, slots=True)
class Event:
    """What one server-sent event tells: how many output tokens, counts, an error's type, the id of a stored thing."""

    tokens: int = 0
    usage: Usage | None = None
    error: str = ""
    id: str = ""


NOTHING = Event()
ONE_TOKEN = Event(tokens=1)


@dataclass(frozen=True, slots=True)
class Injected:
    """A body changed so that the engine tells its counts, and what takes the extra out of its answer.

    Attributes:
        strip: from the bytes of one whole event, its blank line included, to what the client would have seen without.
    """

    body: bytes
    strip: Callable[[bytes], bytes]


def never_inject(path: str, body: bytes) -> Injected | None:
    return None


def nothing_stored(text: str | bytes) -> str:
    return ""


Read = Callable[[Mapping[str, Any]], Ask]


@dataclass(frozen=True, slots=True)
class Dialect:
    """One family of engines.

    Attributes:
        routes: what generates, by path: reads a request's body.
        read_event: what the data of one server-sent event tells.
        read_answer: counts in the headers (lower case) and body of an answer that was not streamed.
        read_timings: phases told in the headers and body of such an answer, where the engine tells any.
        usage_adds_up: counts told in several events of a stream belong together; `Usage.plus` knows how.
        error: the body of an error of ours, from path, message and kind.
        patterns: generating routes with something variable in their path.
        forms: generating routes whose body is a form (audio): its bytes are read.
        engine_admin: what changes an engine's state for everybody: "/path", "POST /path", or either with a * at its end.
        health: a route that tells health and makes the engine do no work.
        sleep: how it is told to sleep and to wake; None: it cannot.
        read_id: the id of the stored thing in an answer that was not streamed, else nothing.
        stored: the id of the stored thing that a path names, else nothing.
        inject: a changed body, from path and body; None where it is not needed, or not possible unseen.
    """

    name: str
    provider: str  # OpenTelemetry's gen_ai.provider.name
    routes: Mapping[str, Read]
    read_event: Callable[[bytes], Event]
    read_answer: Callable[[Mapping[bytes, bytes], bytes], Usage]
    error: Callable[[str, str, str], dict[str, object]]
    read_timings: Callable[[Mapping[bytes, bytes], bytes], Timings | None] = timings.none
    usage_adds_up: bool = True
    patterns: tuple[tuple[Pattern[str], Read], ...] = ()
    forms: Mapping[str, Callable[[bytes], Ask]] = field(default_factory=dict)
    engine_admin: frozenset[str] = frozenset()
    health: str = "/health"
    sleep: SleepRoutes | None = None
    read_id: Callable[[bytes], str] = nothing_stored
    stored: Callable[[str], str] = nothing_stored
    inject: Callable[[str, bytes], Injected | None] = never_inject

    def generates(self, method: str, path: str) -> bool:
        return method in ("POST", "PUT") and (self._reader(path) is not None or path in self.forms)

    def administers(self, method: str, path: str) -> bool:
        """Whether a request would change the engine's state for everybody."""
        path = path.rstrip("/") or "/"  # FastAPI forgives a slash at the end
        both = f"{method} {path}"
        if path in self.engine_admin or both in self.engine_admin:
            return True
        beginnings = _beginnings(self.engine_admin)
        return path.startswith(beginnings) or both.startswith(beginnings)

    def ask(self, method: str, path: str, body: bytes) -> Ask | None:
        """What a request asks for; None when it does not generate, or is not readable as what it should be."""
        if not self.generates(method, path):
            return None
        if path in self.forms:
            return self.forms[path](body)
        read = self._reader(path)
        try:
            data = json.loads(body)
        except (RecursionError, ValueError) as error:
            # an engine may yet take what Python does not (a number of 5,000 digits, a thousand brackets)
            odd = isinstance(error, RecursionError) or not isinstance(error, json.JSONDecodeError | UnicodeDecodeError)
            return unread(body) if odd and body.lstrip()[:1] == b"{" else None
        if not isinstance(data, dict) or read is None:
            return None
        try:
            return read(data)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):  # a body may be anything
            return unread(body)

    def _reader(self, path: str) -> Read | None:
        if path in self.routes:
            return self.routes[path]
        return next((read for pattern, read in self.patterns if pattern.fullmatch(path)), None)


@cache
def _beginnings(engine_admin: frozenset[str]) -> tuple[str, ...]:
    return tuple(entry[:-1] for entry in engine_admin if entry.endswith("*"))
