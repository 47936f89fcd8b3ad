"""The command line that studies of paired runs share: options, the estimate before the start, and the report."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bench.admin import AdminError
from bench.draws import BadSpec
from bench.processes import ProcessFailed
from bench.studies.arms import STRAIGHT, Arm, checked, numbers
from bench.studies.cells import cells
from bench.studies.journal import Journal, JournalError, write
from bench.studies.measure import Setting, measure
from bench.studies.plan import Run, Shape, requests, runs
from bench.studies.tables import table
from proxy.dialects import DIALECTS
from telemetry.cost import BUILT_IN, StepModel, load_profile

START_S = 6.0  # the proxy, and warm requests

Function = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Defaults:
    """What differs between the studies."""

    rates: str
    prompt_tokens: str
    output_tokens: str


def options(defaults: Defaults) -> Callable[[Function], Function]:
    """Those that all of them have; the last goes first."""
    given = [
        click.option("--report", type=click.Path(path_type=Path), metavar="DIR", help="Measure nothing: tell what lies there."),
        click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="A folder; goes on where it ended."),
        click.option("--estimate", is_flag=True, help="Measure nothing: tell the runs and their seconds."),
        click.option("--budget-s", type=click.FloatRange(min=1), default=540.0, show_default=True, help="Most time to take."),
        click.option("--dialect", type=click.Choice(["auto", *DIALECTS]), default="auto", show_default=True),
        click.option("--config", default="", help="A TOML file for the proxy, as for servers that can sleep."),
        click.option("--profile", default=BUILT_IN, show_default=True, help="The proxy's step model."),
        click.option("--settle-s", type=click.FloatRange(min=0), default=1.5, show_default=True, help="Of rest before a run."),
        click.option("--output-tokens", default=defaults.output_tokens, show_default=True),
        click.option("--prompt-tokens", default=defaults.prompt_tokens, show_default=True),
        click.option("--first-seed", default=1, show_default=True),
        click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Pairs in each cell."),
        click.option("--requests", default="100", show_default=True, help="In each run: N, or N,RATE=N,... for single rates."),
        click.option("--rates", default=defaults.rates, show_default=True, help="Requests a second, with commas."),
        click.option("--meter", type=click.Choice(["nvml", "simulated"]), default="nvml", show_default=True),
        click.option("--model", default="m", show_default=True, help="What the servers call their model."),
        click.option("--url", "urls", multiple=True, help="A running server that speaks OpenAI's API; may be repeated."),
    ]

    def decorate(function: Function) -> Function:
        for option in given:
            function = option(function)
        return function

    return decorate


def study(name: str, module: str, arms: Callable[[], list[Arm]], given: dict[str, Any]) -> None:
    """Measure what is not yet in the journal, or tell what is."""
    try:
        if given["report"]:
            click.echo(report(Journal(given["report"])))
            return
        _measure(name, module, checked([STRAIGHT, *arms()]), given)
    except (BadSpec, JournalError, ProcessFailed, AdminError, TimeoutError) as error:
        raise click.ClickException(str(error)) from error
    except ValueError as error:  # no such profile
        raise click.UsageError(str(error)) from error


def _measure(name: str, module: str, arms: Sequence[Arm], given: dict[str, Any]) -> None:
    if len(arms) < 2:
        raise BadSpec("there is nothing to compare straight through with")
    if not given["out"] or not (given["urls"] or given["estimate"]):
        raise click.UsageError("--url says which server and --out where runs go; or --report DIR tells what was measured")
    model = load_profile(given["profile"])
    shape = Shape(
        model=given["model"],
        meter=given["meter"],
        requests=requests(given["requests"]),
        prompt_tokens=given["prompt_tokens"],
        output_tokens=given["output_tokens"],
        settle_s=given["settle_s"],
    )
    seeds = range(given["first_seed"], given["first_seed"] + given["seeds"])
    journal = Journal(given["out"])
    journal.begin(name, shape.identity())
    planned = runs(shape, numbers(given["rates"], "rates"), seeds, arms)
    todo = [run for run in planned if not journal.over(run.id)]
    click.echo(estimate(planned, todo, model, given["budget_s"]))
    if todo and not given["estimate"]:
        named = {key: given[key] for key in ("urls", "meter", "budget_s", "profile", "config", "dialect")}
        setting = Setting(name, module, **named)
        left_out = asyncio.run(measure(setting, journal, todo, model, click.echo))
        click.echo(f"{len(todo) - len(left_out)} runs made; {len(left_out)} found no time, and the same command makes them")
        write(journal.folder / "summary.json", summary(journal))
    if not given["estimate"]:
        click.echo(report(journal))


def estimate(planned: Sequence[Run], todo: Sequence[Run], model: StepModel, budget_s: float) -> str:
    """What is about to be done, and how long it takes."""
    whole_s = START_S + sum(run.expected_s(model) for run in todo)
    cut = f"; the budget of {budget_s:.0f} s ends before that" if whole_s > budget_s else ""
    each = [
        f"  {rate:g}/s: {len(of)} runs of {of[0].requests} requests, {sum(run.expected_s(model) for run in of):.0f} s"
        for rate in dict.fromkeys(run.rate for run in todo)
        if (of := [run for run in todo if run.rate == rate])
    ]
    over = f"{len(planned) - len(todo)} of {len(planned)} runs are over"
    return "\n".join([f"{over}; the rest takes {whole_s:.0f} s{cut}", *each])


def summary(journal: Journal) -> dict[str, Any]:
    """The cells as JSON, with the provenance of every run that they are of."""
    return {"cells": [cell.as_json() for cell in cells(journal.runs)], "provenance": _provenances(journal)}


def report(journal: Journal) -> str:
    """The cells as Markdown."""
    return table(cells(journal.runs), _provenances(journal))


def _provenances(journal: Journal) -> list[dict[str, Any]]:
    """Of each slice in which runs were made, once."""
    return list({run["provenance"]["date_unix_s"]: run["provenance"] for run in journal.runs}.values())
