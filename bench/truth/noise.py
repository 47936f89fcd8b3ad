"""Blocks of experiments whose truth is known, under kinds of noise that real servers have; nothing is simulated but numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import exp, pi, sin, sqrt
from random import Random

from telemetry.blocks import Block
from telemetry.design import CONTROL, Design

TOKENS = 20_000  # a block's output
REQUESTS = 200
J_PER_TOKEN = 0.3
BLOCK_S, BURN_IN_S = 300.0, 30.0

Noise = Callable[[Random, int], list[float]]  # of so many blocks, the logarithm of what chance does to their joules a token


def independent(random: Random, blocks: int) -> list[float]:
    return [random.gauss(0, 1) for _ in range(blocks)]


def heavy(random: Random, blocks: int) -> list[float]:
    """Student's t with three degrees of freedom: variance, but no more."""
    return [random.gauss(0, 1) / sqrt(sum(random.gauss(0, 1) ** 2 for _ in range(3)) / 3) for _ in range(blocks)]


def spiked(random: Random, blocks: int) -> list[float]:
    """In one block of ten somebody else uses the card."""
    return [random.gauss(0, 0.3) + (random.random() < 0.1) * random.expovariate(0.3) for _ in range(blocks)]


def warming(random: Random, blocks: int) -> list[float]:
    """A card and a room that warm up all day: six standard deviations from the first block to the last."""
    return [6 * block / blocks + random.gauss(0, 1) for block in range(blocks)]


def daily(random: Random, blocks: int) -> list[float]:
    """Traffic's day: a wave of three standard deviations, whose phase is drawn."""
    phase = random.uniform(0, 2 * pi)
    return [3 * sin(2 * pi * block / 24 + phase) + random.gauss(0, 1) for block in range(blocks)]


def lasting(random: Random, blocks: int) -> list[float]:
    """What one block had, the next has mostly too: autoregression with 0.8."""
    level, result = random.gauss(0, 1 / 0.6), []
    for _ in range(blocks):
        level = 0.8 * level + random.gauss(0, 1)
        result.append(level)
    return result


NOISES: Mapping[str, Noise] = {
    "independent": independent,
    "heavy tails": heavy,
    "spikes": spiked,
    "warming": warming,
    "daily wave": daily,
    "autocorrelated": lasting,
}


def design_of(pairs: int, seed: int) -> Design:
    return Design(0.0, BLOCK_S, BURN_IN_S, pairs, seed)


def noisy_blocks(design: Design, effect: float, noise: str, sd: float, random: Random) -> list[Block]:
    """All blocks of one experiment.

    Args:
        design: of it.
        effect: true, as a share: -0.2 is a fifth less with the treatment.
        noise: a key of `NOISES`.
        sd: of one block's logarithm, where the noise's own is one.
        random: draws everything but the orders.
    """
    chance = NOISES[noise](random, design.blocks)
    return [_block(design, index, exp(sd * value), effect, random) for index, value in enumerate(chance)]


def _block(design: Design, index: int, factor: float, effect: float, random: Random) -> Block:
    arm = design.arm_of(index)
    requests, tokens = _about(REQUESTS, random), _about(TOKENS, random)
    energy_j = J_PER_TOKEN * tokens * factor * (1 if arm == CONTROL else 1 + effect)
    return Block(
        index=index,
        arm=arm,
        start_unix_s=design.start_unix_s(index),
        end_unix_s=design.start_unix_s(index + 1),
        energy_j=energy_j,
        burn_in_j=energy_j * design.burn_in_s / (design.block_s - design.burn_in_s),
        boundary_j=0.01 * energy_j,
        carried_j=0.01 * energy_j,
        source="modelled",
        requests=requests,
        completed=requests,
        output_tokens=tokens,
        prompt_tokens=_about(4 * TOKENS, random),
        ttft_p95_s=0.1 * exp(random.gauss(0, 0.05)),
        tpot_p95_s=0.01 * exp(random.gauss(0, 0.02)),
        wait_p99_s=0.5 * exp(random.gauss(0, 0.1)),
        errors=int(random.random() < 0.2),
        arrival_rate=requests / (design.block_s - design.burn_in_s),
    )


def _about(count: int, random: Random) -> int:
    """As a count of independent events varies."""
    return max(round(random.gauss(count, sqrt(count))), 1)
