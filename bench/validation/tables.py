"""What the validation found, as a table for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from bench.overhead.report import machine, now, versions
from bench.validation.compare import BOUNDS, Compared, Line, Pair

SHOWN = ("j_per_request", "above_idle_j_per_request", "saving")
RANKED = ("wait_p99_s", "ttft_p50_s", "ttft_p99_s", "tpot_p50_s", "tpot_p99_s", "e2e_p50_s", "e2e_p99_s")
HEADINGS = {
    "j_per_request": "J/request",
    "above_idle_j_per_request": "above idle, J/request",
    "saving": "times fewer J than the first arm",
    "wait_p99_s": "wait p99, ms",
    "ttft_p50_s": "first token p50, ms",
    "ttft_p99_s": "first token p99, ms",
    "tpot_p50_s": "time a token p50, ms",
    "tpot_p99_s": "time a token p99, ms",
    "e2e_p50_s": "answer p50, ms",
    "e2e_p99_s": "answer p99, ms",
}


def markdown(kind: str, lines: Sequence[Line], origin: str = "") -> str:
    """Two tables, joules and seconds, and how many figures hold; `origin` says at its head where it comes from."""
    first = "live" if kind == "live" else "measured"  # joules of simulated engines are not measured
    shown = [name for name in RANKED if any(line.of(name) for line in lines)]
    told = [
        *([origin, ""] if origin else []),
        f"Each cell: {first} → simulated (difference); **bold** is beyond the bound ({_bounds()}).",
        "",
    ]
    told += [*_table(lines, SHOWN), "", *_table([line for line in lines if any(map(line.of, shown))], shown), ""]
    return "\n".join([*told, *_count(lines)]) + "\n"


def _bounds() -> str:
    joules, wait = BOUNDS["j_per_request"], BOUNDS["wait_p99_s"]
    return (
        f"joules and savings {joules.relative:.0%}, times {wait.relative:.0%} or {wait.absolute * 1000:g} ms;"
        " a time a token 10 %; above idle none"
    )


def _table(lines: Sequence[Line], names: Sequence[str]) -> list[str]:
    names = [name for name in names if any(line.of(name) for line in lines)]
    rows = ["| load | arm | runs x requests | " + " | ".join(HEADINGS[name] for name in names) + " |"]
    rows.append("| --- | --- | --- | " + " | ".join("---" for _ in names) + " |")
    for line in lines:
        size = f"{line.runs} x {line.requests // line.runs}{', fitted' if line.seen else ''}"
        cells = [_cell(line.of(name), line.sd_j) for name in names]
        rows.append(f"| {line.study} | {line.arm} | {size} | " + " | ".join(cells) + " |")
    return rows


def _cell(one: Compared | None, sd_j: float | None) -> str:
    if one is None:
        return ""
    seconds = one.figure.endswith("_s")
    scale, digits = (1000.0, 2) if seconds else (1.0, 2 if one.figure == "saving" else 1)
    drawn = f" ± {sd_j:.1f}" if sd_j is not None and one.figure == "j_per_request" else ""
    off = f" ({one.relative:+.1%})" if one.relative is not None else ""
    text = f"{one.measured * scale:.{digits}f} → {one.simulated * scale:.{digits}f}{drawn}{off}"
    return f"**{text}**" if one.holds is False else text


def _count(lines: Sequence[Line]) -> list[str]:
    """In how many lines each figure holds; apart, the loads of which something had to be drawn. Fitted lines do not count."""
    told = []
    unseen = [line for line in lines if not line.seen]
    for what, some in (("", [o for o in unseen if not o.note]), (", of drawn loads", [o for o in unseen if o.note])):
        for name in BOUNDS:
            found = [c for line in some if (c := line.of(name)) is not None and c.holds is not None]
            if found:
                offs = [c.relative for c in found if c.relative is not None]
                mean = f"; mean difference {sum(offs) / len(offs):+.1%}, largest {max(offs, key=abs):+.1%}" if offs else ""
                told.append(f"- {name}{what}: {sum(bool(c.holds) for c in found)} of {len(found)} within the bound{mean}")
    return told


def as_json(kind: str, command: str, profile: str, pairs: Sequence[Pair], lines: Sequence[Line]) -> dict[str, Any]:
    """Everything, with its provenance; a case's arrivals are left out, as its seed or its source has them."""
    ground = machine()
    return {
        "study": f"validation, {kind}",
        "date": now(),
        "command": command,
        "machine": {key: ground[key] for key in ("processor", "kernel", "python")},
        "versions": {"paceline": versions()["paceline"]},
        "profile": profile,
        "source": {
            "measured": "/".join(sorted({pair.case.joules for pair in pairs})),
            "simulated": "simulated",
        },
        "bounds": {name: asdict(bound) for name, bound in BOUNDS.items()},
        "lines": [_line(line) for line in lines],
        "cells": [
            {
                "study": pair.case.study,
                "arm": pair.case.arm,
                "seed": pair.case.seed,
                "source": pair.case.source,
                "joules": pair.case.joules,
                "window_s": pair.case.window_s,
                "measured": _rounded(pair.case.measured),
                "simulated": _rounded(pair.simulated),
                **pair.told,
            }
            for pair in pairs
        ],
    }


def _line(line: Line) -> dict[str, Any]:
    told = {key: getattr(line, key) for key in ("study", "arm", "runs", "requests", "seen", "note")}
    figures = [
        {
            "figure": one.figure,
            "measured": float(f"{one.measured:.6g}"),
            "simulated": float(f"{one.simulated:.6g}"),
            "relative": None if one.relative is None else round(one.relative, 5),
            "holds": one.holds,
        }
        for one in line.compared
    ]
    return told | {"sd_j": line.sd_j, "compared": figures}


def _rounded(figures: Any) -> dict[str, float]:
    return {name: float(f"{value:.6g}") for name, value in figures.items()}
