"""Small pieces of JSON Schema that the chart's values are put together from, each with its sentence."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def table(description: str = "", /, **properties: Schema) -> Schema:
    """An object of ours: other keys than these are refused. `from_` is `from`, which is a word of Python's."""
    told = {"description": description} if description else {}
    named = {name.removesuffix("_"): value for name, value in properties.items()}
    return {"type": "object", "additionalProperties": False, **told, "properties": named}


def text(description: str, **more: Any) -> Schema:
    return {"type": "string", "description": description, **more}


def flag(description: str) -> Schema:
    return {"type": "boolean", "description": description}


def whole(description: str, least: int = 1, most: int | None = None) -> Schema:
    return {"type": "integer", "minimum": least, **({"maximum": most} if most else {}), "description": description}


def several(description: str, of: str = "object") -> Schema:
    return {"type": "array", "items": {"type": of}, "description": description}


def foreign(description: str) -> Schema:
    """An object that Kubernetes knows, and checks itself."""
    return {"type": "object", "description": description}


def words(description: str) -> Schema:
    return {"type": "object", "additionalProperties": {"type": "string"}, "description": description}


def port(description: str, least: int = 1) -> Schema:
    return whole(description, least, 65535)


def secret(description: str) -> Schema:
    return table(description, name={"type": "string"}, key={"type": "string"})


def outward(description: str) -> Schema:
    ports = {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 65535}}
    return table(description, to={"type": "array", "items": {"type": "object"}}, ports=ports)
