"""How pictures of a report are drawn: SVG that stands in a page, takes its text's colour from it, and needs nothing else."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from telemetry.design import CONTROL, TREATMENT

# of Okabe and Ito's colours, which those who cannot tell red from green can tell apart; both can be seen on white and on black
COLOURS = {CONTROL: "#4f97c9", TREATMENT: "#e08a1e"}
GOOD, BAD, SOFT = "#2fa37c", "#d9622b", "#8a8f98"
INK = "#010203"  # stands for the page's own colour, whatever it is
WIDE = 10.0
STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlesize": 11,
    "legend.frameon": False,
    "legend.fontsize": 10,
}


@contextmanager
def drawn(salt: str) -> Iterator[Drawn]:
    """A style, ids that no other picture on the page has, and no figure left behind."""
    picture = Drawn()
    with mpl.rc_context({**STYLE, "svg.hashsalt": salt}):
        try:
            yield picture
        finally:
            plt.close("all")


class Drawn:
    """Takes a figure, and has it as SVG."""

    svg = ""

    def __call__(self, figure: Figure) -> None:
        figure.set_layout_engine("constrained")
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        self.svg = inlined(out.getvalue())


def inlined(svg: str) -> str:
    """Without what only a file of its own needs; of the page's width at most, and in its colour."""
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return re.sub(
        r'<svg ([^>]*?)(?:width|height)="[^"]*"([^>]*?)(?:width|height)="[^"]*"', r'<svg role="img" \1\2', svg, count=1
    )
