"""Plans a study: which runs it is made of, in which order, and how long each takes.

All arms of one rate and seed are sent the same instants and lengths, and follow one another, so that they form pairs. Their
order is drawn, and turned round for the next seed, so that neither place nor drift favours one. Seeds go round: a study that
ends early has fewer pairs in its last cells, not cells that it never tried.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from random import Random
from typing import Any

from bench.arrivals import Load, Planned
from bench.draws import BadSpec
from bench.studies.arms import Arm
from telemetry.cost import StepModel

READING_S = 1.0  # after it: its joules settle, its requests are read


@dataclass(frozen=True, slots=True)
class Shape:
    """What every run of a study has in common; runs of another shape are another study.

    Attributes:
        requests: in a run, by rate; the key 0 is of all other rates.
        prompt_tokens: a length spec (`bench/draws.py`).
        output_tokens: the same.
        settle_s: before each run, so that it begins with idle devices.
    """

    model: str
    meter: str
    requests: Mapping[float, int]
    prompt_tokens: str
    output_tokens: str
    settle_s: float = 1.5

    def identity(self) -> dict[str, Any]:
        """What must be the same for runs to be one study. Requests at single rates may be added."""
        return {key: value for key, value in asdict(self).items() if key != "requests"}


@dataclass(frozen=True)
class Run:
    """One load under one arm."""

    shape: Shape
    rate: float
    seed: int
    arm: Arm

    @property
    def requests(self) -> int:
        return self.shape.requests.get(self.rate, self.shape.requests[0])

    @property
    def id(self) -> str:
        """A file's name, told from that of every other run."""
        words = [f"rate{self.rate:g}", f"n{self.requests}", f"seed{self.seed}", f"hold{self.arm.hold_s:g}"]
        return re.sub(r"[^\w.=-]+", "_", "-".join([*words, str(self.arm.policy), str(self.arm.placement)]))

    @cached_property
    def plan(self) -> list[Planned]:
        """Decided by rate, seed and number: the same for all arms."""
        return Load(
            rate=self.rate,
            requests=self.requests,
            prompt_tokens=self.shape.prompt_tokens,
            output_tokens=self.shape.output_tokens,
            seed=self.seed,
        ).plan()

    def expected_s(self, model: StepModel) -> float:
        """From its last arrival, one hold, and an answer alone; what a full server adds is not in it."""
        last = self.plan[-1]
        alone_s = model.alone_s(last.prompt_tokens, last.output_tokens)
        return self.shape.settle_s + last.at_s + self.arm.hold_s + alone_s + READING_S


def runs(shape: Shape, rates: Sequence[float], seeds: Sequence[int], arms: Sequence[Arm]) -> list[Run]:
    """All of them, in order; see the module."""
    return [Run(shape, rate, seed, arm) for seed in seeds for rate in rates for arm in order(arms, rate, seed)]


def order(arms: Sequence[Arm], rate: float, seed: int) -> list[Arm]:
    """Drawn for each two seeds, the second of which has it turned round."""
    drawn = Random(f"order/{rate:g}/{seed // 2}").sample(arms, len(arms))
    return drawn[::-1] if seed % 2 else drawn


def requests(spec: str) -> Mapping[float, int]:
    """`100,1=30`: so many requests in a run, and at some rates others.

    Raises:
        BadSpec: see there.
    """
    found: dict[float, int] = {}
    for part in spec.split(","):
        rate, equals, number = part.rpartition("=")
        try:
            key, count = (float(rate) if equals else 0.0), int(number)
        except ValueError:
            key, count = -1.0, 0
        if count < 2 or key < 0 or key in found:
            raise BadSpec(f"{spec!r} is no number of requests; write N or N,RATE=N,... with each N at least 2")
        found[key] = count
    if 0.0 not in found:
        raise BadSpec(f"{spec!r}: a number for all other rates comes first, as in 100,1=30")
    return found
