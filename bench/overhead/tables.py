"""The tables of a report, for the terminal and for the documentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.overhead.bars import bars
from bench.overhead.figures import Results, Spread, written
from bench.overhead.report import Report
from bench.overhead.slices import DIRECT

BEGIN, END = "<!-- written by python -m bench.overhead: begin -->", "<!-- end -->"


@dataclass(frozen=True, slots=True)
class Sheet:
    """One table; the first column is words, the others are figures."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


def sheets(report: Report) -> list[Sheet]:
    made = [_answers(report), _streams(report), _bars(report)]
    return [*made, _waiting(report)] if report.waiting is not None else made


def notes(report: Report) -> Iterator[str]:
    """What a reader of the tables must know."""
    told = [f"{key}: {value}" for key, value in {**report.machine, **report.versions}.items()]
    yield f"{report.date}, {report.seconds / 60:.1f} minutes, `{report.command}`; " + "; ".join(told) + "."
    proxies = [f"{name} {found.version}" for name, found in report.contenders.items() if found.version]
    yield "Proxies: " + "; ".join(proxies) + f". Paceline pushed OTLP {report.otlp_exports} times."
    for name, found in report.contenders.items():
        if found.absent:
            yield f"**{name} was left out**: {found.absent.splitlines()[0]}"
    for slice in report.slices:
        if slice.void:
            yield f"Void: {slice.proxy}, {slice.shape}, round {slice.round}: {slice.void}."
    if report.waiting is not None and report.waiting.absent:
        yield f"Memory was not measured: {report.waiting.absent}"


def _names(report: Report) -> list[str]:
    return list(dict.fromkeys(slice.proxy for slice in sorted(report.slices, key=lambda s: s.proxy != DIRECT)))


def _answers(report: Report) -> Sheet:
    results = Results(report.slices)
    heads = (
        "proxy",
        "requests/s at 1",
        "16",
        "64",
        "added p50 / p99 us, 1",
        "CPU us/request, 1",
        "16",
        "64",
        "/s over bare, 16",
        "MiB",
    )
    rows = []
    for name in _names(report):
        found = report.contenders.get(name)
        shapes = [f"json-{connections}" for connections in (1, 16, 64)]
        rows.append([
            name,
            *(_rate(results.alone(name, shape, "rate")) for shape in shapes),
            _pair(results.added(name, "json-1", "p50_us"), results.added(name, "json-1", "p99_us"), name),
            *(_cpu(results.alone(name, shape, "cpu_us"), name) for shape in shapes),
            _ratio(results.ratio(name, "bare", "json-16", "rate")),
            f"{found.resident_mib:.0f}" if found else "",
        ])  # fmt: skip
    return Sheet("JSON answers by number of connections", heads, rows)


def _streams(report: Report) -> Sheet:
    results = Results(report.slices)
    heads = ("proxy", "events/s", "added event p50 / p99 us", "CPU us/event", "first event p50 ms",
             "idle: added first event p50 / p99 us", "burst streams/s at 1", "16")  # fmt: skip
    rows = []
    for name in _names(report):
        first = results.alone(name, "paced-64", "first_p50_us")
        rows.append([
            name,
            _rate(results.alone(name, "paced-64", "rate")),
            _pair(results.added(name, "paced-64", "p50_us"), results.added(name, "paced-64", "p99_us"), name),
            _cpu(results.alone(name, "paced-64", "cpu_us"), name),
            f"{first.median / 1000:.1f}" if first else "",
            _pair(results.added(name, "burst-1", "first_p50_us"), results.added(name, "burst-1", "first_p99_us"), name),
            *(_rate(results.alone(name, f"burst-{connections}", "rate")) for connections in (1, 16)),
        ])  # fmt: skip
    return Sheet("Streams: 64 paced at 50 events/s, and bursts", heads, rows)


def _bars(report: Report) -> Sheet:
    rows = []
    for bar in bars(report):
        words = {True: "met", False: "NOT met", None: "not measured"}[bar.met]
        digits = 3 if bar.unit == "ms" else 2 if bar.unit == "x" else 0
        limit = f"{'at least' if bar.least else 'at most'} {bar.limit:g} {bar.unit}"
        rows.append([bar.name, limit, _ranged(bar.found, digits=digits), words])
    return Sheet("Bars, by the median over rounds", ("what", "bar", "measured", ""), rows)


def _waiting(report: Report) -> Sheet:
    cost = report.waiting
    assert cost is not None
    rows = [[f"tick of `{ticks.policy}` ({ticks.held:,} held, {ticks.ready:,} ready), p50 / p99",
             f"{ticks.p50_ms:.3f} / {ticks.p99_ms:.3f} ms"] for ticks in cost.ticks]  # fmt: skip
    if cost.crowd is not None:
        rows += [
            ["resident memory a request, connection and HTTP server included", f"{cost.crowd.paceline_bytes:,.0f} bytes"],
            ["the same of an app that reads the body and waits", f"{cost.crowd.others_bytes:,.0f} bytes"],
            ["the difference: our own state", f"{cost.crowd.own_bytes:,.0f} bytes"],
        ]
    return Sheet(f"{cost.requests:,} waiting requests", ("what", "measured"), rows)


def _ranged(found: Spread | None, *, digits: int = 0) -> str:
    """Median, and what the rounds spread over."""
    if found is None:
        return ""
    median = f"{found.median:,.{digits}f}"
    return f"{median} ({found.least:,.{digits}f} to {found.most:,.{digits}f})" if found.rounds > 1 else median


def _rate(found: Spread | None) -> str:
    """Median, and half of what the rounds spread over."""
    if found is None:
        return ""
    around = (found.most - found.least) / found.median * 50
    return f"{found.median:,.0f} ± {around:.0f} %" if found.rounds > 1 else f"{found.median:,.0f}"


def _ratio(found: Spread | None) -> str:
    return written(found.median) if found else ""


def _pair(p50: Spread | None, p99: Spread | None, proxy: str) -> str:
    return f"{p50.median:,.0f} / {p99.median:,.0f}" if p50 and p99 and proxy != DIRECT else ""


def _cpu(found: Spread | None, proxy: str) -> str:
    return f"{found.median:,.0f}" if found and proxy != DIRECT else ""


def show(report: Report) -> None:
    console = Console(width=None if Console().is_terminal else 170)
    for sheet in sheets(report):
        table = Table(title=sheet.title, title_justify="left", title_style="bold")
        for place, head in enumerate(sheet.heads):
            table.add_column(head, justify="right" if place else "left")
        for row in sheet.rows:
            table.add_row(*row)
        console.print(table)
    for note in notes(report):
        console.print(note, highlight=False, markup=False)


def markdown(report: Report) -> str:
    parts = []
    for sheet in sheets(report):
        lines = [f"### {sheet.title}", "", _line(sheet.heads), _line(["---"] * len(sheet.heads)), *map(_line, sheet.rows)]
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, *notes(report)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write_into(page: Path, report: Report) -> None:
    """Put the tables between the two marks of a page."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} has no place for the tables: it needs {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n\n{markdown(report)}\n\n{END}{after}")
