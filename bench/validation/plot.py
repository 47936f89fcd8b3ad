"""The validation's picture: how far simulated joules and times are from measured ones, line by line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from bench.validation.compare import BOUNDS, Line

# of Okabe and Ito's colours, which those who cannot tell red from green can tell apart
KNOWN, DRAWN, SEEN, LIMIT = "#0072B2", "#E69F00", "#BBBBBB", "#D55E00"
INK, SOFT, PAPER = "#222222", "#666666", "#FFFFFF"
FIGURES = {"j_per_request": "joules a request", "saving": "saving", "tpot_p50_s": "time a token p50", "e2e_p99_s": "answer p99"}


def plot(title: str, note: str, lines: Sequence[Line], out: Path) -> None:
    """Write the picture as a PNG; a line stands at the same height in each of its parts."""
    shown = [line for line in lines if line.of("j_per_request") is not None]
    with plt.rc_context({"font.size": 10, "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK}):
        size = (15, 2.2 + 0.24 * len(shown))
        figure, parts = plt.subplots(1, len(FIGURES), figsize=size, sharey=True, facecolor=PAPER, layout="constrained")
        for axes, (name, heading) in zip(parts, FIGURES.items(), strict=True):
            _part(axes, name, heading, shown)
        parts[0].set_yticks(range(len(shown)), [f"{line.study}: {line.arm}" for line in shown], fontsize=8)
        parts[0].invert_yaxis()
        figure.suptitle(title, fontsize=15, weight="bold", x=0.012, ha="left")
        figure.supxlabel(f"simulated over measured, less one. {note}", fontsize=9, color=SOFT, x=0.012, ha="left")
        figure.savefig(out, dpi=100)
        plt.close(figure)


def _part(axes: Axes, name: str, heading: str, lines: Sequence[Line]) -> None:
    """One figure's differences in percent, with its bound."""
    bound = BOUNDS[name].relative * 100
    axes.axvspan(-bound, bound, color=LIMIT, alpha=0.10, lw=0)
    axes.axvline(0, color=SOFT, lw=0.8)
    for place, line in enumerate(lines):
        one = line.of(name)
        if one is not None and one.relative is not None:
            colour = SEEN if line.seen else DRAWN if line.note else KNOWN
            scatter = line.sd_j / one.simulated * 100 if line.sd_j and name == "j_per_request" else None
            axes.errorbar(one.relative * 100, place, xerr=scatter, fmt="o", ms=5, color=colour, lw=1)
    widest = max(abs(x) for x in axes.get_xlim())
    axes.set_xlim(-widest, widest)
    axes.set_title(heading, fontsize=11, loc="left")
    axes.set_xlabel("%")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
