"""What is drawn for each planned request besides its instant: lengths in tokens, and tiers; written as short specs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import exp, isfinite, log
from random import Random
from typing import Any

from policies.base import Tier

LENGTHS = "N, uniform:LOW:HIGH, exp:MEAN or lognormal:MEAN:SIGMA"
TIERS = ", ".join(tier.value for tier in Tier)

Length = Callable[[Random], int]


class BadSpec(ValueError):
    """A spec that says nothing; the message says what is allowed."""


def finite(options: Mapping[str, Any]) -> None:
    """Numbers of a command line that never end, or are none, pass every range.

    Raises:
        BadSpec: one is such; the message names it.
    """
    for name, value in options.items():
        if isinstance(value, float) and not isfinite(value):
            raise BadSpec(f"--{name.replace('_', '-')} must be a number that ends, not {value}")


def lengths(spec: str) -> Length:
    """What a length spec draws from: whole tokens, at least one.

    MEAN is the distribution's mean before rounding; SIGMA is the standard deviation of the length's logarithm.

    Raises:
        BadSpec: see there.
    """
    name, *parts = spec.strip().split(":")
    if name.isdigit() and not parts and int(name) >= 1:
        return lambda random: int(name)
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if not all(isfinite(number) and number > 0 for number in numbers):
        numbers = []
    match name, numbers:
        case "uniform", [low, high] if 1 <= low <= high and low.is_integer() and high.is_integer():
            return lambda random: random.randint(int(low), int(high))
        case "exp", [mean]:
            return lambda random: _whole(random.expovariate(1 / mean))
        case "lognormal", [mean, sigma]:
            mu = log(mean) - sigma**2 / 2
            return lambda random: _whole(exp(random.gauss(mu, sigma)))
    raise BadSpec(f"{spec!r} is no length in tokens; write {LENGTHS}, with positive numbers")


def _whole(tokens: float) -> int:
    return max(round(tokens), 1)


def by_tier(spec: str, meaning: str) -> Mapping[Tier, float]:
    """`flex=0.5,interactive=0.5` as numbers, none of them negative.

    Raises:
        BadSpec: see there.
    """
    numbers: dict[Tier, float] = {}
    for part in spec.split(","):
        name, _, text = part.partition("=")
        try:
            number = float(text)
            tier = Tier(name.strip())
        except ValueError:
            raise BadSpec(f"{part!r} is no {meaning}; write TIER=NUMBER,... with tiers of {TIERS}") from None
        if not isfinite(number) or number < 0 or tier in numbers:
            raise BadSpec(f"{part!r}: each tier once, and its {meaning} not negative")
        numbers[tier] = number
    return numbers


def tiers(spec: str) -> Mapping[Tier, float]:
    """Each tier's share of the requests; shares need not add up to one.

    Raises:
        BadSpec: see there.
    """
    shares = by_tier(spec, "share")
    if not sum(shares.values()) > 0:
        raise BadSpec(f"{spec!r}: some tier must have a share")
    return shares
