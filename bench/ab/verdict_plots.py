"""Pictures of who paid for it, and of whether the arms were tried alike: guardrails and balance."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from bench.ab.document import Document
from bench.ab.drawing import BAD, GOOD, INK, SOFT, WIDE, drawn
from telemetry.guardrails import Verdict

JUDGED = {"tripped": BAD, "holds": GOOD}
Scaled = tuple[float, float | None, float | None]


def guardrails(document: Document) -> str:
    """Each guardrail's interval on its own scale: 0 is no difference, 1 is what is allowed; empty where there is none."""
    told = [(one, _scaled(one)) for one in document.comparison.guardrails if one.found is not None]
    if not told:
        return ""
    with drawn("guardrails") as picture:
        figure, axes = plt.subplots(figsize=(WIDE, 0.75 + 0.42 * len(told)))
        for place, (one, found) in enumerate(reversed(told)):
            _bar(axes, place, found, JUDGED.get(one.judgement, SOFT))
        axes.axvline(1, color=BAD, linewidth=1.2, linestyle="--")
        axes.set_xlim(*_seen([found for _, found in told]))
        for place, (_, found) in enumerate(reversed(told)):
            _beyond(axes, place, found)
        axes.set_xticks([0, 1], ["no difference", "allowed"])
        axes.set_title("Guardrails: left is better; beyond the dashed line is more than allowed")
        _rows(axes, [one.name for one, _ in reversed(told)])
        picture(figure)
    return picture.svg


def _scaled(one: Verdict) -> Scaled:
    nothing = 1.0 if one.unit == "ratio" else 0.0
    assert one.found is not None
    edges = [None if v is None else (v - nothing) / (one.margin - nothing) for v in (one.found.low, one.found.high)]
    return (one.found.middle - nothing) / (one.margin - nothing), edges[0], edges[1]


def _seen(told: Sequence[Scaled]) -> tuple[float, float]:
    """Wide intervals are cut: what counts is on which side of the margin they are."""
    edges = [0.0, 1.0, *(value for found in told for value in found if value is not None)]
    return max(min(edges) - 0.2, -4.0), min(max(edges) + 0.2, 5.0)


def _beyond(axes: Axes, place: int, found: Scaled) -> None:
    """An arrow where the middle is out of sight."""
    low, high = axes.get_xlim()
    if not low <= found[0] <= high:
        edge, mark = (high, ">") if found[0] > high else (low, "<")
        axes.plot([edge], [place], mark, color=BAD if edge == high else GOOD, markersize=9, clip_on=False)


def balance(document: Document) -> str:
    """What the arms did not choose: the paired difference as a share of the control's mean; empty where nothing is told."""
    told = document.comparison.covariates
    if not told:
        return ""
    with drawn("balance") as picture:
        figure, axes = plt.subplots(figsize=(WIDE, 0.9 + 0.42 * len(told)))
        for place, one in enumerate(reversed(told)):
            size = 100 / one.control if one.control else 0.0
            edges = [None if value is None else value * size for value in (one.difference.low, one.difference.high)]
            _bar(axes, place, (one.difference.middle * size, edges[0], edges[1]), BAD if one.even is False else GOOD)
        axes.set_xlabel("treatment against control, % of the control's mean")
        axes.set_title("Balance: what the arms did not choose")
        _rows(axes, [one.name.replace("_", " ") for one in reversed(told)])
        picture(figure)
    return picture.svg


def _bar(axes: Axes, place: int, found: Scaled, colour: str) -> None:
    middle, low, high = found
    if low is not None and high is not None:
        axes.plot([low, high], [place, place], color=colour, linewidth=5, alpha=0.5, solid_capstyle="butt")
    axes.plot([middle], [place], "o", color=colour, markersize=7)


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
