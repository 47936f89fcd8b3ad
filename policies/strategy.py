"""A strategy is a policy with a placement; here they are found by name and built from their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from importlib import import_module
from typing import Any, cast, get_type_hints

from pydantic import TypeAdapter, ValidationError

from policies.base import Placement, Policy

POLICIES = {
    "pace": "policies.pace:Pace",
    "passthrough": "policies.passthrough:Passthrough",
    "size": "policies.size:Size",
    "span": "policies.span:Span",
    "window": "policies.window:Window",
}
PLACEMENTS = {
    "pack": "policies.pack:Pack",
    "spread": "policies.spread:Spread",
}


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

    def describe(self) -> dict[str, object]:
        """Names and parameters, as JSON."""
        return {
            "policy": {"name": self.policy_name, "params": _params(self.policy)},
            "placement": {"name": self.placement_name, "params": _params(self.placement)},
        }


def build(policy: Choice, placement: Choice) -> Strategy:
    """The strategy of two choices.

    Raises:
        UnknownStrategy: see there.
    """
    return Strategy(build_policy(policy), build_placement(placement), policy.name, placement.name)


def build_policy(choice: Choice) -> Policy:
    return cast(Policy, _make("policy", POLICIES, choice, method="decide"))


def build_placement(choice: Choice) -> Placement:
    return cast(Placement, _make("placement", PLACEMENTS, choice, method="place"))


def _make(kind: str, built_in: Mapping[str, str], choice: Choice, *, method: str) -> object:
    path = built_in.get(choice.name, choice.name)
    if ":" not in path:
        raise UnknownStrategy(
            f"no {kind} {choice.name!r}: built in are {', '.join(sorted(built_in))}; yours is 'package.module:Name'"
        )
    module, _, attribute = path.partition(":")
    try:
        cls = getattr(import_module(module), attribute)
    except Exception as error:  # anybody's module runs here
        raise UnknownStrategy(f"{kind} {choice.name!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not (isinstance(cls, type) and is_dataclass(cls) and callable(getattr(cls, method, None))):
        raise UnknownStrategy(f"{kind} {choice.name!r} is not a dataclass with a method {method!r}")
    params = _check(kind, choice, cls)
    try:
        return cls(**params)
    except (TypeError, ValueError) as error:
        raise UnknownStrategy(f"{kind} {choice.name!r}: {error}") from error


def _check(kind: str, choice: Choice, cls: type) -> dict[str, Any]:
    """The parameters in the types of the dataclass's fields."""
    hints = get_type_hints(cls)
    allowed = {f.name: hints[f.name] for f in fields(cls) if f.init}
    problems, params = [], {}
    for key, value in choice.params.items():
        if key not in allowed:
            problems.append(f"{kind} {choice.name!r} has no parameter {key!r}; it has {', '.join(allowed) or 'none'}")
            continue
        try:
            params[key] = TypeAdapter(allowed[key]).validate_python(value)
        except ValidationError as error:
            problems.append(f"{kind} {choice.name!r}: {key} = {value!r}: {error.errors()[0]['msg']}")
    if problems:
        raise UnknownStrategy("; ".join(problems))
    return params


def _params(thing: object) -> dict[str, object]:
    return asdict(thing) if is_dataclass(thing) and not isinstance(thing, type) else {}
