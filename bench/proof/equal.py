"""Proof (b): equal requests cost equal joules, streamed or not, within the uncertainty that is stated of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from math import hypot
from statistics import mean
from typing import Any

from bench.proof.claims import Judged, Verdict
from bench.proof.figures import Mean
from bench.proof.rows import Phase, Row

AGREE = 0.95  # stated uncertainties are 95 % ones
SAME_COMPANY = ("alone", "bursts")  # there equal requests have equal company, so that all of a level are one value

Energy = Mapping[str, Any]


def judge_equal(phase: Phase) -> Judged:
    levels = list(dict.fromkeys(row.run for row in phase.rows))
    numbers = {level: _level(phase.rows_of(level)) for level in levels}
    verdicts = [verdict for level in levels for verdict in _verdicts(level, numbers[level])]
    return Judged(verdicts, numbers)


def _level(rows: Sequence[Row]) -> dict[str, Any] | None:
    """None where no request was seen both ways."""
    known = [(row, energy) for row in rows if (energy := row.energy) is not None]
    pairs = list(_pairs(rows))
    if not pairs:
        return None
    pooled_j = mean(energy["active_j"] for _, energy in known)
    streamed, plain = (Mean.of([e["active_j"] for row, e in known if row.streamed is flag]) for flag in (True, False))
    difference = Mean.of([one["active_j"] - other["active_j"] for one, other in pairs])
    assert streamed is not None
    assert plain is not None
    assert difference is not None
    return {
        "requests": len(known),
        "unknown": len(rows) - len(known),
        "pooled_j": pooled_j,
        "streamed_j": asdict(streamed),
        "plain_j": asdict(plain),
        "difference_j": asdict(difference),
        "uncertainty_j": mean(energy["uncertainty_j"] for _, energy in known),
        "agree_with_pooled": _part([abs(e["active_j"] - pooled_j) <= e["uncertainty_j"] for _, e in known]),
        "timelines": dict(Counter(energy["timeline"] for row, energy in known if not row.streamed)),  # of those not streamed
        "agree_in_pairs": _part([_agree(one, other) for one, other in pairs]),
    }


def _pairs(rows: Sequence[Row]) -> Iterator[tuple[Energy, Energy]]:
    """The same request in the same company, streamed and not."""
    streamed = {row.number: energy for row in rows if row.streamed and (energy := row.energy) is not None}
    for row in rows:
        if not row.streamed and row.number in streamed and (energy := row.energy) is not None:
            yield streamed[row.number], energy


def _agree(one: Energy, other: Energy) -> bool:
    return bool(abs(one["active_j"] - other["active_j"]) <= hypot(one["uncertainty_j"], other["uncertainty_j"]))


def _part(found: Sequence[bool]) -> float:
    return sum(found) / len(found)


def _verdicts(level: str, numbers: Mapping[str, Any] | None) -> Iterator[Verdict]:
    means = f"{level}: streamed and plain cost the same on average, within one request's uncertainty"
    if numbers is None:
        yield Verdict("b", means, None, "no request's joules are known both ways")
        return
    difference, uncertainty_j = numbers["difference_j"], numbers["uncertainty_j"]
    yield Verdict(
        "b",
        means,
        abs(difference["mean"]) <= uncertainty_j,
        f"{numbers['streamed_j']['mean']:.3f} and {numbers['plain_j']['mean']:.3f} J, difference {Mean(**difference)} J,"
        f" stated uncertainty {uncertainty_j:.3f} J",
    )
    same = level in SAME_COMPANY
    share = numbers["agree_with_pooled" if same else "agree_in_pairs"]
    whom = "the mean of all" if same else "the same request in the same company"
    told = f"{share:.1%} of {numbers['requests']}; with the mean of all {numbers['agree_with_pooled']:.1%}"
    yield Verdict("b", f"{level}: {AGREE:.0%} agree with {whom} within their uncertainty", share >= AGREE, told)
