"""`python -m bench.accuracy`: attribution against the known truth of a simulated engine; writes report, tables and picture."""

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

from bench.accuracy.cells import full, quick
from bench.accuracy.figures import by_kind
from bench.accuracy.plot import plot
from bench.accuracy.study import study
from bench.accuracy.tables import show
from bench.overhead.report import machine, now, versions
from telemetry.cost import BUILT_IN

SEEDS, QUICK_SEEDS = 2, 1
WIDE = 190  # columns of the tables where the terminal does not say


@click.command()
@click.option("--seeds", type=click.IntRange(1), help=f"Each is other traffic.  [{SEEDS}; quick: {QUICK_SEEDS}]")
@click.option("--out", type=click.Path(path_type=Path), default=Path("paceline-accuracy"), show_default=True)
@click.option("--quick", "brief", is_flag=True, help="Ten seconds: three loads, one seed.")
def command(seeds: int | None, out: Path, brief: bool) -> None:
    """How close a request's joules are to what it used, in simulated time, where that is known. No hardware is needed."""
    count = seeds or (QUICK_SEEDS if brief else SEEDS)
    report = run(brief, count)
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    plot(report, out / "report.png")
    click.echo(f"{report['seconds']:.0f} s; {out}/report.json {out}/report.png", err=True)


def run(brief: bool, seeds: int) -> dict[str, Any]:
    """The study, told on stdout, with its provenance."""
    started, tell, date, ground = time.monotonic(), Console(stderr=True), now(), machine()
    processes = 1 if brief else len(os.sched_getaffinity(0))
    told = study(quick() if brief else full(), seeds, processes, lambda text: tell.print(text, highlight=False, markup=False))
    show(told, Console(width=None if sys.stdout.isatty() else WIDE))
    return {
        "study": "accuracy",
        "date": date,
        "command": shlex.join(("python", "-m", "bench.accuracy", *sys.argv[1:])),
        "machine": {key: ground[key] for key in ("processor", "kernel", "python")},
        "versions": {"paceline": versions()["paceline"]},
        "profile": BUILT_IN,
        "source": "simulated",
        "seeds": seeds,
        "seconds": time.monotonic() - started,
        "coverage": by_kind(told),
        "unbalanced_uj": sum(one.unbalanced_uj for one in told),
        "not_final": sum(one.not_final for one in told),
        "cells": [one.as_json() for one in told],
    }


if __name__ == "__main__":
    command()
