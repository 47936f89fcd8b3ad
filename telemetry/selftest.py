"""The attribution tries itself: on a small case of its own, its shares must be the Shapley value and add up exactly."""

from __future__ import annotations

from itertools import permutations
from random import Random

from telemetry.attribution import settle, weights
from telemetry.cost import StepModel
from telemetry.snapshot import Interval, Source
from telemetry.timeline import Timeline

STEPS = 7


def shapley_error(model: StepModel, seed: int = 1) -> float:
    """The largest relative difference between weights and the mean over all orders in which four requests can come."""
    dice = Random(seed)
    members = [_decoding(n, dice.randint(1, 4000)) for n in range(4)]
    costs = [[STEPS * model.step_j.per_sequence, _context_j(member, model)] for member in members]
    expected = [0.0] * len(members)
    orders = list(permutations(range(len(members))))
    for order in orders:
        for place, player in enumerate(order):
            base = 0.0 if place else STEPS * model.step_j.base
            expected[player] += (base + sum(costs[player])) / len(orders)
    found = [weight.joules for weight in weights(0.0, 1.0, members, model)]
    return max(abs(a - b) / max(b, 1e-12) for a, b in zip(found, expected, strict=True))


def conservation_error_uj(model: StepModel, seed: int = 1) -> int:
    """What is lost or made when a random interval is split."""
    dice = Random(seed)
    members = [_decoding(n, dice.randint(1, 4000)) for n in range(dice.randint(0, 8))]
    counted = Interval("selftest", 0.0, 1.0, dice.randint(0, 10**9), Source.MODELLED)
    result = settle(counted, members, model, dice.uniform(0, 500))
    charged_uj = sum(share.active_uj for share in result.shares.values())
    return counted.energy_uj - charged_uj - result.idle_uj - result.unattributed_uj


def _decoding(n: int, prompt: int) -> Timeline:
    """A stream that decodes all through the first second."""
    seen = [(step + 1) / STEPS for step in range(STEPS)]
    return Timeline(f"selftest-{n}", -1.0, -0.5, float("inf"), prompt, ((-1.0, -0.5, prompt),), 0, seen)


def _context_j(member: Timeline, model: StepModel) -> float:
    return model.step_j.per_context_token * STEPS * (member.prompt_tokens + STEPS / 2)
