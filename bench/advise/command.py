"""`paceline advise`: asks the simulator which lever is worth pulling on a trace, a ledger, or a running proxy's traffic."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from rich.console import Console

from bench.advise import live
from bench.advise.findings import Guardrails
from bench.advise.judge import CHOSEN_ON, Judge
from bench.advise.report import Context, as_json
from bench.advise.trial import Stage
from bench.advise.words import tell
from bench.draws import BadSpec, finite
from bench.simulation.tiers import shares_of, with_tiers
from bench.simulation.traces import FORMATS, Trace, load
from bench.simulation.traffic import absent, slack_of
from proxy.admin_address import AdminAddress, admin_option
from telemetry.cost import BUILT_IN, built_in, load_profile

FEW_TOLD = 0.5
GUARDS = ("max_wait_p99", "max_ttft_p99", "max_tpot_p99")
TOLD = ("profile", *GUARDS, "least", "speedup", "requests", "seed", "shares")  # in the JSON
WIDTH = 160  # of a file or a pipe


@click.command("advise", short_help="say which lever saves joules on your traffic")
@click.argument("trace", required=False, type=click.Path(path_type=Path))
@admin_option(help="Ask a running proxy for its latest requests instead of reading a trace.")
@click.option("--group", help="Group of servers of that proxy. [the first]")
@click.option("--format", "format_", type=click.Choice(FORMATS), default="auto", show_default=True, help="The trace's.")
@click.option("--profile", help=f"A built-in step model, or a JSON file's path. [{BUILT_IN}; --admin: the proxy's]")
@click.option("--servers", type=click.IntRange(min=1), help="How many there are. [1; --admin: the proxy's]")
@click.option("--slots", type=click.IntRange(min=1), help="Most sequences on one at once. [no limit; --admin: the proxy's]")
@click.option("--slack", multiple=True, metavar="SPEC", help="What if requests of a tier agreed to so much: flex=8,batch=60?")
@click.option("--slack-all", type=click.FloatRange(min=0), metavar="S", help="What if all tiers agreed to S seconds?")
@click.option("--tiers", "shares", metavar="SPEC", help="Draw tiers by their shares: flex=0.5,interactive=0.5. [the trace's]")
@click.option("--max-wait-p99", type=click.FloatRange(min=0), metavar="S", help="Guardrail, of interactive requests.")
@click.option("--max-ttft-p99", type=click.FloatRange(min=0), metavar="S", help="Guardrail: seconds to the first token.")
@click.option("--max-tpot-p99", type=click.FloatRange(min=0), metavar="S", help="Guardrail: seconds a token.")
@click.option("--least", type=click.FloatRange(0, 1), default=0.03, show_default=True, help="A smaller saving is none.")
@click.option("--speedup", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True, help="Of the trace.")
@click.option(
    "--requests", type=click.IntRange(min=2), default=10_000, show_default=True, help="Most: a trace's first, a ledger's last."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the intervals, and of tiers.")
@click.option("--json", "as_json_", is_flag=True, help="Print JSON.")
def command(trace: Path | None, admin: AdminAddress | None, as_json_: bool, **options: Any) -> None:
    """Say which lever is worth pulling (packing, sleeping, grouping, deferring), with what setting, for how many joules and
    how much wait, on TRACE: the ledger's files or their directory, Azure's or Mooncake's traces; or on a proxy's traffic.

    The answer is the simulator's, by the profile, and may be: none.
    """
    if trace is not None and admin is not None:
        raise click.UsageError("give a TRACE or --admin URL, not both")
    if trace is None and admin is None:
        raise click.UsageError("give a TRACE, or --admin URL")
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    try:
        finite(options)
        with TemporaryDirectory() as folder:
            judge, context = _on_proxy(admin, options, Path(folder)) if admin else _on_trace(trace, options)
        with _progress() as told:
            judge.told = told
            advice = judge.judge()
    except (BadSpec, ValueError, live.NotTold) as error:
        raise click.ClickException(str(error)) from error
    if as_json_:
        click.echo(json.dumps(as_json(advice, context), indent=2))
    else:
        tell(advice, context, console)


def _on_trace(trace: Path | None, options: dict[str, Any]) -> tuple[Judge, Context]:
    assert trace is not None
    stage = _stage(options["profile"] or BUILT_IN, options["servers"] or 1, options["slots"])
    assumed = () if options["servers"] else ("one server is assumed (`--servers`)",)
    return _judge(trace, str(trace), stage, options, (), assumed)


def _on_proxy(at: AdminAddress, options: dict[str, Any], folder: Path) -> tuple[Judge, Context]:
    told = live.ask(at, options["group"], folder)
    try:
        stage = _stage(options["profile"] or told.profile, options["servers"] or told.servers, options["slots"] or told.slots)
    except ValueError as error:
        raise live.NotTold(f"the proxy's profile is not to be had here; give it by --profile ({error})") from error
    where = f"{at.url}, group {told.group}"
    return _judge(told.ledger, where, stage, options, live.facts(told), live.doubts(told))


def _stage(profile: str, servers: int, slots: int | None) -> Stage:
    return Stage(load_profile(profile), servers, slots)


def _judge(
    path: Path, where: str, stage: Stage, options: dict[str, Any], facts: tuple[str, ...], doubts: tuple[str, ...]
) -> tuple[Judge, Context]:
    slack, shares = slack_of(options), shares_of(options)
    trace = load(
        path,
        format=options["format_"],
        speedup=options["speedup"],
        slack_s=None if shares else slack,  # by the tiers that are drawn, then
        requests=options["requests"],
        latest=True,
    )
    if shares:
        trace.arrivals = with_tiers(trace.arrivals, shares, slack, options["seed"])
    guardrails = Guardrails(options["max_wait_p99"], options["max_ttft_p99"], options["max_tpot_p99"])
    warnings = (*_doubts_of(trace), *absent(trace.arrivals, options), *doubts, *_doubts_of_profile(stage))
    asked = {tier.value: seconds for tier, seconds in slack.items()}
    told = {name: options[name] for name in TOLD}
    context = Context(where, shlex.join(["paceline", *sys.argv[1:]]), asked, warnings, facts, trace.as_json(), told)
    return Judge(trace.arrivals, stage, guardrails, options["least"], options["seed"]), context


def _doubts_of(trace: Trace) -> Iterator[str]:
    count = len(trace.arrivals)
    if trace.estimated > FEW_TOLD * count:
        yield f"token counts of {trace.estimated} of {count} requests are estimates"
    if trace.cut:
        yield f"only the {'latest' if trace.format == 'ledger' else 'first'} {count:,} requests are looked at (`--requests`)"
    if trace.incomplete:
        yield f"{trace.incomplete} records are left out: their requests did not complete"
    longest_s = max(arrival.waiting.deadline - arrival.waiting.arrived_at for arrival in trace.arrivals)
    told_s = (1 - CHOSEN_ON) * trace.arrivals[-1].waiting.arrived_at
    if longest_s > told_s:
        yield f"some may wait {longest_s:.0f} s, and only {told_s:.0f} s are told of: a longer trace would tell more of them"
    if trace.format == "ledger":
        yield "requests that were sent again, or not at all, because they had been held are not in it: it is traffic as it came"


def _doubts_of_profile(stage: Stage) -> Iterator[str]:
    if stage.model.name in built_in():
        yield f"{stage.model.name} is built in: no calibration was made for this server (`paceline calibrate`)"


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """What is tried now: one line that changes where there is a terminal, else a line each."""
    console = Console(stderr=True)
    count = 0

    def told(setting: str) -> None:
        nonlocal count
        count += 1
        text = f"simulating {count}: {setting}"
        if console.is_terminal:
            status.update(text)
        else:
            console.print(text, highlight=False, markup=False, soft_wrap=True)

    with console.status("") as status:
        yield told
