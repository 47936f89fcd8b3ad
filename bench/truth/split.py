"""The experiment that one must not do, to see how far it is off: requests dealt at random to two policies on one server.

Each request's joules are known exactly (the engine's own Shapley values), better than any proxy can know them. It is still
wrong, since the arms share the server: those who leave at once keep it busy for the held, and the held form batches that the
others profit by. All joules are the model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log
from random import Random

from bench.truth.serving import arrivals, strategy
from policies.base import Decision, Policy, Tier, View
from policies.part import Part, ask, sooner
from policies.passthrough import Passthrough
from policies.simulate import Arrival, Run, simulate
from policies.span import Span
from policies.spread import Spread
from policies.strategy import Strategy
from telemetry.cost import load_profile

SPLIT_S = 24 * 60.0  # as long as the switchback that it is compared with
CONTROL_TIER, TREATMENT_TIER = Tier.INTERACTIVE, Tier.FLEX  # which arm a request was dealt


@dataclass(frozen=True, slots=True)
class Dealt:
    """Each tier under a policy of its own, at the same time."""

    control: Policy
    treatment: Policy

    def decide(self, view: View, memory: object) -> Decision:
        control, treatment = memory if isinstance(memory, tuple) else (None, None)
        one = ask(self.control, view, Part(view.waiting, (CONTROL_TIER,)), control)
        other = ask(self.treatment, view, Part(view.waiting, (TREATMENT_TIER,)), treatment)
        return Decision([*one.release, *other.release], sooner(one.wake_at, other.wake_at), (one.memory, other.memory))


@dataclass(frozen=True, slots=True)
class Naive:
    """Log ratios of joules a token, treatment over control, of one split.

    Attributes:
        net: of what requests were charged, net of idle.
        shared: with the server's idle joules shared out by token.
    """

    net: float
    shared: float


def split(seed: int, rate: float, seconds: float = SPLIT_S) -> Naive:
    """Passthrough against span on one server."""
    random = Random(f"dealt {seed}")
    dealt = [_dealt(arrival, random.random() < 0.5) for arrival in arrivals(seconds, seed, rate)]
    both = Strategy(Dealt(Passthrough(), Span()), Spread(), "dealt", "spread")
    run = simulate(dealt, both, load_profile())
    idle_j = sum(run.energy_j.values()) - sum(one.energy_j for one in run.served.values())
    idle = idle_j / sum(one.output_tokens for one in run.served.values())
    control, treatment = (_per_token(run, tier) for tier in (CONTROL_TIER, TREATMENT_TIER))
    return Naive(log(treatment / control), log((treatment + idle) / (control + idle)))


def whole(seed: int, rate: float, seconds: float = SPLIT_S) -> Naive:
    """The truth for the same traffic: everybody under either arm, in two runs."""
    coming = arrivals(seconds, seed, rate)
    runs = [simulate(coming, strategy(arm), load_profile()) for arm in ("passthrough", "span")]
    net = [_per_token(run, TREATMENT_TIER) for run in runs]
    everything = [sum(run.energy_j.values()) for run in runs]
    return Naive(log(net[1] / net[0]), log(everything[1] / everything[0]))


def _dealt(arrival: Arrival, treated: bool) -> Arrival:
    return replace(arrival, waiting=replace(arrival.waiting, tier=TREATMENT_TIER if treated else CONTROL_TIER))


def _per_token(run: Run, tier: Tier) -> float:
    served: Sequence[tuple[float, int]] = [
        (one.energy_j, one.output_tokens) for one in run.served.values() if one.waiting.tier is tier
    ]
    return sum(energy_j for energy_j, _ in served) / sum(tokens for _, tokens in served)
