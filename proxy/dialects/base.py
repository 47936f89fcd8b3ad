"""What every dialect is made of: a table of generating routes, and small functions that read copies of bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Ask:
    """What one generation request asks for, as far as a copy of its body tells."""

    operation: str  # OpenTelemetry's gen_ai.operation.name
    streamed: bool
    prompt_tokens: int
    prompt_estimated: bool
    max_new_tokens: int  # over all sequences
    model: str = ""
    service_tier: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts that the engine itself told; None is not told."""

    prompt_tokens: int | None = None
    output_tokens: int | None = None

    def plus(self, other: Usage) -> Usage:
        return Usage(
            (self.prompt_tokens or 0) + (other.prompt_tokens or 0), (self.output_tokens or 0) + (other.output_tokens or 0)
        )


@dataclass(frozen=True, slots=True)
class Event:
    """What one server-sent event tells: how many output tokens, counts, an error's type."""

    tokens: int = 0
    usage: Usage | None = None
    error: str = ""


NOTHING = Event()
ONE_TOKEN = Event(tokens=1)


@dataclass(frozen=True, slots=True)
class Dialect:
    """One family of engines.

    Attributes:
        routes: what generates, by path: reads a request's body.
        read_event: what the data of one server-sent event tells.
        read_answer: counts in the headers (lower case) and body of an answer that was not streamed.
        usage_adds_up: a stream tells the counts of each of its prompts apart (TGI), not of all so far.
        error: the body of an error of ours, from path, message and kind.
    """

    name: str
    provider: str  # OpenTelemetry's gen_ai.provider.name
    routes: Mapping[str, Callable[[Mapping[str, Any]], Ask]]
    read_event: Callable[[bytes], Event]
    read_answer: Callable[[Mapping[bytes, bytes], bytes], Usage]
    error: Callable[[str, str, str], dict[str, object]]
    usage_adds_up: bool = False

    def ask(self, method: str, path: str, body: bytes) -> Ask | None:
        """What a request asks for; None when it does not generate, or is not readable as what it should be."""
        read = self.routes.get(path)
        if read is None or method not in ("POST", "PUT"):
            return None
        try:
            data = json.loads(body)
            if not isinstance(data, dict):
                return None
            return read(data)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):  # a body may be anything
            return None


def generates(dialect: Dialect, method: str, path: str) -> bool:
    return path in dialect.routes and method in ("POST", "PUT")


def estimated_tokens(text: object) -> int:
    """Tokens in a text, by the rule of thumb of four characters each; at least one."""
    return max(_characters(text) // 4, 1)


def _characters(value: object) -> int:
    """Characters of all texts in a JSON value: a prompt, or messages with parts."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum(_characters(item) for item in value)
    if isinstance(value, dict):
        return sum(_characters(value[key]) for key in ("content", "text") if key in value)
    return 0


def count(value: object, default: int) -> int:
    """A positive whole number from a body, else the engine's default."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else default


def usage_in(data: bytes) -> Usage | None:
    """OpenAI's `usage` in a JSON text, where there is one."""
    try:
        return usage_member(json.loads(data))
    except (ValueError, AttributeError, RecursionError):
        return None


def usage_member(data: Mapping[str, Any]) -> Usage | None:
    """OpenAI's `usage` object."""
    usage = data.get("usage")
    if not isinstance(usage, dict):
        return None
    return Usage(count(usage.get("prompt_tokens"), 0) or None, count(usage.get("completion_tokens"), 0) or None)
