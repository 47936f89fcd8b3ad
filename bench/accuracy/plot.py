"""The study's picture: errors by interval and load, how often the truth is within what was stated, and what each cause does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

# of Okabe and Ito's colours, which those who cannot tell red from green can tell apart
COLOURS = ("#0072B2", "#E69F00", "#CC79A7")
LIMIT, INK, SOFT, PAPER = "#D55E00", "#222222", "#666666", "#FFFFFF"
APART = 0.24  # between intervals at one load
SEEN = "50% streamed"

Cells = Sequence[Mapping[str, Any]]


def plot(report: Mapping[str, Any], out: Path) -> None:
    """Write the picture of a report as a PNG."""
    grid = [cell for cell in report["cells"] if cell["cell"]["kind"].startswith("every")]
    with plt.rc_context({"font.size": 11, "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK}):
        figure, ((error, coverage), (method, causes)) = plt.subplots(2, 2, figsize=(15, 10), facecolor=PAPER)
        figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.15)
        _errors(error, [cell for cell in grid if cell["cell"]["name"] == SEEN])
        _coverage(coverage, grid)
        _methods(method, [cell for cell in grid if cell["cell"]["name"] == SEEN and cell["cell"]["kind"] == "every 0.1 s"])
        _causes(causes, report["cells"])
        figure.suptitle("A request's joules against the truth (simulated H200)", fontsize=17, weight="bold", x=0.012, ha="left")
        note = (
            f"{report['date']}; profile {report['profile']}, {report['seeds']} seeds; the counter is looked at every 20 ms,"
            " prompts are estimated until the end, 5 % leave"
        )
        figure.supxlabel(note, fontsize=10, color=SOFT, x=0.012, ha="left")
        figure.savefig(out, dpi=110)
        plt.close(figure)


def _load(cell: Mapping[str, Any]) -> str:
    traffic = cell["cell"]["traffic"]
    return f"{traffic['shape']}\n{traffic['rate']:g}/s"


def _places(axes: Axes, cells: Cells) -> tuple[dict[str, int], list[str]]:
    """Where each load stands; the batch is told below it."""
    batches = {_load(cell): cell["mean_batch"] for cell in cells}
    loads = {load: number for number, load in enumerate(batches)}
    axes.set_xticks(range(len(loads)), [f"{load}\n({batch:.1f})" for load, batch in batches.items()], fontsize=9)
    axes.set_xlabel("traffic (mean requests in flight)", fontsize=10)
    return loads, list(dict.fromkeys(cell["cell"]["kind"] for cell in cells))


def _errors(axes: Axes, cells: Cells) -> None:
    """Boxes hold half of the requests, whiskers 90 of 100."""
    loads, kinds = _places(axes, cells)
    for cell in cells:
        number = kinds.index(cell["cell"]["kind"])
        x = loads[_load(cell)] + (number - (len(kinds) - 1) / 2) * APART
        low, lower, middle, upper, high = (100 * at for at in cell["shapley"]["at"])
        axes.vlines(x, low, high, color=COLOURS[number], linewidth=1.4)
        axes.vlines(x, lower, upper, color=COLOURS[number], linewidth=8)
        axes.plot(x, middle, marker="_", color=PAPER, markersize=8, markeredgewidth=2)
    for number, kind in enumerate(kinds):
        axes.plot([], [], color=COLOURS[number], linewidth=8, label=f"counter moves {kind}")
    axes.axhline(0, color=INK, linewidth=0.8, zorder=0)
    axes.set_yscale("symlog", linthresh=10)
    axes.set_yticks([-50, -20, -10, -5, 0, 5, 10, 20, 50, 100], ["-50", "-20", "-10", "-5", "0", "5", "10", "20", "50", "100"])
    axes.minorticks_off()
    axes.set_ylim(top=400)  # the legend's room
    _dress(axes, "Error of a request's joules, half of them streamed", "% of the truth")
    axes.legend(frameon=False, loc="upper left", fontsize=10)


def _coverage(axes: Axes, cells: Cells) -> None:
    """Each point is one load with one share of streams."""
    loads, kinds = _places(axes, cells)
    names = list(dict.fromkeys(cell["cell"]["name"] for cell in cells))
    marks = dict(zip(names, "osD", strict=False))
    for cell in cells:
        number = kinds.index(cell["cell"]["kind"])
        x = loads[_load(cell)] + (number - (len(kinds) - 1) / 2) * APART
        axes.plot(x, 100 * cell["coverage"], marks[cell["cell"]["name"]], color=COLOURS[number], markersize=6, alpha=0.85)
    for name, mark in marks.items():
        axes.plot([], [], mark, color=SOFT, label=name)
    axes.axhline(95, color=LIMIT, linestyle="--", linewidth=1.5, zorder=0)
    axes.set_ylim(min(60.0, 100 * min(cell["coverage"] for cell in cells) - 5), 101.5)
    _dress(axes, "Requests whose truth lies within the stated uncertainty", "%; dashed: the aim")
    axes.legend(frameon=False, loc="lower left", fontsize=10, ncols=3)


def _methods(axes: Axes, cells: Cells) -> None:
    loads, _ = _places(axes, cells)
    split = (("shapley", "step model's Shapley value"), ("tokens", "by tokens"), ("time", "equally, by time"))
    for number, (key, name) in enumerate(split):
        found = [(loads[_load(cell)], 100 * cell[key]["median"]) for cell in cells if cell[key] is not None]
        axes.bar(
            [x + (number - 1) * APART for x, _ in found], [y for _, y in found], APART * 0.9, color=COLOURS[number], label=name
        )
    _dress(axes, "How much depends on the method: median error", "% of the truth, counter moves every 0.1 s")
    axes.legend(frameon=False, loc="upper left", fontsize=10)


def _causes(axes: Axes, cells: Cells) -> None:
    """Each cause alone, at the traffic where causes are told apart and that is busiest."""
    told = [cell for cell in cells if cell["cell"]["kind"] == "cause" and not cell["cell"]["name"].startswith("without")]
    loads = list(dict.fromkeys(_load(cell) for cell in told))
    names = list(dict.fromkeys(cell["cell"]["name"] for cell in told))
    marks = dict(zip(loads, "osD^", strict=False))
    for cell in told:
        place = len(names) - names.index(cell["cell"]["name"])
        axes.plot(100 * cell["shapley"]["p95"], place, marks[_load(cell)], color=COLOURS[0], markersize=7, alpha=0.75)
    for load, mark in marks.items():
        axes.plot([], [], mark, color=COLOURS[0], label=load.replace("\n", " "))
    axes.set_yticks(range(len(names), 0, -1), [name.removeprefix("only: ") for name in names], fontsize=10)
    axes.set_ylim(bottom=-0.4)  # the legend's room
    axes.grid(axis="y", color="#EEEEEE")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    _dress(axes, "What each cause does alone: p95 of the error", "")
    axes.set_xlabel("% of the truth", fontsize=10)
    if told:
        axes.legend(frameon=False, loc="lower center", fontsize=10, ncols=4)


def _dress(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, loc="left", weight="bold", fontsize=12)
    axes.set_ylabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
