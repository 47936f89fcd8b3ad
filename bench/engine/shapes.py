"""JSON bodies held against the types that an engine's parser expects, told in that parser's words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any


class Misfit(ValueError):
    """A body is JSON, but not of the expected shape."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One member's type; `null` is a value of its own, and fits only where it is said to."""

    expected: str
    fits: Callable[[Any], bool]
    nullable: bool = False
    required: bool = False

    def check(self, value: object, where: str) -> None:
        if value is None and self.nullable:
            return
        if not self.fits(value):
            raise Misfit(f"{where}: invalid {_told(value, self.expected)}, expected {self.expected}")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


BOOLEAN = Shape("a boolean", lambda value: isinstance(value, bool))
WHOLE = Shape("u32", _whole)
NUMBER = Shape("f32", lambda value: isinstance(value, int | float) and not isinstance(value, bool))
TEXT = Shape("a string", lambda value: isinstance(value, str))
TEXTS = Shape("a sequence", _texts)
LIST = Shape("a sequence", lambda value: isinstance(value, list))
OBJECT = Shape("a map", lambda value: isinstance(value, dict))


def optional(shape: Shape) -> Shape:
    return replace(shape, nullable=True)


def required(shape: Shape) -> Shape:
    return replace(shape, required=True)


def check(data: object, shapes: Mapping[str, Shape], where: str = "") -> dict[str, Any]:
    """The body, if all that is known of its members fits; unknown members are ignored, as engines do.

    Raises:
        Misfit: the first member that does not.
    """
    if not isinstance(data, dict):
        raise Misfit(f"{where.rstrip('.')}{': ' if where else ''}invalid {_told(data, 'a map')}, expected a map")
    for name, shape in shapes.items():
        if name in data:
            shape.check(data[name], where + name)
        elif shape.required:
            raise Misfit(f"{where.rstrip('.')}{': ' if where else ''}missing field `{name}`")
    return data


def _told(value: object, expected: str) -> str:
    match value:
        case None:
            return "type: null"
        case bool():
            return f"type: boolean `{str(value).lower()}`"
        case int():
            return f"{'value' if expected == 'u32' else 'type'}: integer `{value}`"
        case float():
            return f"type: floating point `{value}`"
        case str():
            return f'type: string "{value}"'
        case list():
            return "type: sequence"
        case _:
            return "type: map"
