"""A study's cells as a table in Markdown, with what must be known to read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.studies.cells import ENOUGH, Cell, Side
from bench.studies.intervals import Interval

TAIL_BOUND = 1.10  # a first token's 99th percentile so many times straight through's is within its guardrail

COLUMNS = (
    "rate",
    "arm",
    "pairs, requests each",
    "J/request",
    "ratio (95 %)",
    "power",
    "wait p50, p99",
    "first token p50, p99",
    "time a token p50, p99",
    "p99 ratios: first token, a token",
)


def table(cells: Sequence[Cell], provenances: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: hardware, a row for each cell, and remarks."""
    if not cells:
        return "no pair of runs is over yet: a cell needs a good run straight through and one of its arm, with the same seed"
    rows = [COLUMNS, ("---",) * len(COLUMNS), *map(_row, cells)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*_head(cells, provenances), "", *lines, "", *_remarks(cells)])


def _head(cells: Sequence[Cell], provenances: Sequence[Mapping[str, Any]]) -> list[str]:
    def told(key: str) -> str:
        return "; ".join(dict.fromkeys(str(provenance[key]) for provenance in provenances))

    sources = ", ".join(sorted({cell.source for cell in cells}))
    warning = [] if sources == "counter" else [f"**Joules are of source {sources}: not all of them a counter's.**"]
    return [f"Hardware: {told('hardware')}. Servers: {told('servers')}. Commit: {told('commit')}.", *warning]


def _row(cell: Cell) -> tuple[str, ...]:
    a, b = cell.straight, cell.side
    mark = "" if cell.enough else " (few)"
    return (
        f"{cell.rate:g}/s",
        cell.arm,
        f"{cell.pairs}, {b.requests / cell.pairs:.0f}{mark}",
        f"{a.j_per_request:.1f} → {b.j_per_request:.1f}",
        _ratio(cell.saving),
        f"{a.mean_power_w:.0f} → {b.mean_power_w:.0f} W{_devices(a, b)}",
        f"{b.wait_p50_s:.2f}, {b.wait_p99_s:.2f} s",
        f"{_ms(a.ttft_p50_s, 0)}, {_ms(a.ttft_p99_s, 0)} → {_ms(b.ttft_p50_s, 0)}, {_ms(b.ttft_p99_s, 0)} ms",
        f"{_ms(a.tpot_p50_s, 2)}, {_ms(a.tpot_p99_s, 2)} → {_ms(b.tpot_p50_s, 2)}, {_ms(b.tpot_p99_s, 2)} ms",
        f"{_tail(cell.ttft_p99_ratio)}, {_tail(cell.tpot_p99_ratio)}",
    )


def _devices(before: Side, after: Side) -> str:
    """Power of each, where there are several."""
    if len(before.devices_w) < 2:
        return ""
    told = [" + ".join(f"{watts:.0f}" for watts in side.devices_w.values()) for side in (before, after)]
    return f" ({told[0]} → {told[1]})"


def _ratio(found: Interval) -> str:
    if found.low_95 is None or found.high_95 is None:
        return f"{found.middle:.2f}"
    return f"**{found.middle:.2f}** ({found.low_95:.2f} to {found.high_95:.2f})"


def _tail(found: Interval | None) -> str:
    return "unknown" if found is None else f"{found.middle:.2f}"


def _ms(seconds: float | None, digits: int) -> str:
    return "unknown" if seconds is None else f"{seconds * 1000:.{digits}f}"


def _remarks(cells: Sequence[Cell]) -> list[str]:
    remarks = [
        "Arrows go from straight through to the arm; the ratio is joules of the former over the latter's, idle included."
    ]
    if any(not cell.enough for cell in cells):
        remarks.append(f"(few): fewer than {ENOUGH} requests.")
    if void := sum(cell.void for cell in cells):
        remarks.append(f"{void} runs say nothing and are left out.")
    if slow := [f"{cell.arm} at {cell.rate:g}/s" for cell in cells if not cell.hold_s and not _prompt(cell)]:
        remarks.append(f"First token p99 not within {TAIL_BOUND:.2f} times, where nobody waits: {', '.join(slow)}.")
    return remarks


def _prompt(cell: Cell) -> bool:
    """Whether first tokens came within the guardrail."""
    return cell.ttft_p99_ratio is not None and cell.ttft_p99_ratio.middle <= TAIL_BOUND
