"""Fits the step model to measured runs of a server; needs numpy (`pip install paceline[plot]`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from telemetry.cost import Linear, StepModel

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measured:
    """One closed-loop run: `requests` of equal lengths, `concurrency` at a time.

    Attributes:
        energy_j: the device's joules over `metered_s`.
        metered_s: seconds between the two counter readings; the device idled outside `wall_s`.
        wall_s: seconds from the first request to the last answer.
        latency_s: median seconds of one request.
    """

    requests: int
    concurrency: int
    prompt_tokens: int
    output_tokens: int
    energy_j: float
    metered_s: float
    wall_s: float
    latency_s: float


def fit(
    runs: Sequence[Measured],
    start: StepModel,
    replay: Callable[[Measured, StepModel], tuple[float, float]],
    *,
    rounds: int = 40,
) -> StepModel:
    """The model whose replayed runs come closest to the measured ones, by damped Gauss-Newton on relative errors.

    Seconds are fitted to walls, joules to counters. `per_context_token` is not fitted: the runs' contexts are short,
    so it keeps the value of `start`.

    Args:
        runs: what was measured.
        start: the coefficients to start from; idle power is taken from it.
        replay: seconds and joules (idle included, over `metered_s`) of a run under a model.
        rounds: steps of the iteration.
    """

    def unpack(x: Vector) -> StepModel:
        a = [float(v) for v in x]
        return replace(
            start,
            step_s=Linear(a[0], a[1], a[2], start.step_s.per_context_token),
            step_j=Linear(a[3], a[4], a[5], start.step_j.per_context_token),
            request_s=a[6],
        )

    def residuals(x: Vector) -> Vector:
        model = unpack(x)
        out = []
        for run in runs:
            wall_s, energy_j = replay(run, model)
            # the counter moves every 100 ms, so an edge is off by up to that much of the run's power
            edge_j = 0.1 * run.energy_j / run.metered_s / 12**0.5 * 2
            out.append((wall_s - run.wall_s) / (0.03 * run.wall_s + 0.005))
            out.append((energy_j - run.energy_j) / (0.03 * run.energy_j + edge_j))
        return np.array(out)

    s, j = start.step_s, start.step_j
    x = np.array([s.base, s.per_sequence, s.per_prompt_token, j.base, j.per_sequence, j.per_prompt_token, start.request_s])
    damping, now = 1e-2, residuals(x)
    for _ in range(rounds):
        jacobian = np.stack([(residuals(x + step) - now) / size for step, size in _steps(x)], axis=1)
        scale = np.diag(jacobian.T @ jacobian)
        delta = np.linalg.solve(jacobian.T @ jacobian + damping * np.diag(scale), -jacobian.T @ now)
        trial = np.maximum(x + delta, 0.0)
        after = residuals(trial)
        if after @ after < now @ now:
            x, now, damping = trial, after, damping / 3
        else:
            damping *= 4
    return unpack(x)


def _steps(x: Vector) -> list[tuple[Vector, float]]:
    """One small change of each coefficient, and its size."""
    sizes = [max(abs(float(v)) * 1e-3, 1e-9) for v in x]
    return [(np.eye(len(sizes))[i] * size, size) for i, size in enumerate(sizes)]
