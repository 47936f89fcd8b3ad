"""Judges what lies in a proof's folder, and writes the summary beside it; nothing is measured here."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.proof.claims import Judged, Verdict
from bench.proof.core import judge_core
from bench.proof.counted import judge_counted
from bench.proof.equal import judge_equal
from bench.proof.measure import RECORDING
from bench.proof.methods import judge_methods
from bench.proof.neighbour import judge_neighbour
from bench.proof.recording import Recording
from bench.proof.rows import Phase
from telemetry.cost import StepModel

PROOFS = ("a", "b", "c", "d", "f")
MEASURED = ("b", "c", "a", "f")  # in this order; (d) looks at what the others measured


def judge(folder: Path, model: StepModel, proofs: Collection[str] = PROOFS) -> list[Verdict]:
    """Verdicts on what was measured, even where the measurement was cut short; `summary.json` has their numbers."""
    phases = {name: Phase.read(file) for name in MEASURED if (file := folder / f"{name}.json").exists()}
    recording = Recording.read(folder / RECORDING)
    judged = {name: one for name, one in _each(phases, recording, model) if name in proofs}
    verdicts = [verdict for one in judged.values() for verdict in one.verdicts]
    summary: dict[str, Any] = {"verdicts": [asdict(verdict) for verdict in verdicts]}
    summary |= {name: one.numbers for name, one in judged.items()}
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    return verdicts


def _each(phases: Mapping[str, Phase], recording: Recording, model: StepModel) -> Iterator[tuple[str, Judged]]:
    yield "a", judge_counted(list(phases.values()), recording)
    if "b" in phases:
        yield "b", judge_equal(phases["b"])
    if "c" in phases:
        yield "c", judge_core(phases["c"], recording, model)
    yield "d", judge_methods(list(phases.values()))
    if "f" in phases:
        yield "f", judge_neighbour(phases["f"])
