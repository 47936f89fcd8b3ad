"""`python -m bench.overhead`: measures what proxies cost side by side, and writes report, tables and picture."""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from pathlib import Path

import click
from rich.console import Console

from bench.overhead.contenders import PROXIES
from bench.overhead.crowd import crowd
from bench.overhead.environments import Tell
from bench.overhead.plot import plot
from bench.overhead.report import Report, WaitingCost, machine, now, versions
from bench.overhead.slices import DIRECT, SHAPES, measure, scaled
from bench.overhead.stub import NotPossible
from bench.overhead.tables import show, write_into
from bench.overhead.waiting import all_ticks

ROUNDS, WAITING = 7, 10_000
QUICK_ROUNDS, QUICK_WAITING, QUICK_FACTOR = 2, 2_000, 0.25
BENCH = Path(".bench")


@click.command()
@click.option("--quick", is_flag=True, help="Two minutes: two rounds of short windows, 2,000 waiting requests.")
@click.option("--rounds", type=click.IntRange(1), help=f"[{ROUNDS}; quick: {QUICK_ROUNDS}]")
@click.option("--without", default="", metavar="A,B", help=f"Leave out: {', '.join(PROXIES)}, waiting.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("paceline-overhead"), show_default=True)
@click.option("--from", "saved", type=click.Path(path_type=Path, exists=True), help="Measure nothing: tell this report.json.")
@click.option("--markdown", "page", type=click.Path(path_type=Path, exists=True), help="Put the tables into this page.")
def command(quick: bool, rounds: int | None, without: str, out: Path, saved: Path | None, page: Path | None) -> None:
    """What a proxy costs: Paceline beside nginx, a bare forwarder, vLLM's router and LiteLLM, in one run on this machine."""
    left_out = {name for name in without.split(",") if name}
    if unknown := left_out - {*PROXIES, "waiting"}:
        raise click.UsageError(f"--without {', '.join(sorted(unknown))}: there are {', '.join(PROXIES)} and waiting")
    try:
        report = Report.read(saved) if saved else _run(quick, rounds, left_out, out)
    except NotPossible as error:
        raise click.ClickException(str(error)) from error
    out.mkdir(parents=True, exist_ok=True)
    report.save(out / "report.json")
    plot(report, out / "report.png")
    show(report)
    if page is not None:
        write_into(page, report)
    click.echo(f"{out}/report.json {out}/report.png", err=True)


def _run(quick: bool, rounds: int | None, left_out: set[str], out: Path) -> Report:
    BENCH.mkdir(exist_ok=True)
    (BENCH / ".gitignore").write_text("*\n")
    started, tell, date, ground = time.monotonic(), _teller(), now(), machine()
    names = [DIRECT, *(name for name in PROXIES if name not in left_out)]
    shapes = scaled(SHAPES, QUICK_FACTOR) if quick else SHAPES
    measured = measure(names, shapes, rounds or (QUICK_ROUNDS if quick else ROUNDS), BENCH, tell)
    waiting = None if "waiting" in left_out else _waiting(QUICK_WAITING if quick else WAITING, tell)
    return Report(
        date=date,
        command=shlex.join(("python", "-m", "bench.overhead", *sys.argv[1:])),
        machine=ground,
        versions=versions(),
        contenders=measured.contenders,
        slices=measured.slices,
        otlp_exports=measured.otlp_exports,
        seconds=time.monotonic() - started,
        waiting=waiting,
    )


def _waiting(requests: int, tell: Tell) -> WaitingCost:
    ticks = asyncio.run(all_ticks(requests, tell))
    try:
        memory = crowd(requests, BENCH, tell)
    except NotPossible as error:
        tell(f"{requests:,} waiting  memory not measured: {error}")
        return WaitingCost(requests, ticks, None, str(error))
    tell(f"{requests:,} waiting  {memory.paceline_bytes:,.0f} bytes a request, {memory.own_bytes:,.0f} of them our own")
    return WaitingCost(requests, ticks, memory)


def _teller() -> Tell:
    """Progress, with the time since the start."""
    console, started = Console(stderr=True), time.monotonic()
    return lambda text: console.print(f"{time.monotonic() - started:5.0f} s  {text}", highlight=False, markup=False)


if __name__ == "__main__":
    command()
