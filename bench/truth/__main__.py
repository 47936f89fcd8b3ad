"""`python -m bench.truth`: thousands of experiments whose truth is known; writes report, tables and picture."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bench.overhead.report import machine, now, versions
from bench.studies.provenance import commit
from bench.truth.study import study
from bench.truth.tables import tables
from telemetry.cost import BUILT_IN

EXPERIMENTS = 1_000


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A folder: report.json, report.md, report.png.")
@click.option("--experiments", type=click.IntRange(20), default=EXPERIMENTS, show_default=True, help="Of each model of noise.")
@click.option("--processes", type=click.IntRange(1), help="[as many as there are cores]")
def command(out: Path, experiments: int, processes: int | None) -> None:
    """Whether experiments tell the truth: A/A, coverage, power, and a split by request. No hardware is needed; minutes."""
    report = run(experiments, processes or len(os.sched_getaffinity(0)))
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    (out / "report.md").write_text(tables(report))
    click.echo(tables(report))
    from bench.truth.plot import plot  # matplotlib is an extra

    plot(report, out / "report.png")
    click.echo(f"{report['seconds']:.0f} s; {out}/report.json report.md report.png", err=True)


def run(experiments: int, processes: int) -> dict[str, Any]:
    """The study with its provenance; progress goes to stderr."""
    started, tell, date, ground, tree = time.monotonic(), Console(stderr=True), now(), machine(), commit()
    told = study(experiments, processes, lambda text: tell.print(text, highlight=False, markup=False))
    return {
        "study": "truth",
        "date": date,
        "command": shlex.join(("python", "-m", "bench.truth", *sys.argv[1:])),
        "commit": tree,
        "machine": {key: ground[key] for key in ("processor", "kernel", "python")},
        "versions": {"paceline": versions()["paceline"]},
        "profile": BUILT_IN,
        "source": "simulated",
        "experiments": experiments,
        "seconds": time.monotonic() - started,
        **told,
    }


if __name__ == "__main__":
    command()
