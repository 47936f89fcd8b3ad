"""A simulation's report as JSON: what was found, and all that it takes to make it again."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from bench.simulation.run import Found, Setting
from bench.simulation.tables import remarks
from bench.simulation.traffic import Traffic, slack_of

ASKED = (
    "profile",
    "queue_timeout",
    "shares",
    "speedup",
    "duration",
    "requests",
    "prompt_tokens",
    "output_tokens",
)  # in the report


def describe(found: Found, setting: Setting, traffic: Traffic, given: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    optimum = found.optimum
    return {
        "study": "simulation",
        "source": "simulated",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shlex.join(["paceline", *sys.argv[1:]]),
        "versions": {"paceline": version("paceline"), "python": platform.python_version()},
        "profile": setting.model.name,
        "model": asdict(setting.model),
        "seed": given["seed"],
        "seconds": seconds,
        "traffic": {**traffic.described, "slack_s": {tier.value: slack for tier, slack in slack_of(given).items()}},
        "servers": setting.servers,
        "slots": setting.slots,
        "kwh": None if setting.rate is None else {"unit": setting.rate.unit, "source": setting.rate.source},
        "asked": {name: given[name] for name in ASKED},
        "began_unix_s": setting.wall_offset_s,
        "strategies": [one.as_json() for one in found.strategies],
        "clairvoyant": None
        if optimum is None
        else {
            "bound_active_j": optimum.active_j,
            "bound_active_j_per_request": optimum.active_j / len(setting.arrivals),
            "fixed_j": optimum.fixed_j,
            "fewest_steps": optimum.steps,
            "achieved": found.achieved.as_json() if found.achieved else None,
        },
        "remarks": remarks(found, setting),
    }


def save(out: Path, report: dict[str, Any], found: Found, setting: Setting, traffic: Traffic) -> None:
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    try:
        from bench.simulation.plot import plot
    except ImportError as error:
        click.echo(f"{out}/report.json; no picture: it needs {error.name} (pip install 'paceline[plot]')", err=True)
        return
    plot(found, setting, traffic.line, out / "report.png")
    click.echo(f"{out}/report.json {out}/report.png", err=True)
