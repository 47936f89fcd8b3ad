"""Proof (c): in company a class is charged no less than it adds, no more than it costs alone; and what the model predicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bench.proof.claims import Judged, Verdict
from bench.proof.figures import Mean
from bench.proof.recording import Recording
from bench.proof.rows import Phase, Row, Run
from policies.engine import Engine, Job
from telemetry.cost import StepModel

CLASSES = ("A", "B")
OTHER = {"A": "B", "B": "A"}


def judge_core(phase: Phase, recording: Recording, model: StepModel) -> Judged:
    repeats = sorted({run.repeat for run in phase.runs})
    found = [one for repeat in repeats if (one := _repeat(phase, repeat, recording, model)) is not None]
    if not found:
        return Judged([Verdict("c", "E(AB) - E(B) <= phi(A) <= E(A)", None, "no repeat is whole")])
    bounds = {
        f"{name} {bound}": asdict(margin)
        for name in CLASSES
        for bound in ("above", "below")
        if (margin := Mean.of([_margin(one, name, bound) for one in found])) is not None
    }
    ratios = {
        run: asdict(ratio)
        for run in (*CLASSES, "AB")
        if (ratio := Mean.of([one["predicted_j"][run] / one["measured_j"][run] for one in found])) is not None
    }
    verdicts = [*_bounds(bounds, found), *_predictions(ratios, model)]
    return Judged(verdicts, {"repeats": found, "margins_j": bounds, "predicted_over_measured": ratios})


def _repeat(phase: Phase, repeat: int, recording: Recording, model: StepModel) -> dict[str, Any] | None:
    """One repeat; None where a run of it is missing or not known whole."""
    runs = {run.name: run for run in phase.runs if run.repeat == repeat}
    rows = {name: phase.rows_of(name, repeat) for name in runs}
    measured_j = {name: _active_j(run, recording) for name, run in runs.items()}
    whole = all(row.energy is not None for some in rows.values() for row in some)
    if set(runs) != {*CLASSES, "AB"} or None in measured_j.values() or not whole:
        return None
    charged = {name: _charged(rows["AB"], name) for name in CLASSES}
    return {
        "repeat": repeat,
        "measured_j": measured_j,
        "predicted_j": {name: predicted_j(rows[name], model) for name in runs},
        "charged_together_j": {name: joules for name, (joules, _) in charged.items()},
        "uncertainty_together_j": {name: uncertainty_j for name, (_, uncertainty_j) in charged.items()},
        "charged_alone_j": {name: _charged(rows[name], name)[0] for name in CLASSES},
    }


def _active_j(run: Run, recording: Recording) -> float | None:
    """What the counter moved, less idle power times the time, the calm before and after included."""
    counted_j = recording.counter_j(run.since_s, run.until_s, run.devices)
    return None if counted_j is None else counted_j - run.idle_power_w * (run.until_s - run.since_s)


def _charged(rows: Sequence[Row], kind: str) -> tuple[float, float]:
    """A class's joules, and the sum of their uncertainties as if all were wrong the same way."""
    energies = [energy for row in rows if row.kind == kind and (energy := row.energy) is not None]
    return sum(energy["active_j"] for energy in energies), sum(energy["uncertainty_j"] for energy in energies)


def predicted_j(rows: Sequence[Row], model: StepModel) -> float:
    """Joules net of idle of these requests, sent when they were sent, by the step model."""
    engine, finished = Engine(model), []
    for number, row in enumerate(sorted(rows, key=lambda row: row.sent_s)):
        at_s = row.sent_s - min(row.sent_s for row in rows)
        finished += engine.advance(at_s)
        engine.submit(Job(str(number), row.prompt_tokens, row.output_tokens), at_s)
    while (ends_at := engine.next_at) is not None:
        finished += engine.advance(ends_at)
    return sum(job.energy_j for step in finished for job in step.ended)


def _margin(one: Mapping[str, Any], name: str, bound: str) -> float:
    """By how many joules the charge keeps a bound; negative where it does not."""
    charged_j, measured_j = one["charged_together_j"][name], one["measured_j"]
    if bound == "below":
        return float(measured_j[name] - charged_j)
    return float(charged_j - (measured_j["AB"] - measured_j[OTHER[name]]))


def _bounds(margins: Mapping[str, Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> Iterator[Verdict]:
    for name in CLASSES:
        above, below = Mean(**margins[f"{name} above"]), Mean(**margins[f"{name} below"])
        charged = Mean.of([one["charged_together_j"][name] for one in found])
        told = f"phi({name}) = {charged} J; {above} J above the lower bound, {below} J below the upper, {len(found)} repeats"
        claim = f"E(AB) - E({OTHER[name]}) <= phi({name}) <= E({name}), with 95 % confidence"
        holds = _surely_kept(above) and _surely_kept(below)
        yield Verdict("c", claim, holds, told)


def _surely_kept(margin: Mean) -> bool:
    return margin.low_95 is not None and margin.low_95 >= 0


def _predictions(ratios: Mapping[str, Mapping[str, Any]], model: StepModel) -> Iterator[Verdict]:
    for run, ratio in ratios.items():
        claim = f"{run}: the step model {model.name} predicts the joules within its band of {model.band:.0%}"
        told = f"predicted over measured {Mean(**ratio)}"
        yield Verdict("c", claim, abs(ratio["mean"] - 1) <= model.band, told)
