"""The study's tables for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from bench.accuracy.cells import Cell
from bench.accuracy.figures import Errors, Figures, by_kind
from bench.accuracy.traffic import Traffic

AIM = 0.95


def show(told: Sequence[Figures], console: Console) -> None:
    """All tables; errors are relative to the truth."""
    grid = [one for one in told if one.cell.kind.startswith("every")]
    causes = [one for one in told if one.cell.kind == "cause"]
    thinning = [one for one in told if one.cell.kind == "thinning"]
    others = [one for one in told if one not in (*grid, *causes, *thinning)]
    console.print(_grid(grid))
    if causes:
        console.print(_across("What each cause does: error, median / p95", causes, _error))
        console.print(_across("Fewer cuts: error, median / p95, and time an interval", thinning, _taken))
    console.print(_across("Wrong profiles and counters: error, median / p95 (within what was stated)", others, _covered))
    console.print(_kinds(told))


def _grid(told: Sequence[Figures]) -> Table:
    heads = ("traffic", "batch", "counter", "seen", "requests", "median", "p95", "bias", "within", "stated")
    table = _table("As usual: error against the truth", (*heads, "tokens", "time", "unattr.", "µs/int.", "µs/req."))
    before = None
    for one in told:
        if before is not None and before != one.cell.traffic:
            table.add_section()
        before = one.cell.traffic
        error = one.shapley
        table.add_row(
            label(one.cell.traffic),
            f"{one.mean_batch:.1f}",
            one.cell.kind,
            one.cell.name,
            f"{one.requests:,}",
            f"{error.median:.1%}",
            f"{error.p95:.1%}",
            f"{error.bias:+.1%}",
            _within(one.coverage),
            f"{one.stated:.1%}",
            _median(one.tokens),
            _median(one.time),
            f"{one.unattributed:.1%}",
            f"{one.us_per_interval:,.0f}",
            f"{one.us_per_request:,.0f}",
        )
    return table


def _across(title: str, told: Sequence[Figures], text: Callable[[Figures], str]) -> Table:
    """One row for each case, one column for each traffic."""
    traffics = list(dict.fromkeys(_loaded(one.cell) for one in told))
    table = _table(title, ("", *traffics))
    found = {(one.cell.kind, one.cell.name, _loaded(one.cell)): one for one in told}
    for kind, name in dict.fromkeys((one.cell.kind, one.cell.name) for one in told):
        cells = [found.get((kind, name, traffic)) for traffic in traffics]
        row = name if kind in ("cause", "model", "thinning") else f"{kind}: {name}"
        table.add_row(row, *("" if cell is None else text(cell) for cell in cells))
    return table


def _kinds(told: Sequence[Figures]) -> Table:
    table = _table(f"Truth within the stated uncertainty; the aim is {AIM:.0%}", ("", "within", "worst case"))
    for kind, coverage in by_kind(told).items():
        worst = min((one for one in told if one.cell.kind == kind), key=lambda one: one.coverage)
        table.add_row(kind, _within(coverage), f"{worst.coverage:.1%}: {label(worst.cell.traffic)}, {worst.cell.name}")
    unbalanced_uj, not_final = sum(one.unbalanced_uj for one in told), sum(one.not_final for one in told)
    table.caption = f"out of balance: {unbalanced_uj} µJ; never final: {not_final}"
    return table


def label(traffic: Traffic) -> str:
    return f"{traffic.shape} {traffic.rate:g}/s"


def _loaded(cell: Cell) -> str:
    return label(cell.traffic)


def _error(one: Figures) -> str:
    return f"{one.shapley.median:.1%} / {one.shapley.p95:.1%}"


def _covered(one: Figures) -> str:
    return f"{_error(one)} ({one.coverage:.0%})"


def _taken(one: Figures) -> str:
    return f"{_error(one)}  {one.us_per_interval:,.0f} µs"


def _within(coverage: float) -> str:
    return f"{coverage:.1%}" if coverage >= AIM else f"[bold red]{coverage:.1%}[/]"


def _median(errors: Errors | None) -> str:
    return "" if errors is None else f"{errors.median:.0%}"


def _table(title: str, heads: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for number, head in enumerate(heads):
        table.add_column(head, justify="left" if number == 0 else "right", no_wrap=True)
    return table
