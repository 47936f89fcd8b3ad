"""Tells of a load on the terminal: its progress while it runs, and its figures at the end."""

from __future__ import annotations

import asyncio

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench.open_loop import Sending
from bench.report import EnergyUse, Latency, Percentiles, Report

LIVE_EVERY_S, LINE_EVERY_S = 0.25, 5.0


async def watch(sending: Sending) -> None:
    """A bar where there is a terminal, else a line every few seconds; until cancelled."""
    console = Console(stderr=True)
    if console.is_terminal:
        await _bar(sending, console)
    while True:
        await asyncio.sleep(LINE_EVERY_S)
        console.print(
            f"{sending.clock():.0f} s: sent {len(sending.samples)} of {len(sending.plan)},"
            f" ended {sending.ended}, failed {sending.failed}"
        )


async def _bar(sending: Sending, console: Console) -> None:
    columns = (TextColumn("ended"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(sending.plan))
        while True:
            in_flight = len(sending.samples) - sending.ended
            progress.update(task, completed=sending.ended, description=f"{in_flight} under way, {sending.failed} failed")
            await asyncio.sleep(LIVE_EVERY_S)


def tell(report: Report) -> None:
    """The report's main figures."""
    console = Console()
    errors = ", ".join(f"{kind} {count}" for kind, count in report.errors.items())
    console.print(
        f"{report.completed} of {report.planned} requests completed in {report.duration_s:.1f} s"
        + (f"; failed: {errors}" if errors else "")
        + f"; {report.output_tokens} output tokens"
    )
    console.print(_latencies(report))
    if report.energy is not None:
        console.print(energy_line(report.energy))
    for problem in report.problems:
        console.print(f"[bold red]this run is void:[/] {problem}", highlight=False)


def _latencies(report: Report) -> Table:
    table = Table("milliseconds: p50 / p99", "added wait", "first token", "time per output token", "whole answer", box=None)
    for name, latency in report.latency.items():
        table.add_row(name, *(_pair(part) for part in _parts(latency)))
    lag = report.start_lag_s
    table.add_row("the generator's own lateness", _pair(lag), "", "", "")
    return table


def _parts(latency: Latency) -> tuple[Percentiles | None, ...]:
    return latency.wait_s, latency.ttft_s, latency.tpot_s, latency.e2e_s


def _pair(part: Percentiles | None) -> str:
    return "unknown" if part is None else f"{part.p50 * 1000:,.1f} / {part.p99 * 1000:,.1f}"


def energy_line(energy: EnergyUse) -> str:
    """`123.4 J a request (simulated) ...`: no joule without its source."""
    if energy.j_per_request is None:
        return f"{energy.counted_j:.0f} J ({energy.source}), and no request that they could be divided by"
    per_token = f", {energy.j_per_output_token:.2f} J an output token" if energy.j_per_output_token is not None else ""
    return (
        f"{energy.j_per_request:.1f} J a request{per_token}, idle included ({energy.source});"
        f" mean power {energy.mean_power_w:.0f} W; of {energy.counted_j:.0f} J: requests {energy.requests_j:.0f},"
        f" idle {energy.idle_j:.0f}, unattributed {energy.unattributed_j:.0f}"
    )
