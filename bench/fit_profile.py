"""Fits the built-in H200 profile to the measured decode and prefill runs: `python -m bench.fit_profile`."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import numpy as np
import numpy.typing as npt

from policies.engine import Engine, Job
from telemetry.cost import Linear, StepModel, profile_text

RUNS = Path(__file__).parent.parent / "docs/results/2026-11-23-h200-steps/one-gpu.jsonl"
PROFILE = Path(__file__).parent.parent / "telemetry/profiles/h200-llama8b.json"

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


def read(path: Path = RUNS) -> tuple[list[Measured], float]:
    """The closed-loop runs, and idle watts with the model loaded."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    idle_w = mean(row["W"] for row in rows if row["exp"] == "idle_loaded")
    runs = [
        Measured(
            requests=row["n"],
            concurrency=row["conc"],
            prompt_tokens=row["pl"],
            output_tokens=row.get("ol", 1),
            energy_j=row["joules"],
            metered_s=row["joules"] / row["avg_W"],
            wall_s=row["wall_s"],
            latency_s=row["p50"],
        )
        for row in rows
        if row["exp"] in ("decode", "prefill")
    ]
    return runs, idle_w


def replay(run: Measured, model: StepModel) -> tuple[float, float]:
    """Seconds and joules of a closed-loop run on the simulated engine, idle included up to `metered_s`."""
    engine = Engine(model)
    waiting = deque(Job(str(n), run.prompt_tokens, run.output_tokens) for n in range(run.requests))
    for _ in range(min(run.concurrency, run.requests)):
        engine.submit(waiting.popleft(), 0.0)
    wall_s = 0.0
    while (at := engine.next_at) is not None:
        for step in engine.advance(at):
            wall_s = step.at
            for _ in step.ended:
                if waiting:
                    engine.submit(waiting.popleft(), step.at)
    # the card idled for what was metered beyond the measured wall, however long the modelled wall is
    return wall_s, engine.energy_j(wall_s) + model.idle_power_w * max(run.metered_s - run.wall_s, 0.0)


def start(idle_w: float) -> StepModel:
    """Where the fit begins; `per_context_token` stays as it is here, see `PROVENANCE`."""
    return StepModel(
        name="h200-llama8b",
        step_s=Linear(5e-3, 2e-5, 2.5e-5, 3.3e-8),
        step_j=Linear(1.8, 0.018, 0.015, 2.05e-5),
        idle_power_w=idle_w,
        request_s=3e-3,
    )


PROVENANCE = {
    "hardware": "one NVIDIA H200, driver 580.159.04",
    "software": "vLLM 0.24.0, CUDA 13, PyTorch 2.11.0",
    "model": "Llama-3.1-8B's shape, bf16, random weights",
    "date": "2026-11-23",
    "data": "docs/results/2026-11-23-h200-steps/one-gpu.jsonl: the rows 'decode', 'prefill' and 'idle_loaded'",
    "command": "python -m bench.fit_profile",
    "not_fitted": (
        "per_context_token: joules from one measurement (64 sequences of 2,000 tokens: 6.9 J a step, idle included, "
        "instead of 3.8); seconds from 131,072 bytes of KV cache a token at 4 TB/s. max_sequences and max_step_tokens "
        "are vLLM's defaults"
    ),
}


def main() -> None:
    """Fit, write the profile, print the fit beside the data."""
    runs, idle_w = read()
    model = fit(runs, start(idle_w), replay)
    PROFILE.write_text(profile_text(model, PROVENANCE))
    print(PROFILE.read_text())
    print_fit(runs, model)


def print_fit(runs: Sequence[Measured], model: StepModel) -> None:
    print("conc prompt output |  wall s measured  model |  joules measured    model")
    for run in runs:
        wall_s, energy_j = replay(run, model)
        print(
            f"{run.concurrency:4d} {run.prompt_tokens:6d} {run.output_tokens:6d} |"
            f" {run.wall_s:8.3f} {wall_s:8.3f} {wall_s / run.wall_s - 1:+6.1%} |"
            f" {run.energy_j:8.1f} {energy_j:8.1f} {energy_j / run.energy_j - 1:+6.1%}"
        )


if __name__ == "__main__":
    main()
