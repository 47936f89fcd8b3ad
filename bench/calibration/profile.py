"""Turns a journal into a fit, and a fit into a profile that says where each of its numbers comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from math import isfinite
from statistics import fmean
from typing import Any

from bench.calibration.asking import described
from bench.calibration.journal import Journal, JournalError
from bench.calibration.plan import Run
from telemetry.cost import StepModel, load_profile, profile_text
from telemetry.fit import BAND_RULE, ERROR_RULE, INTERVAL_RULE, Fit, Residual, fit
from telemetry.snapshot import Source


@dataclass(frozen=True, slots=True)
class Shown:
    """The repeats of one run together, measured and as the model has them, for one step or, of prompts alone, one prompt.

    Attributes:
        each: step or prompt.
        tokens: of the batch in a step, or of a prompt: what joules are divided by.
        context_tokens: read in a step.
    """

    run: Run
    repeats: int
    each: str
    tokens: float
    context_tokens: float
    step_s: float
    model_s: float
    step_j: float
    model_j: float
    power_w: float


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A journal's fit."""

    header: Mapping[str, Any]
    fit: Fit
    shown: Sequence[Shown]
    runs: Mapping[str, Run]
    source: Source
    notes: Mapping[str, Sequence[str]]  # by run, of those that were used or tried
    void: Sequence[str]  # ids of runs in which nothing could be counted

    @property
    def hardware(self) -> str:
        """What the runs were made on, as far as the meter could tell."""
        return str(self.header.get("hardware") or ", ".join(self.header["of"]["devices"]))


def calibrated(journal: Journal, name: str) -> Calibrated:
    """The fit of everything in a journal.

    Raises:
        JournalError: it is empty.
        FitError: its runs are not enough.
    """
    if journal.header is None:
        raise JournalError("the journal is empty: no run was made")
    of = journal.header["of"]
    like = load_profile()
    limits = replace(
        like,
        name=name or _name(of["model"]),
        max_step_tokens=of["max_step_tokens"],
        max_sequences=of["slots"] or like.max_sequences,
    )
    found = fit(journal.works(), limits)
    latest = {line["run"]["id"]: line for line in journal.runs}  # what failed may have been made again
    source: Source | None = None
    for line in latest.values():
        if line["source"]:
            source = Source(line["source"]).weaker(source)
    if source is None:
        raise JournalError("the journal does not say where its joules come from")
    runs = {id: Run(**line["run"]) for id, line in latest.items()}
    notes = {id: line["notes"] for id, line in latest.items() if line["notes"]}
    void = [id for id, line in latest.items() if line["work"] is None]
    return Calibrated(journal.header, found, _shown(found.residuals, runs), runs, source, notes, void)


def _name(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2].partition("@")[0] or "calibrated"


def _shown(residuals: Sequence[Residual], runs: Mapping[str, Run]) -> list[Shown]:
    groups: dict[str, list[Residual]] = {}
    for residual in residuals:
        groups.setdefault(runs[residual.work.name].name, []).append(residual)
    shown = [_together(runs[group[0].work.name], group) for group in groups.values()]
    return sorted(shown, key=lambda one: (one.run.kind, one.run.prompt_tokens, one.run.batch))


def _together(run: Run, group: Sequence[Residual]) -> Shown:
    alone = run.kind == "prefill"
    counts = [one.work.requests if alone else one.work.steps for one in group]
    tokens = [(one.work.prompt_tokens if alone else one.work.sequences) / n for one, n in zip(group, counts, strict=True)]

    def each(values: Sequence[float]) -> float:
        return fmean(value / n for value, n in zip(values, counts, strict=True))

    return Shown(
        run,
        len(group),
        "prompt" if alone else "step",
        fmean(tokens),
        each([one.work.context_tokens for one in group]),
        each([one.work.seconds for one in group]),
        each([one.model_s for one in group]),
        each([one.work.energy_j for one in group]),
        each([one.model_j for one in group]),
        fmean(one.work.power_w for one in group),
    )


def errors(found: Fit) -> dict[str, float]:
    """How far the runs are from the model: root mean square, and the largest."""
    time = [one.time_error for one in found.residuals]
    energy = [one.energy_error for one in found.residuals]
    unseen = [one.unseen_error for one in found.residuals]
    told = {"time": time, "energy": energy, "unseen_energy_above_idle": unseen}
    return {
        f"{what}_{how}": round(value, 4)
        for what, values in told.items()
        for how, value in (("rms", fmean(v * v for v in values) ** 0.5), ("max", max(map(abs, values))))
    }


def text(done: Calibrated, command: str, hardware: str) -> str:
    """The profile's JSON."""
    of, found = done.header["of"], done.fit
    model: StepModel = found.model
    return profile_text(
        model,
        {
            "date": done.header["began"][:10],
            "hardware": hardware,
            "software": f"{of['engine']} {of['version']}".strip(),
            "model": of["model"],
            "command": command,
            "source": done.source.value,
            "server": described(of),
            "meter": of["meter"],
            "devices": of["devices"],
            "paceline": version("paceline"),
            "runs": len(found.residuals),
            "void_runs": list(done.void),
            "notes": {id: list(notes) for id, notes in done.notes.items()},
            "intervals_95": {
                one.name: [_finite(one.low), _finite(one.high)] + ([one.doubt] if one.doubt else [])
                for one in found.coefficients
            },
            "intervals_rule": INTERVAL_RULE,
            "condition": {"time": round(found.time_condition, 1), "energy": round(found.energy_condition, 1)},
            "errors": errors(found),
            "band_rule": BAND_RULE,
            "error_rule": ERROR_RULE,
            "not_fitted": "max_sequences and max_step_tokens are what the server tells or was said of it",
        },
    )


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None
