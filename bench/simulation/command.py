"""`paceline simulate`: what strategies would have cost and given on a trace, a ledger or a drawn load."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from bench.arrivals import GAPS
from bench.draws import LENGTHS, BadSpec, finite
from bench.simulation.footprint import covered_s, rate_for
from bench.simulation.report import describe, save
from bench.simulation.run import Setting, Watch, perform
from bench.simulation.strategies import Pairing, pairings, usual
from bench.simulation.tables import show
from bench.simulation.traces import FORMATS
from bench.simulation.traffic import Traffic, drawn, from_trace
from telemetry.cost import BUILT_IN, StepModel, load_profile

WIDE = 200  # columns of the tables where the terminal does not say
STRATEGY = "'NAME key=value ...'"
positive = click.FloatRange(min=0, min_open=True)


@click.command("simulate", short_help="what policies would have cost and given on your traffic")
@click.argument("trace", required=False, type=click.Path(path_type=Path))
@click.option("--policy", "policies", multiple=True, metavar=STRATEGY, help="Repeatable; with each placement.")
@click.option("--placement", "placements", multiple=True, metavar=STRATEGY, help="Repeatable; with each policy. [spread]")
@click.option("--sweep", "sweeps", multiple=True, metavar=STRATEGY, help="Repeatable; such as 'window every_s=0.5,1,2'.")
@click.option("--servers", type=click.IntRange(min=1), default=1, show_default=True, help="All alike.")
@click.option("--slots", type=click.IntRange(min=1), help="Most sequences on one server at once. [no limit]")
@click.option("--queue-timeout", type=positive, help="Longest wait for a slot, in seconds. [no limit]")
@click.option("--profile", default=BUILT_IN, show_default=True, help="A built-in step model, or a JSON file's path.")
@click.option("--slack", multiple=True, metavar="SPEC", help="Seconds that requests of a tier may be held: flex=8,batch=60.")
@click.option("--slack-all", type=click.FloatRange(min=0), metavar="S", help="The same for all tiers. [the ledger's, else 0]")
@click.option("--tiers", "shares", metavar="SPEC", help="Draw tiers by their shares: flex=0.5,interactive=0.5. [the trace's]")
@click.option("--carbon", type=click.Path(path_type=Path), metavar="FILE", help="CSV: grams a kWh over time. [carbon's file]")
@click.option("--began", metavar="WHEN", help="When the first second is, for --carbon: ISO 8601. [the trace's; else 1970]")
@click.option("--format", "format_", type=click.Choice(FORMATS), default="auto", show_default=True, help="The trace's.")
@click.option("--speedup", type=positive, default=1.0, show_default=True, help="Play the trace so many times faster.")
@click.option("--duration", type=positive, metavar="S", help="Nobody arrives later. [60 without a trace and --requests]")
@click.option("--requests", type=click.IntRange(min=1), help="Most requests.")
@click.option("--arrivals", type=click.Choice(list(GAPS)), help="Without a trace. [poisson]")
@click.option("--rate", type=positive, help="Without a trace: requests a second. [1]")
@click.option("--prompt-tokens", metavar="SPEC", help=f"Without a trace: {LENGTHS}. [256]")
@click.option("--output-tokens", metavar="SPEC", help="Without a trace: the same. [128]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of all that is drawn.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes; cores, at most.")
@click.option("--bound/--no-bound", default=True, show_default=True, help="Look for the clairvoyant optimum, too.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Directory for report.json and report.png.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def command(trace: Path | None, out: Path | None, as_json: bool, **given: Any) -> None:
    """Compare strategies in simulated time on TRACE (the ledger's files or their directory, Azure's or Mooncake's traces), or
    on arrivals that are drawn. A strategy is a policy with a placement. All joules are the profile's, not measured.
    """
    began = time.perf_counter()
    if out is not None:
        _make(out)
    try:
        finite(given)
        model = load_profile(given["profile"])
        traffic = from_trace(trace, given) if trace else drawn(given)
        setting = _setting(traffic, model, given)
        chosen = pairings(given["policies"], given["placements"], given["sweeps"], _usual(setting))
        setting = _weighed(setting, chosen, given["carbon"])
        with _progress(len(chosen)) as watch:
            jobs = min(given["jobs"], os.cpu_count() or 1)
            found = perform(setting, chosen, jobs=jobs, bound=given["bound"], watch=watch)
    except (BadSpec, ValueError) as error:
        raise click.ClickException(str(error)) from error
    report = describe(found, setting, traffic, given, time.perf_counter() - began)
    if as_json:
        click.echo(json.dumps(report, indent=1))
    else:
        console = Console(width=None if sys.stdout.isatty() else WIDE)
        console.print(f"[bold]{traffic.line}[/]; {setting.servers} server(s)", highlight=False)
        show(found, setting, console)
    if out is not None:
        save(out, report, found, setting, traffic)


# --- what is compared, and what comes of it -----------------------------------------------------------------------------


def _setting(traffic: Traffic, model: StepModel, given: Mapping[str, Any]) -> Setting:
    timeout_s = given["queue_timeout"] or inf
    servers, slots, began = given["servers"], given["slots"], traffic.wall_offset_s
    return Setting(traffic.arrivals, model, servers, slots, timeout_s, began, notes=traffic.notes)


def _weighed(setting: Setting, chosen: Sequence[Pairing], file: Path | None) -> Setting:
    """With what a kilowatt-hour stands for, where that is told.

    Raises:
        BadSpec: it cannot be read, or is told of another time.
    """
    rate = rate_for(file, [pairing.build().policy for pairing in chosen])
    if rate is None:
        return setting
    last_s = max(setting.arrivals[-1].waiting.arrived_at, 1.0)
    if covered_s(rate, setting.wall_offset_s, last_s) > 0:
        return replace(setting, rate=rate)
    first, last = (datetime.fromtimestamp(setting.wall_offset_s + at, UTC).isoformat(" ", "seconds") for at in (0.0, last_s))
    said = f"{rate.source} has no value from {first} to {last}, when this traffic comes; --began WHEN puts it elsewhere"
    if file is not None:
        raise BadSpec(said)
    return replace(setting, notes=(*setting.notes, said))


def _usual(setting: Setting) -> list[Pairing]:
    slack = any(arrival.waiting.deadline > arrival.waiting.arrived_at for arrival in setting.arrivals)
    sleeps = setting.servers > 1 and setting.model.sleep_power_w is not None
    return usual(servers=setting.servers, slack=slack, sleeps=sleeps)


@contextmanager
def _progress(strategies: int) -> Iterator[Watch]:
    """Bars where there is a terminal, else a line for each that is done."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda name, part: console.print(f"simulated: {name}", highlight=False, markup=False) if part >= 1 else None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        every = progress.add_task(f"{strategies} strategies", total=None)
        tasks: dict[str, TaskID] = {}

        def watch(name: str, part: float) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=1.0)
            progress.update(tasks[name], completed=part, visible=part < 1)

        yield watch
        progress.remove_task(every)


def _make(out: Path) -> None:
    """Before anything that takes long."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.ClickException(f"--out {out}: {error.strerror or error}") from error
