"""What the live validation runs: one load under one strategy on so many engines, each a cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.arrivals import Load, Planned
from policies.base import Tier
from policies.strategy import Choice, UnknownStrategy, build

LEAST_REQUESTS = 40  # a 99th percentile of fewer is a story about one of them


@dataclass(frozen=True, slots=True)
class Cell:
    """One run.

    Attributes:
        rate: requests a second, Poisson.
        requests: how many.
        hold_s: what each may be held.
        prompt_tokens: a length spec.
        output_tokens: the same.
    """

    rate: float
    policy: Choice
    placement: Choice
    servers: int
    requests: int
    hold_s: float
    prompt_tokens: str
    output_tokens: str
    seed: int

    @property
    def study(self) -> str:
        return f"{self.rate:g}/s, {self.servers} engine{'s' * (self.servers > 1)}"

    @property
    def arm(self) -> str:
        return str(self.policy) if self.servers == 1 else f"{self.policy}, {self.placement}"

    def plan(self) -> list[Planned]:
        load = Load(
            rate=self.rate,
            requests=self.requests,
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            seed=self.seed,
        )
        return load.plan()

    @property
    def holds(self) -> dict[Tier, float]:
        return {Tier.INTERACTIVE: self.hold_s}


@dataclass(frozen=True, slots=True)
class Grid:
    """All cells: each policy at each rate on one engine, and each placement at each rate of a fleet, straight through."""

    rates: Sequence[float]
    policies: Sequence[Choice]
    fleets: Sequence[int]
    fleet_rates: Sequence[float]
    placements: Sequence[Choice]
    seconds: float
    hold_s: float
    prompt_tokens: str
    output_tokens: str
    seed: int

    def cells(self) -> list[Cell]:
        """All of them; those with a strategy that is not there are left out, and `absent` names them."""
        spread, through = Choice("spread", {}), Choice("passthrough", {})
        one = [self._cell(rate, policy, spread, 1) for rate in self.rates for policy in self.policies]
        many = [self._cell(r, through, placed, n) for n in self.fleets for r in self.fleet_rates for placed in self.placements]
        return [cell for cell in one + many if not missing(cell.policy, cell.placement)]

    def absent(self) -> list[str]:
        spread, through = Choice("spread", {}), Choice("passthrough", {})
        found = [missing(policy, spread) for policy in self.policies] + [missing(through, p) for p in self.placements]
        return [why for why in found if why]

    def _cell(self, rate: float, policy: Choice, placement: Choice, servers: int) -> Cell:
        requests = max(round(rate * self.seconds), LEAST_REQUESTS)
        lengths = (self.prompt_tokens, self.output_tokens)
        return Cell(rate, policy, placement, servers, requests, self.hold_s, *lengths, self.seed)


def missing(policy: Choice, placement: Choice) -> str:
    """Why a strategy cannot be had; empty if it can."""
    try:
        build(policy, placement)
    except UnknownStrategy as error:
        return str(error)
    return ""
