"""Proof (d): how much a request's joules depend on the method that splits them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from bench.proof.claims import Judged, Verdict
from bench.proof.figures import Spread
from bench.proof.rows import Phase, Row

OTHERS = ("tokens", "time")
SAME_WITHIN = 0.01  # an interval that only one of the methods can split is all that may tell them apart


def judge_methods(phases: Sequence[Phase]) -> Judged:
    """The ratios by class and by run, so that each is seen alone and in company."""
    groups: dict[str, list[Row]] = {}
    for phase in phases:
        for row in phase.rows:
            groups.setdefault(f"{phase.name}: {row.kind} in {row.run}", []).append(row)
    ratios = {name: _ratios(rows) for name, rows in groups.items()}
    rows = [row for some in groups.values() for row in some]
    return Judged([_same_whole(rows, method) for method in OTHERS], ratios)


def _ratios(rows: Sequence[Row]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for method in OTHERS:
        split = [energy["by_method_j"] for row in rows if (energy := row.energy) is not None]
        spread = Spread.of([joules[method] / joules["shapley"] for joules in split if joules["shapley"] > 0])
        told[f"{method}_over_shapley"] = asdict(spread) if spread is not None else None
    return told


def _same_whole(rows: Sequence[Row], method: str) -> Verdict:
    """Methods move joules between requests; they make none."""
    split = [energy["by_method_j"] for row in rows if (energy := row.energy) is not None]
    claim = f"all requests together have the same joules by {method} as by shapley, within {SAME_WITHIN:.0%}"
    whole_j = sum(joules["shapley"] for joules in split)
    if not whole_j:
        return Verdict("d", claim, None, "no request's joules are known")
    other_j = sum(joules[method] for joules in split)
    told = f"{other_j:.1f} and {whole_j:.1f} J, {len(split)} requests"
    return Verdict("d", claim, abs(other_j / whole_j - 1) <= SAME_WITHIN, told)
