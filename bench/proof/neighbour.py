"""Proof (f): a foreign load on the device shows up as unattributed, and not on our requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from math import hypot
from typing import Any

from bench.proof.claims import Judged, Verdict
from bench.proof.figures import Mean
from bench.proof.rows import Phase, Row, Run

PARTS = ("before", "during", "after")
SHOWS_ABOVE = 0.03  # of the counter: what must not be reached without a neighbour
RISES_AT_MOST = 0.05  # of the requests, as many as 95 % uncertainties leave out


def judge_neighbour(phase: Phase) -> Judged:
    shows = "a foreign load shows up as unattributed while it is there"
    if phase.skipped:
        return Judged([Verdict("f", shows, None, f"skipped: {phase.skipped}")])
    parts = {run.name: _part(phase, run) for run in phase.runs}
    if set(parts) != set(PARTS):
        return Judged([Verdict("f", shows, None, "a part of it is missing")], parts)
    shares = [parts[part]["unattributed_share"] for part in PARTS]
    holds = shares[1] > SHOWS_ABOVE and shares[1] > max(shares[0], shares[2])
    shown = Verdict("f", shows, holds, "{:.2%} before, {:.2%} during, {:.2%} after".format(*shares))
    rise = _rise(phase)
    return Judged([shown, _not_charged(parts, rise)], {**parts, "rise": rise})


def _part(phase: Phase, run: Run) -> dict[str, Any]:
    each = Mean.of([energy["active_j"] for row in phase.rows_of(run.name) if (energy := row.energy) is not None])
    return {
        "unattributed_share": run.unattributed_share,
        "power_w": run.joules["counted_j"] / (run.until_s - run.since_s),
        "idle_power_w": run.idle_power_w,
        "j_per_request": asdict(each) if each is not None else None,
    }


def _rise(phase: Phase) -> dict[str, Any] | None:
    """Each request with the neighbour against the same request before; None where no such pair is known."""
    pairs = list(_pairs(phase.rows))
    rises = [(during["active_j"] - before["active_j"], _uncertainty_j(before, during)) for before, during in pairs]
    rise = Mean.of([rise_j for rise_j, _ in rises])
    if rise is None:
        return None
    return {
        "rise_j": asdict(rise),
        "uncertainty_j": sum(uncertainty_j for _, uncertainty_j in rises) / len(rises),
        "risen_beyond_uncertainty": sum(rise_j > uncertainty_j for rise_j, uncertainty_j in rises) / len(rises),
    }


def _pairs(rows: list[Row]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    before = {row.number: energy for row in rows if row.run == "before" and (energy := row.energy) is not None}
    for row in rows:
        if row.run == "during" and row.number in before and (energy := row.energy) is not None:
            yield before[row.number], energy


def _uncertainty_j(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    return hypot(one["uncertainty_j"], other["uncertainty_j"])


def _not_charged(parts: Mapping[str, Any], rise: Mapping[str, Any] | None) -> Verdict:
    claim = f"our requests are not charged for it: {1 - RISES_AT_MOST:.0%} rise no further than their uncertainty"
    if rise is None:
        return Verdict("f", claim, None, "no request's joules are known both before and during")
    each = ", ".join(f"{part} {Mean(**told)} J" for part in PARTS if (told := parts[part]["j_per_request"]) is not None)
    beyond = rise["risen_beyond_uncertainty"]
    told = (
        f"{each}; the same request rises by {Mean(**rise['rise_j'])} J, uncertainty {rise['uncertainty_j']:.3f} J,"
        f" {beyond:.1%} rise beyond theirs"
    )
    return Verdict("f", claim, beyond <= RISES_AT_MOST, told)
