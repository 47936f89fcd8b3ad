"""The study's cells, each many experiments whose truth is known, run side by side on all cores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from math import exp, log1p, sqrt
from multiprocessing import get_context
from random import Random
from statistics import fmean
from typing import Any

from bench.truth.noise import NOISES, design_of, noisy_blocks
from bench.truth.serving import PAIRS, counterphase_experiment, experiment, true_effect
from bench.truth.split import Naive, split, whole
from bench.truth.trials import ALPHA, Trial, share, trial
from telemetry.comparison import Guardrails
from telemetry.detection import probability

SD = 0.03  # of a block's logarithm: what a fairly quiet server shows in five minutes
RATES = (1.0, 2.0, 4.0, 8.0)  # requests a second at which a split by request is held against the truth
# whoever may be held waits for his first token, by design; what else may be worse is watched
HOLDING = Guardrails(ttft_p95=None, tpot_p95=1.5)
HUNGRIER = {"counterphase": 1.0, "unlike": 1.2}  # of splits, how much more the second server takes
SPLIT: tuple[tuple[str, float | None], ...] = (("span against span", 0.0), ("passthrough against span", None))
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Cell:
    """Experiments of one kind.

    Attributes:
        kind: noise (a model), simulator, or a split in the simulator: counterphase, or unlike (one server is a fifth hungrier).
        name: of the noise, or of the two policies.
        effect: true, as a share; of the simulator None, since runs tell it.
        pairs: planned.
        experiments: how many.
    """

    kind: str
    name: str
    effect: float | None
    pairs: int
    experiments: int

    @property
    def policies(self) -> tuple[str, str]:
        control, _, treatment = self.name.partition(" against ")
        return control, treatment


def cells(experiments: int) -> list[Cell]:
    """Models of noise with and without an effect, and a tenth as many experiments in the simulator (a twentieth of splits)."""
    noises = [
        Cell("noise", name, effect, pairs, experiments) for name in NOISES for pairs in (12, 24) for effect in (0.0, -0.05)
    ]
    curve = [Cell("noise", "independent", effect, 12, experiments) for effect in (-0.02, -0.03, -0.07, -0.1)]
    few = max(experiments // 10, 2)
    served = [
        Cell("simulator", name, 0.0 if name == "span against span" else None, PAIRS, few)
        for name in ("span against span", "passthrough against window 1 s", "passthrough against span")
    ]
    apart = [Cell(kind, name, effect, PAIRS, few) for kind in HUNGRIER for name, effect in SPLIT]
    return [*noises, *curve, *served, *apart]


def study(experiments: int, processes: int, tell: Tell) -> dict[str, Any]:
    """All of it.

    Args:
        experiments: of each cell with a model of noise; the simulator's have a tenth.
        processes: to use.
        tell: of progress.
    """
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        told = []
        for cell in cells(experiments):
            truth = _truth(cell)
            chunks = [(cell, truth, first, min(first + 25, cell.experiments)) for first in range(0, cell.experiments, 25)]
            trials = [one for some in pool.map(_trials, chunks) for one in some]
            told.append(summary(cell, truth, trials))
            tell(
                f"{cell.kind}: {cell.name}, {cell.pairs} pairs, {told[-1]['effect_percent']:+.1f} %: {len(trials)} experiments"
            )
        splits = []
        for rate in RATES:
            splits.append(_split(rate, max(experiments // 20, 2), pool.map))
            tell(f"split by request at {rate:g}/s")
    return {"cells": told, "splits": splits}


def _truth(cell: Cell) -> float:
    """As a log ratio."""
    return true_effect(*cell.policies) if cell.effect is None else log1p(cell.effect)


def _trials(chunk: tuple[Cell, float, int, int]) -> list[Trial]:
    cell, truth, first, last = chunk
    return [_trial(cell, truth, seed) for seed in range(first, last)]


def _trial(cell: Cell, truth: float, seed: int) -> Trial:
    if cell.kind in HUNGRIER:
        design, blocks = counterphase_experiment(*cell.policies, seed, hungrier=HUNGRIER[cell.kind])
        return trial(design, blocks, truth, HOLDING)
    if cell.kind == "simulator":
        design, blocks = experiment(*cell.policies, seed)
        return trial(design, blocks, truth, HOLDING)
    design = design_of(cell.pairs, seed)
    random = Random(f"{cell.name} {cell.effect} {cell.pairs} {seed}")
    return trial(design, noisy_blocks(design, cell.effect or 0.0, cell.name, SD, random), truth)


def summary(cell: Cell, truth: float, trials: Sequence[Trial]) -> dict[str, Any]:
    """Of a cell: shares with intervals, and the power that was predicted where the noise is known."""
    marks = (
        "watched",
        "watched_asymptotic",
        "watched_student",
        "at_the_end",
        "student",
        "randomised",
        "adjusted_watched",
        "adjusted_found",
    )
    covers = ("covered", "student_covered", "adjusted_covered", "sums_covered", "adjusted_always")
    predicted = None
    if cell.name == "independent" and cell.effect:
        sd = SD * sqrt(2)
        predicted = {
            "at_the_end": probability(cell.effect, sd, cell.pairs, ALPHA),
            "student": probability(cell.effect, sd, cell.pairs, ALPHA, watched=False),
        }
    return {
        "cell": asdict(cell),
        "truth": truth,
        "effect_percent": 100 * (exp(truth) - 1),
        "mean_percent": 100 * (exp(fmean(one.estimate for one in trials)) - 1),
        **{name: share([getattr(one, name) for one in trials]).as_json() for name in (*marks, *covers, "tripped")},
        **{
            name: _mean([getattr(one, name) for one in trials])
            for name in ("half", "student_half", "adjusted_half", "adjusted_valid_half")
        },
        "predicted": predicted,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _split(rate: float, experiments: int, mapped: Callable[..., Any]) -> dict[str, Any]:
    """Per cent, of each seed: what a split by request says, what a switchback says, and what is true of that traffic."""
    seeds, rates = range(experiments), [rate] * experiments
    dealt: list[Naive] = list(mapped(split, seeds, rates))
    truths: list[Naive] = list(mapped(whole, seeds, rates))
    blocks: list[float] = list(mapped(_switchback, seeds, rates))
    logs = {
        "dealt": [one.shared for one in dealt],
        "dealt_net": [one.net for one in dealt],
        "true": [one.shared for one in truths],
        "true_net": [one.net for one in truths],
        "switchback": blocks,
    }
    return {"rate": rate, **{name: [100 * (exp(value) - 1) for value in values] for name, values in logs.items()}}


def _switchback(seed: int, rate: float) -> float:
    design, blocks = experiment("passthrough", "span", seed, rate)
    return trial(design, blocks, 0.0, HOLDING).estimate
