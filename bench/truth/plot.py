"""The study's picture: errors of those who watch, coverage, power as predicted, and a split by request against the truth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from telemetry.student import quantile

# of Okabe and Ito's colours, which those who cannot tell red from green can tell apart
OURS, STUDENT, ASYMPTOTIC, END = "#0072B2", "#D55E00", "#E69F00", "#666666"
INK, SOFT, PAPER = "#222222", "#666666", "#FFFFFF"


def plot(report: Mapping[str, Any], out: Path) -> None:
    """Write the picture of a report as a PNG."""
    with plt.rc_context({"font.size": 11, "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK}):
        figure, ((false, covered), (power, splits)) = plt.subplots(2, 2, figsize=(16, 11), facecolor=PAPER)
        figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.15)
        _false(false, report)
        _covered(covered, report)
        _power(power, report)
        _splits(splits, report)
        figure.suptitle("Do experiments tell the truth, where it is known?", fontsize=17, weight="bold", x=0.012, ha="left")
        note = (
            f"{report['date']}; {report['experiments']} experiments a model of noise, a tenth as many in the simulator, "
            "a twentieth of splits (simulated joules); bars are 95 % intervals"
        )
        figure.supxlabel(note, fontsize=10, color=SOFT, x=0.012, ha="left")
        figure.savefig(out, dpi=100)
        plt.close(figure)


def _name(told: Mapping[str, Any]) -> str:
    cell = told["cell"]
    if cell["kind"] != "noise":
        return f"{' / '.join(cell['name'].split(' against '))} ({cell['kind']})"
    return f"{cell['name']}, {cell['pairs']} pairs"


def _false(axes: Axes, report: Mapping[str, Any]) -> None:
    cells = [told for told in report["cells"] if told["effect_percent"] == 0]
    kinds = (
        ("watched", "always valid, watched", OURS, "o"),
        ("adjusted_watched", "the same, adjusted", OURS, "v"),
        ("student", "t, one look at the end", END, "s"),
        ("randomised", "randomisation, one look", END, "x"),
        ("watched_asymptotic", "asymptotic sequence, watched", ASYMPTOTIC, "D"),
        ("watched_student", "t, watched", STUDENT, "^"),
    )
    for number, (key, label, colour, mark) in enumerate(kinds):
        _dots(axes, cells, key, label, colour, mark, (number - 2.5) * 0.13)
    axes.axvline(5, color=INK, linewidth=0.9, linestyle=":")
    _dress(axes, "No effect, and one is shown: nominal is 5 %", "% of A/A experiments")
    axes.legend(frameon=False, fontsize=9, loc="lower right", ncols=2)
    axes.set_xlim(0, 45)


def _dots(axes: Axes, cells: list[Any], key: str, label: str, colour: str, mark: str, lift: float) -> None:
    for place, told in enumerate(cells):
        low, high = (100 * at for at in told[key]["interval"])
        axes.hlines(place + lift, low, high, color=colour, linewidth=1.2)
        at = 100 * told[key]["share"]
        axes.plot(at, place + lift, mark, color=colour, markersize=5, label=label if place == 0 else None)
    axes.set_yticks(range(len(cells)), [_name(told) for told in cells], fontsize=9)
    axes.set_ylim(len(cells) + 1.9, -0.5)  # the legend's room


def _covered(axes: Axes, report: Mapping[str, Any]) -> None:
    cells = [told for told in report["cells"] if told["effect_percent"] != 0 and told["cell"]["effect"] in (None, -0.05)]
    kinds = (
        ("covered", "always valid, at every look", OURS, "o"),
        ("adjusted_always", "the same, adjusted by covariates", OURS, "v"),
        ("student_covered", "t, at the end", END, "s"),
        ("adjusted_covered", "t, adjusted, at the end", ASYMPTOTIC, "D"),
    )
    for number, (key, label, colour, mark) in enumerate(kinds):
        _dots(axes, cells, key, label, colour, mark, (number - 1.5) * 0.16)
    axes.axvline(95, color=INK, linewidth=0.9, linestyle=":")
    _dress(axes, "The truth is in the interval: nominal is 95 %", "% of experiments with a true effect (models: -5 %)")
    axes.legend(frameon=False, fontsize=9, loc="lower left", ncols=2)
    axes.set_xlim(80, 100.5)


def _power(axes: Axes, report: Mapping[str, Any]) -> None:
    cells = [told for told in report["cells"] if told["predicted"] and told["cell"]["pairs"] == 12]
    cells.sort(key=lambda told: told["effect_percent"])
    effects = [told["effect_percent"] for told in cells]
    for key, label, colour in (("at_the_end", "always valid", OURS), ("student", "t", END)):
        predicted = [100 * told["predicted"][key] for told in cells]
        axes.plot(effects, predicted, color=colour, linewidth=1.2, label=f"{label}, at the end: predicted")
        axes.plot(effects, [100 * told[key]["share"] for told in cells], "o", color=colour, label=f"{label}, at the end: found")
    watched = [100 * told["watched"]["share"] for told in cells]
    axes.plot(effects, watched, "o", color=OURS, markerfacecolor=PAPER, label="always valid, at some look: found")
    _dress(axes, "A true effect is found (12 pairs, 3 % noise a block)", "true effect, %")
    axes.set_ylabel("% of experiments", fontsize=10)
    axes.legend(frameon=False, fontsize=9)


def _splits(axes: Axes, report: Mapping[str, Any]) -> None:
    kinds = (
        ("true", "true: everybody under either arm", INK, "_"),
        ("switchback", "switchback", OURS, "o"),
        ("dealt", "requests split at random on one server", STUDENT, "^"),
    )
    for number, (key, label, colour, mark) in enumerate(kinds):
        for place, told in enumerate(report["splits"]):
            x, values = place + (number - 1) * 0.2, told[key]
            axes.plot([x] * len(values), values, ".", color=colour, alpha=0.25, markersize=4)
            half = quantile(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
            axes.vlines(x, fmean(values) - half, fmean(values) + half, color=colour, linewidth=2)
            size = 14 if mark == "_" else 7
            axes.plot(x, fmean(values), mark, color=colour, markersize=size, label=label if place == 0 else None)
    axes.set_xticks(range(len(report["splits"])), [f"{told['rate']:g}/s" for told in report["splits"]])
    _dress(axes, "Passthrough against span on one server", "requests a second")
    axes.set_ylabel("effect on joules a token, % (simulated, idle included)", fontsize=10)
    axes.legend(frameon=False, fontsize=9)


def _dress(axes: Axes, title: str, x: str) -> None:
    axes.set_title(title, fontsize=12, loc="left")
    axes.set_xlabel(x, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
