"""Fits the step model to what was counted while a server ran; needs numpy (`pip install paceline[plot]`).

While work goes on steadily, both time and energy are sums over what was done (`telemetry/cost.py`), so the fit is one
linear regression each, on relative errors:

    seconds        = request_s * requests + step_s . (steps, sequences, prompt_tokens, context_tokens)
    joules - idle  =                        step_j . (steps, sequences, prompt_tokens, context_tokens)

Intervals are 95 %, by Student's t from the regression's covariance scaled by its own residuals; the idle power's error is
carried on. They say how well the runs fix the line, not that engines are lines: how far those are from it is `band`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import hypot
from statistics import fmean, stdev

import numpy as np

from telemetry.cost import Linear, StepModel
from telemetry.regression import Coefficient, FitError, around, regress

__all__ = ["BAND_RULE", "ERROR_RULE", "INTERVAL_RULE", "Fit", "FitError", "Residual", "Work", "fit"]

PARTS = ("base", "per_sequence", "per_prompt_token", "per_context_token")
TIME_ERROR = 0.01  # every run's seconds are weighed as if known so well; the residuals say how well they are
ENERGY_ERROR = 0.02
SMALLEST_BAND = 0.1  # traffic is less steady than runs are
BAND_RULE = (
    f"the largest relative error of a run's joules above idle, predicted by a fit without that run; at least {SMALLEST_BAND:g}"
)
ERROR_RULE = (
    "step_j_error: a coefficient's standard error, relative, with the root mean square of the runs' errors that band is the "
    "largest of: no engine is a line"
)
INTERVAL_RULE = (
    "95 %, Student's t, from the covariance of the weighted linear regression scaled by its residuals; "
    "the error of the idle power is carried on"
)


@dataclass(frozen=True, slots=True)
class Work:
    """What a server did in a span of time, and what it drew.

    Attributes:
        name: of the run.
        seconds: of the span.
        energy_j: the devices' joules in it, idle included.
        edge_s: how well the span's edges are known: both together, one standard deviation.
        steps: of the engine; none at all is an idle server.
        sequences: that the steps served, summed over the steps; likewise the tokens.
        requests: that came one after the other, so that the engine waited for each.
    """

    name: str
    seconds: float
    energy_j: float
    edge_s: float = 0.0
    steps: float = 0.0
    sequences: float = 0.0
    prompt_tokens: float = 0.0
    context_tokens: float = 0.0
    requests: float = 0.0

    @property
    def power_w(self) -> float:
        return self.energy_j / self.seconds

    @property
    def idle(self) -> bool:
        return self.steps == 0

    @property
    def parts(self) -> list[float]:
        return [self.steps, self.sequences, self.prompt_tokens, self.context_tokens]


@dataclass(frozen=True, slots=True)
class Residual:
    """A run beside the model: seconds, joules, and joules above idle as a fit without this run has them."""

    work: Work
    model_s: float
    model_j: float
    net_j: float
    unseen_net_j: float

    @property
    def time_error(self) -> float:
        return self.model_s / self.work.seconds - 1

    @property
    def energy_error(self) -> float:
        return self.model_j / self.work.energy_j - 1

    @property
    def unseen_error(self) -> float:
        return self.net_j / self.unseen_net_j - 1 if self.unseen_net_j > 0 else float("inf")


@dataclass(frozen=True, slots=True)
class Fit:
    """A step model, how well each of its numbers is known, and how far every run is from it."""

    model: StepModel
    coefficients: Sequence[Coefficient]
    residuals: Sequence[Residual]
    time_condition: float  # of the regression's columns, scaled to one length
    energy_condition: float


def fit(works: Sequence[Work], limits: StepModel) -> Fit:
    """The model that comes closest to what was counted.

    Args:
        works: of which at least two are idle.
        limits: everything that is not fitted, such as the name and the largest batch.

    Raises:
        FitError: too few runs, or runs too much alike.
    """
    rest, busy = [work for work in works if work.idle], [work for work in works if not work.idle]
    idle = _idle_power(rest)
    if not busy:
        raise FitError("no run with work in it")
    seconds = np.array([work.seconds for work in busy])
    joules = np.array([work.energy_j for work in busy])
    edges_j = np.array([work.edge_s * work.power_w for work in busy])
    parts = np.array([work.parts for work in busy])
    time = regress(
        np.column_stack([[work.requests for work in busy], parts]),
        seconds,
        TIME_ERROR * seconds,
        ("request_s", *(f"step_s.{part}" for part in PARTS)),
    )
    net = joules - idle.value * seconds
    energy = regress(
        parts,
        net,
        np.hypot(ENERGY_ERROR * joules, edges_j),
        tuple(f"step_j.{part}" for part in PARTS),
        also=(seconds, idle.error),
    )
    request_s, *step_s = time.values
    model = replace(limits, step_s=Linear(*step_s), step_j=Linear(*energy.values), idle_power_w=idle.value, request_s=request_s)
    if model.step_s.base <= 0:
        raise FitError("a step's base time comes out as nothing: the runs do not tell it from what their sequences cost")
    residuals = [
        Residual(work, float(time.fitted[n]), float(energy.fitted[n] + idle.value * work.seconds), float(net[n]), float(unseen))
        for (n, work), unseen in zip(enumerate(busy), energy.unseen, strict=True)
    ]
    band = max(SMALLEST_BAND, *(abs(residual.unseen_error) for residual in residuals))
    if band >= 1:
        raise FitError("joules do not follow the work: was it all on the metered devices, and nobody else's work beside it?")
    misfit = fmean(residual.unseen_error**2 for residual in residuals) ** 0.5
    doubt = Linear(*(_relative(coefficient, misfit) for coefficient in energy.coefficients))
    model = replace(model, band=round(band, 3), step_j_error=doubt)
    return Fit(model, [*time.coefficients, *energy.coefficients, idle], residuals, time.condition, energy.condition)


def _idle_power(rest: Sequence[Work]) -> Coefficient:
    if len(rest) < 2:
        raise FitError(f"{len(rest)} idle runs; two at least tell the idle power and its error")
    watts = [work.power_w for work in rest]
    return around("idle_power_w", fmean(watts), stdev(watts) / len(rest) ** 0.5, len(rest) - 1)


def _relative(coefficient: Coefficient, misfit: float) -> float:
    """What attribution reckons with; a coefficient that is none may be off by all of itself."""
    if coefficient.value <= 0:
        return 1.0
    return round(min(hypot(coefficient.error / coefficient.value, misfit), 1.0), 4)
