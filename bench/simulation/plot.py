"""A simulation's picture: joules a request against the wait that they cost, the front of both, and the clairvoyant bound."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from bench.simulation.figures import Figures, front
from bench.simulation.run import Found, Setting

# of Okabe and Ito's colours, which those who cannot tell red from green can tell apart
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
BOUND, INK, SOFT, PAPER = "#D55E00", "#222222", "#666666", "#FFFFFF"
MARKS = "osD^v"


def plot(found: Found, setting: Setting, subject: str, out: Path) -> None:
    """Write the picture as a PNG."""
    completed = max(found.straight.completed, 1)
    with plt.rc_context({"font.size": 11, "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK}):
        figure, (whole, active) = plt.subplots(1, 2, figsize=(16, 6), facecolor=PAPER)
        figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.12)
        _front(whole, found)
        _points(whole, found, lambda one: one.j_per_request)
        _dress(whole, "All joules a request, idle included")
        if found.optimum is not None:
            active.axhline(found.optimum.active_j / completed, color=BOUND, linestyle="--", label="no schedule spends less")
        _points(active, found, lambda one: one.active_j_per_request)
        _dress(active, "Active joules a request, net of idle")
        both = [axes.get_legend_handles_labels() for axes in (whole, active)]
        rows = {label: handle for handles, labels in both for handle, label in zip(handles, labels, strict=True)}
        figure.legend(rows.values(), rows.keys(), frameon=False, loc="outside right upper", fontsize=10)
        figure.suptitle("Joules against added wait (simulated)", fontsize=17, weight="bold", x=0.012, ha="left")
        note = f"{subject}; {setting.servers} server(s), profile {setting.model.name}; modelled, not measured"
        figure.supxlabel(note, fontsize=10, color=SOFT, x=0.012, ha="left")
        figure.savefig(out, dpi=110)
        plt.close(figure)


def _points(axes: Axes, found: Found, height: Callable[[Figures], float]) -> None:
    """One colour and one row of the legend for each strategy, and for each sweep, whose points are joined."""
    shown = [*found.strategies, *([found.achieved] if found.achieved else [])]
    for number, kind in enumerate(dict.fromkeys(_kind(one) for one in shown)):
        mine = [one for one in shown if _kind(one) == kind]
        label = mine[0].name if len(mine) == 1 else f"{kind}, swept"
        mark = MARKS[number // len(COLOURS) % len(MARKS)]
        colour = COLOURS[number % len(COLOURS)]
        waits = [one.wait_mean_s for one in mine]
        axes.plot(
            waits,
            [height(one) for one in mine],
            f"{mark}-" if len(mine) > 1 else mark,
            color=colour,
            markersize=8,
            linewidth=1.2,
            label=label,
        )
        for one in mine[:: len(mine) - 1] if len(mine) > 1 else []:  # the ends of a sweep tell its direction
            told = one.name.partition(" / ")[0].partition(" ")[2]
            axes.annotate(
                told,
                (one.wait_mean_s, height(one)),
                xytext=(6, 6 + 11 * (number % 2)),
                textcoords="offset points",
                fontsize=8,
                color=colour,
            )


def _kind(one: Figures) -> str:
    return one.swept or one.name


def _front(axes: Axes, found: Found) -> None:
    best = front(found.strategies)
    points = sorted((one.wait_mean_s, one.j_per_request) for one in found.strategies if one.name in best)
    axes.plot([x for x, _ in points], [y for _, y in points], color=SOFT, linestyle=":", linewidth=1.5, label="front")


def _dress(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", weight="bold", fontsize=12)
    axes.set_xlabel("added wait on average, s")
    axes.set_ylabel("J")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.12)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
