"""Reads measured runs of every kind that this project has written, by what is in a file and not by its name."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.arrivals import Load
from bench.proof.rows import Phase, Row, Run
from bench.reckoning import percentiles
from bench.studies.arms import STRAIGHT
from bench.studies.journal import good
from bench.validation import steps
from bench.validation.case import ROUNDED, Case, arrival, arrivals, of_report
from policies.base import Tier
from policies.strategy import Choice

DISTURBED = "during"  # a neighbour worked on the same device, of whom the simulator knows nothing
KINDS = "the rows of 2026-11-23-h200-steps, a study of bench.grouping, bench.grid or bench.packing, or a proof of bench.proof"

Told = Mapping[str, Any]


class Unreadable(Exception):
    """Not a file that holds measured runs; the message says what would be."""


def read(path: Path) -> list[Case]:
    """All runs in a file, a folder's files, or an archive.

    Raises:
        Unreadable: there is none that is known.
    """
    try:
        found = list(_cases(path))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, tarfile.TarError) as error:
        raise Unreadable(f"{path}: {type(error).__name__}: {error}; what can be read is {KINDS}") from error
    if not found:
        raise Unreadable(f"{path} holds no run that is known; what can be read is {KINDS}")
    return found


def _cases(path: Path) -> Iterator[Case]:
    if path.is_dir():
        for file in sorted([*path.rglob("*.json"), *path.rglob("*.jsonl")]):
            yield from _of_text(file.read_text(), file.name)
    elif tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            for member in archive.getmembers():
                if member.name.endswith(".json") and (content := archive.extractfile(member)) is not None:
                    yield from _of_text(content.read().decode(), f"{path.name}:{member.name}")
    else:
        yield from _of_text(path.read_text(), path.name)


def _of_text(text: str, source: str) -> Iterator[Case]:
    """The runs of one file; none when it is of another kind."""
    try:
        told: Sequence[Any] = [json.loads(text)]
    except json.JSONDecodeError:
        told = [json.loads(line) for line in text.splitlines() if line.strip()]
    if not told or not all(isinstance(one, dict) for one in told):
        return
    if "exp" in told[0]:
        yield from steps.cases(told, source)
    elif {"form", "study", "arm", "rate", "seed", "report"} <= told[0].keys():
        yield from _journalled(told[0], source)
    elif told[0].get("study") == "grouping":
        yield from _grouping(told[0], source)
    elif {"rows", "runs", "seconds"} <= told[0].keys():
        yield from _proof(told[0], source)


def _grouping(told: Told, source: str) -> Iterator[Case]:
    """Pairs of runs, whose loads are planned again from their seeds."""
    shape = told["shape"]
    study = f"grouping, {shape['rate']:g}/s, {shape['slack_s']:g} s of slack"
    for pair in told["pairs"]:
        lengths = {name: shape[name] for name in ("prompt_tokens", "output_tokens")}
        plan = Load(rate=shape["rate"], requests=shape["requests"], seed=pair["seed"], **lengths).plan()
        for arm in sorted(set(pair["order"])):
            report = pair[arm]
            if report["energy"] is None or report["problems"] or report["failed"]:
                continue
            since_s = report["energy"]["since_s"]
            yield Case(
                study,
                arm,
                pair["seed"],
                source,
                of_report(report),
                report["energy"]["window_s"],
                Choice(**report["strategy"]["policy"]),
                Choice(**report["strategy"]["placement"]),
                draws=[arrivals(plan, {Tier.INTERACTIVE: shape["slack_s"]}, since_s)],
                since_s=since_s,
                base=arm == "passthrough",
                joules=report["energy"]["source"],
            )


def _journalled(run: Told, source: str) -> Iterator[Case]:
    """One run of `bench.grid` or `bench.packing` (`bench/studies/journal.py`), if it is good."""
    report, arm, shape = run["report"], run["arm"], run["shape"]
    if not good(run):
        return
    lengths = {name: shape[name] for name in ("prompt_tokens", "output_tokens")}
    plan = Load(rate=run["rate"], requests=run["requests"], seed=run["seed"], **lengths).plan()
    since_s = report["energy"]["since_s"]
    yield Case(
        f"{run['study']}, {run['rate']:g}/s, {shape['prompt_tokens']} in, {shape['output_tokens']} out",
        arm["name"],
        run["seed"],
        f"{source}, {run['provenance']['hardware']}",
        of_report(report),
        report["energy"]["window_s"],
        Choice(**arm["policy"]),
        Choice(**arm["placement"]),
        servers=len(run["provenance"]["servers"]),
        draws=[arrivals(plan, {Tier.INTERACTIVE: arm["hold_s"]}, since_s)],
        since_s=since_s,
        base=arm["name"] == str(STRAIGHT),
        joules=report["energy"]["source"],
    )


def _proof(told: Told, source: str) -> Iterator[Case]:
    rows = [Row(**row) for row in told["rows"]]
    phase = Phase(told["name"], rows, [Run(**run) for run in told["runs"]])
    for run in phase.runs:
        came = [row for row in phase.rows_of(run.name, run.repeat) if not row.error and row.record is not None]
        if run.name != DISTURBED and came:
            yield _of_run(phase.name, run, came, source)


def _of_run(phase: str, run: Run, rows: Sequence[Row], source: str) -> Case:
    """One load; its window begins before the first request and ends after the last."""
    counted_j, window_s = run.joules["counted_j"], run.until_s - run.since_s
    records = [row.record for row in rows if row.record is not None]
    values = {
        "wait": [record["held_s"] + record["queued_s"] for record in records],
        "ttft": [record["ttft_s"] for record in records],
        "tpot": [record["tpot_s"] for record in records],
        "e2e": [record["duration_s"] for record in records],
    }
    ranks = {name: percentiles(of) for name, of in values.items()}
    measured = {
        "j_per_request": counted_j / len(rows),
        "idle_power_w": run.idle_power_w,
        "above_idle_j_per_request": (counted_j - run.idle_power_w * window_s) / len(rows),
    } | {f"{name}_{rank}_s": getattr(p, rank) for name, p in ranks.items() if p is not None for rank in ROUNDED}
    came = sorted(rows, key=lambda row: row.sent_s)
    draw = [arrival(str(n), row.sent_s, row.prompt_tokens, row.output_tokens) for n, row in enumerate(came)]
    name = f"proof ({phase}), {run.name}"
    return Case(
        name,
        "passthrough",
        run.repeat,
        source,
        measured,
        window_s,
        draws=[draw],
        since_s=run.since_s,
        joules=run.joules["source"],
    )
