"""Reads numbers and texts out of JSON that somebody else wrote, within bounds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MOST = 1 << 31  # beyond it a count is no count


def count(value: object, default: int) -> int:
    """A positive whole number from a body, else the engine's default."""
    return min(value, MOST) if isinstance(value, int) and not isinstance(value, bool) and value > 0 else default


def told(value: object) -> int | None:
    """A count that an engine told; 0 is one."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST else None


def name(value: object) -> str:
    """A short text from a body, else none; half a surrogate pair, which JSON can write, could not be passed on."""
    return value[:256].encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def members(value: object) -> Mapping[str, Any]:
    """An object, or an empty one where there is something else."""
    return value if isinstance(value, dict) else {}


def parsed(data: bytes) -> Any:
    """JSON, or None where it is none that Python reads."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


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


def prompts(value: object) -> tuple[int, bool, int]:
    """Tokens, whether they are an estimate, and how many prompts: a text, token ids, or a list of either."""
    if not isinstance(value, list) or not value:
        return estimated_tokens(value), True, 1
    if all(isinstance(item, int) for item in value):
        return len(value), False, 1
    if any(isinstance(item, int) for item in value):  # ids and texts mixed are one prompt to llama.cpp, and to others none
        return estimated_tokens(value) + sum(isinstance(item, int) for item in value), True, 1
    if all(isinstance(item, list) and not (item and isinstance(item[0], dict | list)) for item in value):
        return sum(len(ids) for ids in value), False, len(value)
    return estimated_tokens(value), True, len(value)
