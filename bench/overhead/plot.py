"""The picture of a report: what each proxy costs, on one page."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from bench.overhead.figures import Results, Spread, written
from bench.overhead.report import Report

# of Okabe and Ito's colours, which those who cannot tell red from green can tell apart
OURS, OTHERS, LIMIT, INK, SOFT, PAPER = "#0072B2", "#999999", "#D55E00", "#222222", "#666666", "#FFFFFF"
ORDER = ("nginx", "vllm-router", "bare", "paceline", "litellm")


def plot(report: Report, out: Path) -> None:
    """Write the picture as a PNG; whiskers are the least and the most over the rounds."""
    results = Results(report.slices)
    names = [name for name in reversed(ORDER) if any(slice.proxy == name for slice in report.slices)]

    def panel(axes: Axes, title: str, unit: str, found: dict[str, Spread | None], limit: float | None) -> None:
        _points(axes, {name: found[name] for name in names})
        _dress(axes, title, unit, limit)

    with plt.rc_context({"font.size": 11, "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK}):
        figure, ((rate, cpu), (added, event)) = plt.subplots(2, 2, figsize=(13, 8), facecolor=PAPER)
        figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.12)
        ratio = {name: results.ratio(name, "bare", "json-16", "rate") for name in names}
        panel(rate, "Requests/s at 16 connections, bare forwarder = 1", "times the bare forwarder", ratio, 0.7)
        used = {name: results.alone(name, "json-16", "cpu_us") for name in names}
        panel(cpu, "CPU a request at 16 connections", "microseconds", used, None)
        slower = {name: results.added(name, "json-1", "p50_us") for name in names}
        panel(added, "Added latency of an answer, one connection, p50", "microseconds over no proxy", slower, 800)
        later = {name: results.added(name, "paced-64", "p99_us") for name in names}
        panel(event, "Added latency of an event, 64 streams x 50/s, p99", "microseconds over no proxy", later, 8000)
        figure.suptitle("What a proxy costs on one core", fontsize=17, weight="bold", x=0.012, ha="left")
        rounds = max((slice.round for slice in report.slices), default=0)
        note = (
            f"{report.date}; {report.machine['processor']}; medians of {rounds} interleaved rounds, whiskers least to most;"
            " logarithmic; dashed: Paceline's bar"
        )
        figure.supxlabel(note, fontsize=10, color=SOFT, x=0.012, ha="left")
        figure.savefig(out, dpi=110)
        plt.close(figure)


def _points(axes: Axes, found: dict[str, Spread | None]) -> None:
    """Points, not bars: on a logarithmic axis a bar's length means nothing."""
    for place, (name, spread) in enumerate(found.items()):
        axes.axhline(place, color="#EEEEEE", linewidth=1, zorder=0)
        if spread is None or spread.median <= 0:  # a logarithmic axis has no place for less than nothing
            text = "not measured" if spread is None else f"{spread.median:,.0f}"
            axes.annotate(text, (0.01, place), xycoords=("axes fraction", "data"), va="bottom", color=SOFT)
            continue
        colour = OURS if name == "paceline" else OTHERS
        whiskers = [[spread.median - max(spread.least, spread.median / 50)], [spread.most - spread.median]]
        axes.errorbar(spread.median, place, xerr=whiskers, color=colour, capsize=4, linewidth=2, marker="o", markersize=10)
        label = axes.annotate(written(spread.median), (spread.median, place), (0, 9), textcoords="offset points", ha="center")
        label.set(weight="bold", bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.5})
    axes.set_yticks(range(len(found)), list(found))
    axes.set_ylim(-0.5, len(found) - 0.4)


def _dress(axes: Axes, title: str, unit: str, limit: float | None) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(numticks=5))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}" if x >= 1 else f"{x:g}")
    low, high = axes.get_xlim()
    room = (high / low) ** 0.08
    axes.set_xlim(low / room, high * room)
    if limit is not None:
        axes.axvline(limit, color=LIMIT, linestyle="--", linewidth=1.5, zorder=1)
    axes.set_title(title, loc="left", weight="bold", fontsize=12)
    axes.set_xlabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
