"""Experiments on a simulated server, whose truth two whole runs tell: everybody under either arm. Joules are the model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import log
from random import Random
from statistics import fmean

from bench.experiments import simulated_blocks
from policies.base import Policy, Tier, Waiting
from policies.passthrough import Passthrough
from policies.simulate import Arrival, Run, simulate
from policies.span import Span
from policies.spread import Spread
from policies.strategy import Strategy
from policies.window import Window
from telemetry.blocks import Block
from telemetry.cost import Linear, StepModel, load_profile
from telemetry.design import Design

RATE, SLACK_S = 2.0, 2.0  # requests a second, and how long each may be held
PROMPT_TOKENS, OUTPUT_TOKENS = 256, 128  # means; outputs are exponential, so that blocks differ
BLOCK_S, BURN_IN_S, PAIRS = 60.0, 10.0, 12
LEAD_S = 20.0  # of traffic before the first block, and after the last
TRUTH_S = 3600.0  # of each of the two runs that tell the truth

POLICIES: Mapping[str, Policy] = {
    "passthrough": Passthrough(),
    "window 1 s": Window(every_s=1.0),
    "span": Span(),
}


def strategy(policy: str) -> Strategy:
    return Strategy(POLICIES[policy], Spread(), policy, "spread")


def arrivals(seconds: float, seed: int, rate: float = RATE) -> list[Arrival]:
    """Poisson, from the instant 0 on."""
    random, at = Random(f"arrivals {seed}"), 0.0
    result: list[Arrival] = []
    while (at := at + random.expovariate(rate)) < seconds:
        output = max(round(random.expovariate(1 / OUTPUT_TOKENS)), 1)
        prompt = random.randint(PROMPT_TOKENS // 2, 3 * PROMPT_TOKENS // 2)
        waiting = Waiting(str(len(result)), at, at + SLACK_S, prompt, 1024, tier=Tier.FLEX)
        result.append(Arrival(waiting, output))
    return result


def experiment(control: str, treatment: str, seed: int, rate: float = RATE) -> tuple[Design, list[Block]]:
    """One switchback, with traffic and orders of its own."""
    design = Design(LEAD_S, BLOCK_S, BURN_IN_S, PAIRS, seed)
    coming = arrivals(design.ends_unix_s + LEAD_S, seed, rate)
    model = load_profile()
    return design, simulated_blocks(coming, strategy(control), strategy(treatment), design, model)


def counterphase_experiment(
    control: str,
    treatment: str,
    seed: int,
    *,
    hungrier: float = 1.0,
    pairs: int = PAIRS,
    block_s: float = BLOCK_S,
    burn_in_s: float = BURN_IN_S,
) -> tuple[Design, list[Block]]:
    """One experiment on two servers in counterphase, each with as much to do as the one of `experiment` has.

    Args:
        control: a key of `POLICIES`.
        treatment: likewise.
        seed: decides traffic, sides and orders.
        hungrier: so many times the joules that the first server takes, the second one does.
        pairs: windows in which either side has one arm.
        block_s: their length, seconds.
        burn_in_s: likewise of what is not analysed.
    """
    design = Design(LEAD_S, block_s, burn_in_s, pairs, seed, parallel=True)
    coming = arrivals(design.ends_unix_s + LEAD_S, seed, 2 * RATE)
    model, arms = load_profile(), (strategy(control), strategy(treatment))
    return design, simulated_blocks(coming, *arms, design, model, servers=2, models={"engine-1": hungry(model, hungrier)})


def hungry(model: StepModel, times: float) -> StepModel:
    """A device that takes so many times the joules for the same work in the same time."""
    step = model.step_j
    more = Linear(*(times * cost for cost in (step.base, step.per_sequence, step.per_prompt_token, step.per_context_token)))
    return replace(model, step_j=more, idle_power_w=times * model.idle_power_w)


def sides_apart(design: Design, blocks: Sequence[Block]) -> float:
    """What a split whose sides kept their arms would call the effect: side B's joules a token over side A's, as a log ratio."""
    sides = [[block for block in blocks if design.side_of(block.index) == side] for side in range(design.sides)]
    first, second = (sum(b.energy_j or 0.0 for b in side) / sum(b.output_tokens for b in side) for side in sides)
    return log(second / first)


def true_effect(control: str, treatment: str, seeds: int = 3, rate: float = RATE) -> float:
    """The mean log ratio of joules a token when everybody is under one arm, idle included, from runs of an hour each."""
    logs = []
    for seed in range(seeds):
        coming = arrivals(TRUTH_S, 1_000_000 + seed, rate)
        per_token = [_per_token(simulate(coming, strategy(arm), load_profile())) for arm in (control, treatment)]
        logs.append(log(per_token[1] / per_token[0]))
    return fmean(logs)


def _per_token(run: Run) -> float:
    return sum(run.energy_j.values()) / sum(one.output_tokens for one in run.served.values())
