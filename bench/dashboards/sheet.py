"""Draws dashboards as contact sheets from what a real Prometheus answers, where no Grafana is at hand."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt

from bench.dashboards import drawing
from bench.dashboards.asking import JOB, Prometheus, Times, all_of, read
from bench.dashboards.files import dashboards
from bench.dashboards.stage import LASTS_S, staged

INCHES = 0.62  # of one of Grafana's 24 columns
ROW_INCHES = 0.34  # of one of its rows
NOTE = "drawn by Paceline from a Prometheus's answers, not by Grafana; sources of joules are in the legends"


def draw_all(folder: Path, program: str, url: str | None = None, seconds: float = inf) -> None:
    """One PNG for each dashboard, of a Paceline that runs for a minute, or of what the Prometheus at `url` has seen lately."""
    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    if url is None:
        asyncio.run(_draw_all(folder, program))
    else:
        draw_from(url, folder, seconds)


async def _draw_all(folder: Path, program: str) -> None:
    print(f"a Paceline runs for {LASTS_S:.0f} s and some more ...", flush=True)
    with tempfile.TemporaryDirectory() as kept:
        async with staged(Path(kept), program) as url:
            await asyncio.to_thread(draw_from, url, folder)


def draw_from(url: str, folder: Path, seconds: float = inf) -> None:
    """All dashboards, of what this Prometheus has seen in the last seconds."""
    with Prometheus(url) as prometheus:
        times = Times(max(prometheus.first_s(JOB), time.time() - seconds), time.time())
        for name, text in dashboards().items():
            draw(read(text), prometheus, times, folder / f"{name}.png")
            print(f"drew {folder / name}.png", flush=True)


def draw(dashboard: Mapping[str, Any], prometheus: Prometheus, times: Times, path: Path) -> None:
    """Its panels where they lie on Grafana's grid."""
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"]) + 2
    figure = plt.figure(figsize=(24 * INCHES, rows * ROW_INCHES), dpi=110)
    figure.text(0.005, 1 - 1.2 / rows, dashboard["title"], fontsize=13, weight="bold")
    figure.text(0.995, 1 - 1.2 / rows, NOTE, fontsize=8, color="#a33", ha="right")
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        if panel["type"] == "row":
            figure.text(0.005, 1 - (place["y"] + 2.7) / rows, panel["title"], fontsize=10, weight="bold", color="#444")
            continue
        gap, top = 0.95, 1.3  # room for labels, and for the title
        box = (
            (place["x"] + gap) / 24,
            1 - (place["y"] + 2 + place["h"] - 0.9) / rows,
            (place["w"] - gap - 0.35) / 24,
            (place["h"] - 0.9 - top) / rows,
        )
        axes = figure.add_axes(box)
        axes.set_title(panel["title"], fontsize=7.5, loc="left", weight="bold", pad=3)
        answers = [(target, prometheus.ask(target, times, all_of(dashboard))) for target in panel["targets"]]
        drawing.DRAW[panel["type"]](axes, panel, answers)
    figure.savefig(path)
    plt.close(figure)
