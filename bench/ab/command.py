"""`paceline ab`: experiments on a running proxy: begin one, look at it, end it, and report what it came to."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.live import Live

from bench.ab import terminal
from bench.ab.asking import AUTO, FORM, arm, guardrails, seconds
from bench.ab.client import Client, NotReached
from bench.ab.demo import demo
from bench.ab.document import Document, arm_as_written
from bench.ab.errors import errors
from bench.ab.folder import read
from bench.ab.planning import planned
from proxy.admin_address import AdminAddress, admin_option
from telemetry.pairs import METRICS

ADMIN = "http://127.0.0.1:9464"
METRIC = "j_per_token"
LOOKS_EVERY_S = 1.0

at_admin = admin_option(ADMIN)


@click.group("ab", short_help="A/B tests of policies on live traffic, by switchback")
def command() -> None:
    """A/B tests of scheduling policies on live traffic: the whole server changes its policy by randomised blocks of time."""


@command.command("start", short_help="begin an experiment")
@click.argument("name")
@at_admin
@click.option("--treatment", required=True, metavar=f"'{FORM}'", help="What is tried; what is not named stays in force.")
@click.option("--control", default="", metavar="'...'", help="What it is compared with. [what is in force]")
@click.option("--group", help="Group of servers. [the first]")
@click.option("--split", "in_two", is_flag=True, help="Both arms at a time, by turns, on servers that share no meter.")
@click.option("--side", "sides", multiple=True, metavar="SERVER", help="One side's, for --split. [as the meters part them]")
@click.option("--pairs", type=click.IntRange(min=2), default=16, show_default=True, help="Of blocks, one of each arm.")
@click.option("--block", "block_s", default=AUTO, show_default=True, metavar="S", help="Length of a block: 300, 5m.")
@click.option("--burn-in", "burn_in_s", default=AUTO, show_default=True, metavar="S", help="Its part that is not analysed.")
@click.option("--seed", type=int, help="Decides which arm goes first in each pair. [drawn, and told]")
@click.option("--metric", type=click.Choice(list(METRICS)), default=METRIC, show_default=True, help="What is compared.")
@click.option(
    "--alpha",
    type=click.FloatRange(1e-6, 0.5, max_open=True),
    default=0.05,
    show_default=True,
    help="How often an interval may be wrong.",
)
@click.option("--guardrail", "guards", multiple=True, metavar="KEY=VALUE", help="Such as ttft_p95=1.2, or wait_p99_s=off.")
@click.option("--plan", "only_plan", is_flag=True, help="Begin nothing: tell the plan.")
@click.option("--forecast/--no-forecast", default=True, show_default=True, help="Tell how small a difference it may show.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def start(name: str, admin: AdminAddress, only_plan: bool, forecast: bool, as_json: bool, **given: Any) -> None:
    """Begin the experiment NAME, and tell how long it takes and how small a difference it can be expected to show.

    Nothing is asked. Control rules before, after, and as soon as a guardrail trips.
    """
    with errors(), Client(admin) as client:
        asked = _asked(name, client, given)
        if asked["control"] == asked["treatment"] and given["treatment"].strip():
            raise click.UsageError(
                f"both arms would be {arm_as_written(asked['control'])}, which is in force: --control names what it shall be "
                "compared with; --treatment '' begins an A/A test"
            )
        told = client.plan(asked)  # what is refused is refused before anything takes time
        if forecast:
            click.echo("looking at former experiments, or simulating: some seconds (--no-forecast does not)", err=True)
        plan = planned(client, asked, told, forecast=forecast)
        document = None if only_plan else client.start(asked)
        if document is not None:
            plan = replace(plan, design=document.design)
        if as_json:
            click.echo(json.dumps(plan.as_json(document), indent=1))
        else:
            terminal.plan(plan, document, terminal.plain())


def _asked(name: str, client: Client, given: dict[str, Any]) -> dict[str, Any]:
    """The body of `POST /experiments`."""
    in_force = client.in_force(given["group"])
    optional = {key: given[key] for key in ("group", "seed") if given[key] is not None}
    if given["in_two"] or given["sides"]:
        optional["split"] = {"side": list(given["sides"])}
    return {
        "name": name,
        "control": arm(given["control"], in_force),
        "treatment": arm(given["treatment"], in_force),
        "block_s": seconds(given["block_s"]),
        "burn_in_s": seconds(given["burn_in_s"]),
        "pairs": given["pairs"],
        "metric": given["metric"],
        "alpha": given["alpha"],
        "guardrails": guardrails(given["guards"]),
        **optional,
    }


@command.command("status", short_help="look at an experiment")
@click.argument("name", required=False)
@at_admin
@click.option("--watch", is_flag=True, help="Until it is over. Looking often does no harm: the interval allows for it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(name: str | None, admin: AdminAddress, watch: bool, as_json: bool) -> None:
    """The experiment NAME, else the one that runs or ran last: its blocks, the effect so far, and its guardrails."""
    with errors(), Client(admin) as client:
        name = name or client.latest()
        document = client.get(name)
        if as_json:
            click.echo(json.dumps(document.as_json(), indent=1))
            return
        console = terminal.plain()
        if not watch:
            console.print(terminal.status(document))
            return
        if console.is_terminal:
            _watch(_looks(client, document), console)
        else:
            _watch_in_lines(_looks(client, document), console)


def _looks(client: Client, document: Document) -> Iterator[tuple[Document, str]]:
    """The experiment until it is over, a look a second; with why it could not be looked at just now, where that is so."""
    yield document, ""
    while document.running:
        time.sleep(LOOKS_EVERY_S)
        try:
            document, silent = client.get(document.name), ""
        except NotReached as error:  # it is being restarted, say; the experiment goes on with it
            silent = str(error)
        yield document, silent


def _watch(looks: Iterator[tuple[Document, str]], console: Console) -> None:
    with Live(console=console, auto_refresh=False) as live:
        for document, silent in looks:
            live.update(terminal.status(document, silent=silent), refresh=True)


def _watch_in_lines(looks: Iterator[tuple[Document, str]], console: Console) -> None:
    """For a log: all of it whenever a block has been told, and at the end."""
    told = -1
    for document, silent in looks:
        if silent:
            click.echo(silent, err=True)
        elif len(document.blocks) != told or not document.running:
            told = len(document.blocks)
            console.print(terminal.status(document))


@command.command("list", short_help="all experiments of a proxy")
@at_admin
def list_(admin: AdminAddress) -> None:
    """All experiments that a proxy knows."""
    with errors(), Client(admin) as client:
        documents = client.all_of_them(lambda odd: click.echo(odd, err=True))
        terminal.plain().print(terminal.listing(documents))


@command.command("stop", short_help="end an experiment")
@click.argument("name")
@at_admin
def stop(name: str, admin: AdminAddress) -> None:
    """End the experiment NAME: control rules at once. What it came to so far stays, and its interval stays valid."""
    with errors(), Client(admin) as client:
        document = client.stop(name)
        terminal.plain().print(terminal.status(document))


@command.command("report", short_help="what an experiment came to")
@click.argument("name", required=False)
@at_admin
@click.option("--from", "folder", type=click.Path(path_type=Path, exists=True), metavar="DIR", help="Ask no proxy: read DIR.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write a page of its own.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def report(name: str | None, admin: AdminAddress, folder: Path | None, html: Path | None, as_json: bool) -> None:
    """What the experiment NAME came to, else the one that runs or ran last: the effect, its guardrails, whether its
    assumptions hold, and what may be concluded. DIR is where the proxy kept it (`experiments.path`).
    """
    with errors():
        document = read(folder, name) if folder is not None else _whole(admin, name)
        if html is not None:  # before anything is printed: who asks for a page waits for no report to learn that there is none
            _write_page(document, html)
        if as_json:
            click.echo(json.dumps(document.as_json(), indent=1))
        else:
            terminal.report(document, terminal.plain())


def _whole(admin: AdminAddress, name: str | None) -> Document:
    with Client(admin) as client:
        return client.whole(name or client.latest())


def _write_page(document: Document, html: Path) -> None:
    try:
        from bench.ab.page import page
    except ImportError as error:
        raise click.ClickException(f"a page needs {error.name}: pip install 'paceline[plot]'") from error
    try:
        html.write_text(page(document))
    except OSError as error:
        raise click.ClickException(f"--html {html}: {error}") from error
    click.echo(f"page: {html}", err=True)


command.add_command(demo)
