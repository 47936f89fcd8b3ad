"""A strategy is a policy with a placement; here they are found by name and built from their parameters.

A parameter may be a policy or a placement itself, which is how policies are made of policies: `capped` with
`in_flight = 96, policy = "span"`. It is written as a name, or as `{name = ..., params = {...}}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from functools import partial, reduce
from importlib import import_module
from math import isfinite
from operator import attrgetter, or_
from types import UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin, get_type_hints

from pydantic import PlainValidator, PydanticUserError, TypeAdapter, ValidationError

from policies.base import Placement, Policy

POLICIES = {
    "adaptive": "policies.adaptive:Adaptive",
    "capped": "policies.capped:Capped",
    "carbon": "policies.carbon:Carbon",
    "cohort": "policies.cohort:Cohort",
    "ordered": "policies.ordered:Ordered",
    "pace": "policies.pace:Pace",
    "passthrough": "policies.passthrough:Passthrough",
    "prefix": "policies.prefix:Prefix",
    "size": "policies.size:Size",
    "span": "policies.span:Span",
    "valley": "policies.valley:Valley",
    "window": "policies.window:Window",
}
PLACEMENTS = {
    "affine": "policies.affine:Affine",
    "pack": "policies.pack:Pack",
    "sleepy": "policies.sleepy:Sleepy",
    "spread": "policies.spread:Spread",
}
YOURS = "yours is 'package.module:Name'"


class UnknownStrategy(ValueError):
    """A name that is not known, or parameters that do not fit it. The message says what is allowed."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A policy or a placement as it is written in a configuration: a name and parameters."""

    name: str
    params: Mapping[str, object]

    def __str__(self) -> str:
        return self.name + "".join(f" {key}={value}" for key, value in self.params.items())


@dataclass(frozen=True, slots=True)
class Strategy:
    """What is in force: a policy, a placement, and the names they were asked by."""

    policy: Policy
    placement: Placement
    policy_name: str
    placement_name: str

    def describe(self) -> dict[str, dict[str, Any]]:
        """Names and parameters, as JSON."""
        return {
            "policy": {"name": self.policy_name, "params": _params(self.policy)},
            "placement": {"name": self.placement_name, "params": _params(self.placement)},
        }


def as_written(told: Mapping[str, Any]) -> str:
    """A policy or a placement as `describe` tells it, in words: `pack knee=32`; one that is a parameter in parentheses."""
    params = {key: value for key, value in (told.get("params") or {}).items() if value is not None}
    return " ".join((told["name"], *(f"{key}={_value(value)}" for key, value in params.items())))


def _value(value: object) -> str:
    return f"({as_written(value)})" if isinstance(value, Mapping) and "name" in value else str(value)


def build(policy: Choice, placement: Choice) -> Strategy:
    """The strategy of two choices.

    Raises:
        UnknownStrategy: see there.
    """
    return Strategy(build_policy(policy), build_placement(placement), policy.name, placement.name)


def build_policy(choice: Choice) -> Policy:
    return cast(Policy, _make("policy", choice))


def build_placement(choice: Choice) -> Placement:
    return cast(Placement, _make("placement", choice))


def find(kind: str, name: str) -> type:
    """The dataclass of that name.

    Args:
        kind: `policy` or `placement`.
        name: built-in, or `package.module:Name`.

    Raises:
        UnknownStrategy: there is none, or it is no dataclass with the method that makes it one.
    """
    built_in, method = _KINDS[kind]
    path = built_in.get(name, name)
    if ":" not in path:
        raise UnknownStrategy(f"no {kind} {name!r}: built in are {', '.join(sorted(built_in))}; {YOURS}")
    module, _, attribute = path.partition(":")
    try:
        cls = attrgetter(attribute)(import_module(module))
    except Exception as error:  # anybody's module runs here
        hint = "; PYTHONPATH says where modules are looked for" if isinstance(error, ModuleNotFoundError) else ""
        raise UnknownStrategy(f"{kind} {name!r} cannot be imported: {type(error).__name__}: {error}{hint}") from error
    if not (isinstance(cls, type) and is_dataclass(cls) and callable(getattr(cls, method, None))):
        raise UnknownStrategy(f"{kind} {name!r} is not a dataclass with a method {method!r}")
    return cls


_KINDS = {"policy": (POLICIES, "decide"), "placement": (PLACEMENTS, "place")}
_KIND_OF: dict[object, str] = {Policy: "policy", Placement: "placement"}


def _make(kind: str, choice: Choice) -> object:
    cls = find(kind, choice.name)
    params = _check(kind, choice, cls)
    try:
        return cls(**params)
    except (TypeError, ValueError) as error:
        raise UnknownStrategy(f"{kind} {choice.name!r}: {error}") from error


def _check(kind: str, choice: Choice, cls: type) -> dict[str, Any]:
    """The parameters in the types of the dataclass's fields."""
    try:
        allowed = parameters(cls)
    except NameError as error:
        raise UnknownStrategy(f"{kind} {choice.name!r}: {error}, which is a field's type: import it in its module") from error
    problems, params = [], {}
    needed = [f.name for f in fields(cls) if f.init and f.default is MISSING and f.default_factory is MISSING]
    if missing := [key for key in needed if key not in choice.params]:
        problems.append(f"{kind} {choice.name!r} needs {', '.join(missing)}")
    for key, value in choice.params.items():
        if key not in allowed:
            problems.append(f"{kind} {choice.name!r} has no parameter {key!r}; it has {', '.join(allowed) or 'none'}")
            continue
        try:
            params[key] = TypeAdapter(_read(allowed[key])).validate_python(value)
        except ValidationError as error:
            problems.append(f"{kind} {choice.name!r}: {_explain(key, value, error)}")
        except PydanticUserError:
            problems.append(f"{kind} {choice.name!r}: {key} cannot be set, for its type, {allowed[key]!r}, cannot be written")
    if problems:
        raise UnknownStrategy("; ".join(problems))
    return params


def parameters(cls: type) -> dict[str, Any]:
    """The names and types of a dataclass's parameters: those of its fields that it takes when it is made."""
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in fields(cls) if f.init}


def _explain(key: str, value: object, error: ValidationError) -> str:
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, UnknownStrategy):
        at = [str(part) for part in first["loc"] if isinstance(part, int)]  # of a list
        return f"{'.'.join([key, *at])}: {cause}"
    return f"{key} = {value!r}: {first['msg']}"


def _read(hint: Any) -> Any:
    """A field's type, in which policies and placements are built from how they are written."""
    if hint in _KIND_OF:
        return Annotated[Any, PlainValidator(partial(_nested, _KIND_OF[hint]))]
    arguments = get_args(hint)
    if not any(_nests(argument) for argument in arguments):
        return hint
    read = tuple(_read(argument) for argument in arguments)
    origin = get_origin(hint)
    return reduce(or_, read) if origin in (Union, UnionType) else origin[read]


def _nests(hint: Any) -> bool:
    return hint in _KIND_OF if not get_args(hint) else any(_nests(argument) for argument in get_args(hint))


def _nested(kind: str, value: object) -> object:
    """A policy in a policy, or a placement in a placement: its name, `{name, params}`, or the thing itself."""
    if is_dataclass(value) and callable(getattr(value, _KINDS[kind][1], None)):
        return value
    if isinstance(value, str):
        return _make(kind, Choice(value, {}))
    if isinstance(value, Mapping) and {"name"} <= set(value) <= {"name", "params"}:
        name, params = value["name"], value.get("params", {})
        if isinstance(name, str) and isinstance(params, Mapping):
            return _make(kind, Choice(name, params))
    raise UnknownStrategy(f"{value!r} is no {kind}: write its name, or {{name = ..., params = {{...}}}}")


def _params(thing: Any) -> dict[str, object]:
    return {f.name: _tell(getattr(thing, f.name)) for f in fields(thing) if f.init} if is_dataclass(thing) else {}


def _tell(value: Any) -> object:
    """A parameter as JSON has it, and as it can be read again."""
    if is_dataclass(value):
        for kind, (_, method) in _KINDS.items():
            if callable(getattr(value, method, None)):
                return {"name": name_of(kind, type(value)), "params": _params(value)}
        return {field.name: _tell(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return _tell(value.value)
    if isinstance(value, Mapping):
        return {str(_tell(key)): _tell(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_tell(inner) for inner in value]
    if isinstance(value, float) and not isfinite(value):
        return str(value)  # JSON has none
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def name_of(kind: str, cls: type) -> str:
    """The name by which a class is found: built-in where it has one, else `package.module:Name`."""
    path = f"{cls.__module__}:{cls.__qualname__}"
    return next((name for name, built_in in _KINDS[kind][0].items() if built_in == path), path)
