"""The levers that can be pulled, and a small grid of settings for each: enough to tell whether it is worth it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bench.advise.trial import Stage
from policies.base import Tier
from policies.simulate import Arrival
from policies.strategy import Choice, Strategy, build

DEFERRED = (Tier.FLEX, Tier.BATCH)
KNEES = (8, 16, 32, 64, 128)
WINDOWS_S = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
SLEEPS_AFTER_S = (10.0, 30.0, 120.0)


class Lever(StrEnum):
    """What can be done, in the order of what it costs users."""

    PACKING = "packing"  # fill one server before the next
    SLEEPING = "sleeping"  # ... and let the empty ones sleep
    GROUPING = "grouping"  # hold, and let go together
    DEFERRING = "deferring"  # flex and batch run beside interactive requests, or when nobody else does
    TOGETHER = "together"  # who waits, and where to


@dataclass(frozen=True, slots=True)
class Setting:
    """A strategy as it would be configured."""

    lever: Lever | None  # None: straight through
    policy: Choice
    placement: Choice

    def strategy(self) -> Strategy:
        return build(self.policy, self.placement)

    def __str__(self) -> str:
        return f"{_short(self.policy)}, {_short(self.placement)}"


def _short(choice: Choice) -> str:
    return choice.name + "".join(f" {key}={_value(value)}" for key, value in choice.params.items())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + _short(Choice(value["name"], value.get("params", {}))) + ")"
    return f"{value:g}" if isinstance(value, float) else str(value)


PASS, SPREAD = Choice("passthrough", {}), Choice("spread", {})
STRAIGHT = Setting(None, PASS, SPREAD)


def missing(arrivals: Sequence[Arrival], stage: Stage) -> dict[Lever, str]:
    """Levers that are not there, and why."""
    found: dict[Lever, str] = {}
    if stage.servers < 2:
        found[Lever.PACKING] = "there is one server"
        found[Lever.SLEEPING] = "there is one server"
    elif stage.model.sleep_power_w is None:
        found[Lever.SLEEPING] = "the profile does not say what a sleeping server draws (`sleep_power_w`)"
    if not any(slack_s(arrival) > 0 for arrival in arrivals):
        found[Lever.GROUPING] = "nobody agreed to wait"
    if not any(slack_s(arrival) > 0 and arrival.waiting.tier in DEFERRED for arrival in arrivals):
        found[Lever.DEFERRING] = "there are no flex or batch requests that may wait"
    return found


def slack_s(arrival: Arrival) -> float:
    return arrival.waiting.deadline - arrival.waiting.arrived_at


def single(arrivals: Sequence[Arrival], stage: Stage) -> Iterator[Setting]:
    """Settings of each lever that is there, alone."""
    absent = missing(arrivals, stage)
    if Lever.PACKING not in absent:
        for knee in KNEES:
            if knee <= stage.model.max_sequences:
                yield Setting(Lever.PACKING, PASS, Choice("pack", {"knee": knee}))
    if Lever.GROUPING not in absent:
        most_s = max(slack_s(arrival) for arrival in arrivals)
        for policy in _groupers(most_s):
            yield Setting(Lever.GROUPING, policy, SPREAD)
    if Lever.DEFERRING not in absent:
        for slowdown in (0.05, 0.1, 0.2):
            yield Setting(Lever.DEFERRING, Choice("valley", {"slowdown": slowdown}), SPREAD)


def _groupers(most_s: float) -> Iterator[Choice]:
    yield Choice("span", {})
    yield Choice("cohort", {})
    for wait_j_per_s in (3.0, 10.0, 30.0):
        yield Choice("adaptive", {"wait_j_per_s": wait_j_per_s})
    for every_s in WINDOWS_S:
        if every_s <= most_s:
            yield Choice("window", {"every_s": every_s})


def sleeping(arrivals: Sequence[Arrival], stage: Stage, packing: Choice | None) -> Iterator[Setting]:
    """With the packing that was found best."""
    if packing is None or Lever.SLEEPING in missing(arrivals, stage):
        return
    for after_s in SLEEPS_AFTER_S:
        inner = {"name": packing.name, "params": dict(packing.params)}
        yield Setting(Lever.SLEEPING, PASS, Choice("sleepy", {"after_s": after_s, "placement": inner}))


def together(policies: Sequence[Choice], placements: Sequence[Choice]) -> Iterator[Setting]:
    """The best of who waits with the best of where to."""
    for policy in policies:
        for placement in placements:
            yield Setting(Lever.TOGETHER, policy, placement)
