"""Tiers of requests that come without any: drawn by the shares that were asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import isclose
from random import Random
from typing import Any

from bench.draws import BadSpec, tiers
from policies.base import Tier
from policies.simulate import Arrival


def shares_of(given: Mapping[str, Any]) -> Mapping[Tier, float] | None:
    """Each tier's share of the requests; None: tiers are as they come.

    Raises:
        BadSpec: they do not add up to 1; a share that is left out would be somebody else's.
    """
    spec = given["shares"]
    if not spec:
        return None
    shares = dict(tiers(spec))
    total = sum(shares.values())
    if isclose(total, 1.0, abs_tol=1e-6):
        return shares
    rest = 1 - total + shares.get(Tier.INTERACTIVE, 0.0)
    scaled = {tier: share / total for tier, share in shares.items()}
    whole = {**shares, Tier.INTERACTIVE: rest} if 0 < rest <= 1 else scaled
    written = ",".join(f"{tier.value}={share:.6g}" for tier, share in whole.items())
    raise BadSpec(f"--tiers {spec}: shares add up to {total:g}, not 1; write --tiers {written}")


def with_tiers(trace: list[Arrival], shares: Mapping[Tier, float], slack_s: Mapping[Tier, float], seed: int) -> list[Arrival]:
    """The same arrivals with tiers drawn by their shares; those of a tier that `slack_s` does not name keep their own slack."""
    tiers = Random(f"{seed}/tiers").choices(list(shares), list(shares.values()), k=len(trace))
    return [_in_tier(arrival, tier, slack_s.get(tier)) for arrival, tier in zip(trace, tiers, strict=True)]


def _in_tier(arrival: Arrival, tier: Tier, slack_s: float | None) -> Arrival:
    own = arrival.waiting
    deadline = own.deadline if slack_s is None else own.arrived_at + slack_s
    return Arrival(replace(own, tier=tier, deadline=deadline), arrival.output_tokens)
