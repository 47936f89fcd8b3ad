"""Which strategies a simulation compares: pairs of a policy and a placement, written as `NAME key=value ...`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from bench.draws import BadSpec
from policies.strategy import PLACEMENTS, Choice, Strategy, UnknownStrategy, build
from proxy.sources import ConfigError, parameters

STRAIGHT = (Choice("passthrough", {}), Choice("spread", {}))
MOST_SWEPT = 200


@dataclass(frozen=True, slots=True)
class Pairing:
    """One strategy as it was asked for.

    Attributes:
        policy: its policy.
        placement: its placement.
        swept: the name whose parameters a sweep varies; empty: none.
    """

    policy: Choice
    placement: Choice
    swept: str = ""

    def __str__(self) -> str:
        return f"{_short(self.policy)} / {_short(self.placement)}"

    @property
    def straight(self) -> bool:
        """Whether it is what all others are compared with."""
        return (self.policy, self.placement) == STRAIGHT

    def build(self) -> Strategy:
        """The strategy itself.

        Raises:
            BadSpec: a name or parameter that is not known.
        """
        try:
            return build(self.policy, self.placement)
        except UnknownStrategy as error:
            raise BadSpec(str(error)) from error


def choice(text: str) -> Choice:
    """`window every_s=2`; values as TOML writes them, keys may have dots: `capped in_flight=64 policy=span`.

    Raises:
        BadSpec: it cannot be read.
    """
    name, pairs = _words(text)
    return Choice(name, _parameters(text, pairs))


def swept(text: str) -> list[Choice]:
    """`window every_s=0.5,1,2`: one for each value, or for each combination where several have several.

    Raises:
        BadSpec: see there.
    """
    name, pairs = _words(text)
    options = []
    for pair in pairs:
        key, _, values = pair.partition("=")
        options.append([f"{key}={value}" for value in values.split(",")])
    if not any(len(values) > 1 for values in options):
        raise BadSpec(f"--sweep {text!r}: some parameter must have several values, such as 'window every_s=0.5,1,2'")
    chosen = [Choice(name, _parameters(text, combination)) for combination in product(*options)]
    if len(chosen) > MOST_SWEPT:
        raise BadSpec(f"--sweep {text!r} is {len(chosen)} strategies; {MOST_SWEPT} are the most")
    return chosen


def pairings(
    policies: Sequence[str], placements: Sequence[str], sweeps: Sequence[str], defaults: Sequence[Pairing]
) -> list[Pairing]:
    """Every policy with every placement, each sweep of one with all of the other, and straight through before all.

    Raises:
        BadSpec: a name, a parameter or a sweep that cannot be read.
    """
    asked = _asked(policies, placements, sweeps) if policies or placements or sweeps else defaults
    found: dict[str, Pairing] = {}
    for pairing in (Pairing(*STRAIGHT), *asked):
        pairing.build()
        found.setdefault(str(pairing), pairing)
    return list(found.values())


def usual(*, servers: int, slack: bool, sleeps: bool) -> list[Pairing]:
    """What is compared when nobody says what: each lever that there is something to pull on."""
    policies = ("passthrough", *(("span", "cohort", "adaptive") if slack else ()))
    placements = ("spread", *(("pack",) if servers > 1 else ()), *(("sleepy",) if sleeps else ()))
    return [Pairing(Choice(policy, {}), Choice(placement, {})) for policy, placement in product(policies, placements)]


def _asked(policies: Sequence[str], placements: Sequence[str], sweeps: Sequence[str]) -> Iterator[Pairing]:
    ruling = [choice(text) for text in policies]
    placing = [choice(text) for text in placements]
    for policy, placement in product(ruling or ([] if sweeps else [STRAIGHT[0]]), placing or [STRAIGHT[1]]):
        yield Pairing(policy, placement)
    for text in sweeps:
        varied = swept(text)
        name = varied[0].name
        placed = name in PLACEMENTS
        pairs = product(ruling or [STRAIGHT[0]], varied) if placed else product(varied, placing or [STRAIGHT[1]])
        for policy, placement in pairs:
            yield Pairing(policy, placement, name)


def _words(text: str) -> tuple[str, list[str]]:
    try:
        name, *pairs = shlex.split(text)
    except ValueError as error:
        raise BadSpec(f"{text!r}: write NAME key=value ... ({error})") from error
    return name, pairs


def _parameters(text: str, pairs: Sequence[str]) -> dict[str, object]:
    try:
        return parameters(pairs)
    except ConfigError as error:
        raise BadSpec(f"{text!r}: write NAME key=value ..., {str(error).removeprefix('--set ')}") from error


def _short(choice: Choice) -> str:
    """All that tells it from others: nested ones with their parameters, in brackets."""
    return " ".join((choice.name, *(f"{key}={_value(value)}" for key, value in choice.params.items())))


def _value(value: object) -> str:
    if not (isinstance(value, dict) and "name" in value):
        return str(value)
    inner = Choice(value["name"], value.get("params", {}))
    return f"({_short(inner)})" if inner.params else inner.name
