"""What a study compares: arms, each a policy with a placement and the hold that requests agree to, and how they are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from bench.draws import BadSpec
from policies.strategy import Choice, UnknownStrategy, build
from proxy.sources import toml_or_text

PASSTHROUGH = Choice("passthrough", {})
SPREAD = Choice("spread", {})


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to run the same load.

    Attributes:
        hold_s: what each request's sender agrees to wait; 0 says nothing.
    """

    policy: Choice = PASSTHROUGH
    placement: Choice = SPREAD
    hold_s: float = 0.0

    def __str__(self) -> str:
        """What tells it from straight through."""
        parts = [str(self.policy)] if self.policy != PASSTHROUGH else []
        parts += [str(self.placement)] if self.placement != SPREAD or not parts else []
        held = f", hold {self.hold_s:g} s" if self.hold_s else ""
        return " on ".join(parts) + held if self != STRAIGHT else "straight through"


STRAIGHT = Arm()


def choices(spec: str) -> list[Choice]:
    """`span;window every_s=1` as choices: names with parameters, semicolons between them.

    Raises:
        BadSpec: a parameter is not KEY=VALUE, or there is no name.
    """
    found = [_choice(part) for part in spec.split(";") if part.strip()]
    if not found:
        raise BadSpec(f"{spec!r} names nothing; write NAME KEY=VALUE ...; NAME ...")
    return found


def _choice(text: str) -> Choice:
    name, *pairs = text.split()
    params: dict[str, object] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals or not value:
            raise BadSpec(f"{text.strip()!r}: {pair!r} is no parameter; write KEY=VALUE")
        params[key] = toml_or_text(value)
    return Choice(name, params)


def checked(arms: Sequence[Arm]) -> list[Arm]:
    """The arms, each once.

    Raises:
        BadSpec: a policy, placement or parameter is not known; the message says what is.
    """
    for arm in arms:
        try:
            build(arm.policy, arm.placement)
        except UnknownStrategy as error:
            raise BadSpec(str(error)) from error
    return [arm for number, arm in enumerate(arms) if arm not in arms[:number]]


def numbers(spec: str, meaning: str) -> list[float]:
    """`2,4,8` as positive numbers, each once.

    Raises:
        BadSpec: see there.
    """
    try:
        found = [float(part) for part in spec.split(",")]
    except ValueError:
        found = []
    if not found or not all(isfinite(number) and number > 0 for number in found) or len(set(found)) < len(found):
        raise BadSpec(f"{spec!r} is no list of {meaning}; write different positive numbers with commas between them")
    return found
