"""Pictures of how an experiment went: its blocks over time, and the effect as it looked after each pair."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from bench.ab.document import Document
from bench.ab.drawing import BAD, COLOURS, INK, SOFT, WIDE, drawn
from telemetry.blocks import Block
from telemetry.design import CONTROL, TREATMENT
from telemetry.pairs import METRICS


def unit(metric: str) -> str:
    return {"j_per_token": "J per output token", "j_per_request": "J per request"}.get(metric, metric)


def series(document: Document) -> str:
    """Each block's figure over time, by arm, with burn-in shaded; below it the arrivals."""
    value = METRICS[document.metric]
    lost = {one.pair for one in document.comparison.lost}
    with drawn("series") as picture:
        figure, (top, below) = plt.subplots(2, 1, figsize=(WIDE, 4.6), sharex=True, height_ratios=(3, 1))
        for block in document.blocks:
            _shade(top, below, document, block)
            whole = block.pair not in lost
            if (height := value(block)) is not None:
                _level(top, document, block, height, whole=whole)
            _level(below, document, block, block.arrival_rate, whole=whole)
        _between_pairs(top, document)
        top.set_title(f"{unit(document.metric)}, block by block")
        top.set_ylabel(unit(document.metric))
        below.set_ylabel("requests/s")
        for axes in (top, below):
            axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
        _clock(below, document)
        handles: list[Artist] = [mpl.lines.Line2D([], [], color=COLOURS[arm], linewidth=3) for arm in (CONTROL, TREATMENT)]
        handles.append(mpl.patches.Patch(color=SOFT, alpha=0.3))
        labels = [document.label(CONTROL), document.label(TREATMENT), "burn-in: logged, not analysed"]
        if any(not block.complete for block in document.blocks):
            handles.append(mpl.patches.Patch(facecolor="none", edgecolor=BAD, hatch="///"))
            labels.append("not whole: left out with its pair")
        figure.legend(handles, labels, loc="outside lower left", ncols=2)
        picture(figure)
    return picture.svg


def _shade(top: Axes, below: Axes, document: Document, block: Block) -> None:
    ends = min(block.start_unix_s + document.design.burn_in_s, block.end_unix_s)
    for axes in (top, below):
        axes.axvspan(block.start_unix_s, ends, color=SOFT, alpha=0.18, linewidth=0)
        if not block.complete:
            axes.axvspan(block.start_unix_s, block.end_unix_s, facecolor="none", edgecolor=BAD, hatch="///", alpha=0.4)


def _level(axes: Axes, document: Document, block: Block, height: float, *, whole: bool) -> None:
    """Thin and faint where its pair is lost."""
    begins = min(block.start_unix_s + document.design.burn_in_s, block.end_unix_s)
    width, alpha = (3.0, 1.0) if whole else (1.5, 0.6)
    colour = COLOURS[block.arm]
    axes.plot([begins, block.end_unix_s], [height] * 2, color=colour, linewidth=width, alpha=alpha, solid_capstyle="butt")


def _between_pairs(axes: Axes, document: Document) -> None:
    for block in document.blocks:
        if block.index % 2 == 0:
            axes.axvline(block.start_unix_s, color=SOFT, linewidth=0.6, linestyle=":")


def _clock(axes: Axes, document: Document) -> None:
    """Time of the day where the experiment is long, else seconds since it began."""
    began, ends = document.design.began_unix_s, max((b.end_unix_s for b in document.blocks), default=0.0)
    if ends - began > 1800:
        axes.xaxis.set_major_formatter(lambda at, _: datetime.fromtimestamp(at, UTC).strftime("%d %b %H:%M"))
        axes.set_xlabel("UTC")
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(7))
    else:
        axes.xaxis.set_major_locator(mpl.ticker.FixedLocator([began + at for at in _round_steps(ends - began)]))
        axes.xaxis.set_major_formatter(lambda at, _: f"{at - began:.0f}")
        axes.set_xlabel("seconds since it began")


def _round_steps(length_s: float) -> list[float]:
    step = next((s for s in (1, 2, 5, 10, 20, 30, 60, 120, 300) if length_s / s <= 10), 600)
    return [float(at) for at in range(0, int(length_s) + 1, step)]


def course(document: Document) -> str:
    """The effect as it looked after each pair, with its always-valid interval; empty where there is none yet."""
    seen = [(one.pairs, one.effect) for one in document.course if one.effect is not None]
    if not seen:
        return ""
    bounded = [(n, 100 * e.low, 100 * e.high) for n, e in seen if e.low is not None and e.high is not None]
    alone = [100 * (ratio - 1) for ratio in document.comparison.ratios.values()]
    with drawn("course") as picture:
        figure, axes = plt.subplots(figsize=(WIDE, 3.2))
        _band(axes, bounded, f"{100 * (1 - document.alpha):g} % always-valid interval")
        axes.plot(
            range(1, len(alone) + 1), alone, "o", color=SOFT, markersize=4, markerfacecolor="none", label="each pair alone"
        )
        middles = [100 * effect.middle for _, effect in seen]
        axes.plot([n for n, _ in seen], middles, "o-", color=COLOURS[TREATMENT], markersize=4, label="mean so far")
        axes.axhline(0, color=INK, linewidth=0.9)
        axes.set_title("The effect, pair by pair")
        axes.set_ylabel("treatment against control, %")
        axes.set_xlabel("pairs that are analysed")
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
        axes.set_xlim(0.5, max(document.comparison.pairs, 2) + 0.5)
        axes.set_ylim(*_room([*alone, *middles, 0.0], [edge for _, *edges in bounded for edge in edges]))
        figure.legend(loc="outside lower left", ncols=3)
        picture(figure)
    return picture.svg


def _band(axes: Axes, bounded: Sequence[tuple[int, float, float]], label: str) -> None:
    if bounded:
        pairs, low, high = zip(*bounded, strict=True)
        axes.fill_between(pairs, low, high, color=COLOURS[TREATMENT], alpha=0.22, linewidth=0, label=label)
        for edge in (low, high):
            axes.plot(pairs, edge, color=COLOURS[TREATMENT], linewidth=0.8)


def _room(points: Sequence[float], edges: Sequence[float]) -> tuple[float, float]:
    """All points, and of the intervals so much as leaves them to be seen: the first ones are very wide."""
    low, high = min(points), max(points)
    most = 1.5 * max(high - low, 5.0)
    wide = [min(max(edge, low - most), high + most) for edge in edges]
    low, high = min([low, *wide]), max([high, *wide])
    return low - 0.06 * (high - low), high + 0.06 * (high - low)
