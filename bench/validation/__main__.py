"""`python -m bench.validation live|h200 --out DIR`: the simulator held against live runs and against real GPUs."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import sys
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import click

from bench.draws import BadSpec
from bench.studies.arms import choices, numbers
from bench.validation.cells import Cell, Grid
from bench.validation.compare import Line, Pair, lines
from bench.validation.live import validated
from bench.validation.readers import Unreadable, read
from bench.validation.tables import as_json, markdown
from bench.validation.twin import simulated
from telemetry.cost import BUILT_IN, Linear, StepModel, load_profile

OUT = click.option("--out", type=click.Path(path_type=Path), required=True, help="A folder.")
MOST_HOLD_S = 2.0  # what a proxy lets interactive requests agree to, unless it is configured otherwise
RESULTS = Path(__file__).parents[2] / "docs/results"
KEPT = [
    RESULTS / "2026-11-23-h200-steps/one-gpu.jsonl",
    RESULTS / "2026-11-23-h200-steps/two-gpus.jsonl",
    *sorted((RESULTS / "2026-11-23-h200-grouping").glob("*.json")),
    RESULTS / "2026-11-24-h200-proof/rows.tar.xz",
]


@click.group()
def main() -> None:
    """Does the simulator say what happens?"""


@main.command()
@OUT
@click.option("--rates", default="1,4,12,30", show_default=True, help="Requests a second, on one engine.")
@click.option("--policies", default="passthrough;span;window every_s=1;adaptive", show_default=True, help="On one engine.")
@click.option("--fleets", default="2,4", show_default=True, help="Numbers of engines; empty: none.")
@click.option("--fleet-rates", default="4,12", show_default=True)
@click.option("--placements", default="spread;pack", show_default=True, help="In fleets, straight through.")
@click.option("--seconds", type=click.FloatRange(1), default=15.0, show_default=True, help="Of a run; 40 requests at least.")
@click.option("--hold", "hold_s", type=click.FloatRange(0, MOST_HOLD_S), default=2.0, show_default=True, help="Seconds.")
@click.option("--prompt-tokens", default="uniform:64:512", show_default=True)
@click.option("--output-tokens", default="uniform:32:192", show_default=True)
@click.option("--profile", default=BUILT_IN, show_default=True, help="Of the engines; built in, or a file.")
@click.option("--tries", type=click.IntRange(1), default=3, show_default=True, help="For a cell, while its runs are void.")
@click.option("--seed", default=1, show_default=True)
def live(out: Path, rates: str, policies: str, fleets: str, fleet_rates: str, placements: str, **given: Any) -> None:
    """Against the live proxy and engine over HTTP. Both sides' joules are the model's: what is tested is the schedule."""
    profile, tries = given.pop("profile"), given.pop("tries")
    try:
        grid = Grid(
            rates=numbers(rates, "rates"),
            policies=choices(policies),
            fleets=[int(number) for number in numbers(fleets, "numbers of engines")] if fleets else [],
            fleet_rates=numbers(fleet_rates, "rates"),
            placements=choices(placements),
            **given,
        )
        cells = [cell for cell in grid.cells() if cell.plan()]  # which reads the lengths' specs before anything is started
        for why in grid.absent():
            click.echo(f"left out: {why}", err=True)
        load_profile(profile)
        pairs, void = asyncio.run(_all(cells, profile, tries))
    except (BadSpec, ValueError) as error:
        raise click.ClickException(str(error)) from error
    _save(out, "live", pairs, profile, {"void": void, "absent": grid.absent()})


async def _all(cells: list[Cell], profile: str, tries: int) -> tuple[list[Pair], list[str]]:
    pairs, void = [], []
    for number, cell in enumerate(cells, 1):
        name = f"{cell.study}, {cell.arm}"
        click.echo(f"{number} of {len(cells)}: {name}, {cell.requests} requests", err=True)
        pair = await validated(cell, profile, tries, lambda text: click.echo(text, err=True))
        if pair is None:
            void.append(name)
        else:
            pairs.append(pair)
    return pairs, void


@main.command()
@OUT
@click.option("--profile", default=BUILT_IN, show_default=True, help="Built in, or a file.")
@click.option("--idle-power-w", type=click.FloatRange(min=0), help="This card's, instead of the profile's.")
@click.option("--step-joules", default=1.0, show_default=True, help="What to multiply the steps' joules by, for another card.")
@click.argument("results", nargs=-1, type=click.Path(exists=True, path_type=Path))
def h200(out: Path, profile: str, idle_power_w: float | None, step_joules: float, results: tuple[Path, ...]) -> None:
    """Against runs of real GPUs: files or folders of RESULTS; without any, those that docs/results keeps."""
    try:
        model = adjusted(load_profile(profile), idle_power_w, step_joules)
        pairs = []
        for path in results or KEPT:
            cases = read(path)
            click.echo(f"{path}: {len(cases)} runs", err=True)
            pairs += [Pair(case, simulated(case, model)) for case in cases]
    except (Unreadable, ValueError) as error:
        raise click.ClickException(str(error)) from error
    _save(out, "h200", pairs, profile, {"idle_power_w": idle_power_w, "step_joules": step_joules})


def adjusted(model: StepModel, idle_power_w: float | None, step_joules: float) -> StepModel:
    """The model of another card of the same kind: other idle power, and steps that take as long and cost by a factor."""
    step_j = Linear(*(value * step_joules for value in astuple(model.step_j)))
    return replace(model, step_j=step_j, idle_power_w=model.idle_power_w if idle_power_w is None else idle_power_w)


def _save(out: Path, kind: str, pairs: list[Pair], profile: str, more: dict[str, Any]) -> None:
    """Table, JSON, and the picture where matplotlib is; fails when nothing is left to compare."""
    if not pairs:
        raise click.ClickException("nothing to compare")
    name = load_profile(profile).name
    command = shlex.join(("python", "-m", "bench.validation", *sys.argv[1:]))
    found = lines(pairs, name)
    out.mkdir(parents=True, exist_ok=True)
    changed = any(more.get(key) not in (None, 1.0) for key in ("idle_power_w", "step_joules"))
    stem = kind if kind == "live" else re.sub(r"[^\w.-]+", "_", f"{name}-adjusted" if changed else name)
    told = as_json(kind, command, name, pairs, found) | more
    (out / f"{stem}.json").write_text(json.dumps(told, separators=(",", ":")) + "\n")
    text = markdown(kind, found, f"{told['date']}, profile {name}, {_joules(told)}: `{command}`")
    (out / f"{stem}.md").write_text(text)
    click.echo(text)
    _draw(kind, told, found, out / f"{stem}.png")


def _joules(told: dict[str, Any]) -> str:
    return f"joules: {told['source']['measured']} against simulated"


def _draw(kind: str, told: dict[str, Any], found: list[Line], file: Path) -> None:
    try:
        from bench.validation.plot import plot
    except ImportError:
        click.echo("no picture: matplotlib is not installed (pip install 'paceline[plot]')", err=True)
        return
    other = "a live proxy and simulated engines over HTTP" if kind == "live" else "real GPUs"
    note = "Orange: arrivals or lengths drawn, with the draws' scatter; grey: the profile was fitted to it."
    ground = f"{told['date']}; profile {told['profile']}. Shaded: the bound."
    plot(f"The simulator against {other}", ground if kind == "live" else f"{ground} {note}", found, file)


if __name__ == "__main__":
    main()
