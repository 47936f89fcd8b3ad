"""Draws a proof from its folder: `python -m bench.proof.plot DIR` writes DIR/proof.png, and needs no GPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import click
import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import ScalarFormatter

from bench.plot import AFTER, BEFORE, IDLE, INK, INTERACTIVE, PAPER
from bench.proof.core import CLASSES, OTHER
from bench.proof.neighbour import PARTS
from bench.proof.rows import Phase
from bench.proof.verdicts import MEASURED

LEVELS = ("alone", "poisson", "bursts")
METHODS = {"tokens_over_shapley": ("by tokens", BEFORE), "time_over_shapley": ("by time", INTERACTIVE)}

Draw = Callable[[Axes, Mapping[str, Any]], None]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(folder: Path) -> None:
    """Draw what `python -m bench.proof` wrote into FOLDER."""
    if not (folder / "summary.json").exists():
        raise click.ClickException(f"{folder} holds no summary.json: `python -m bench.proof --judge --out {folder}` writes it")
    summary = json.loads((folder / "summary.json").read_text())
    phases = [Phase.read(file) for name in MEASURED if (file := folder / f"{name}.json").exists()]
    plot_proof(summary, phases, folder / "proof.png")
    click.echo(str(folder / "proof.png"))


def plot_proof(summary: Mapping[str, Any], phases: Sequence[Phase], out: Path) -> None:
    """A panel for each proof that was measured, under the power of the whole time."""
    panels: list[tuple[str, Draw]] = [("a", _ratio), ("b", _equal), ("c", _core), ("d", _methods), ("f", _neighbour)]
    shown = [(proof, draw) for proof, draw in panels if _whole(proof, summary.get(proof))]
    with plt.rc_context({"font.size": 10, "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK}):
        figure = plt.figure(figsize=(14, 3.4 * (1 + (len(shown) + 2) // 3)), facecolor=PAPER, layout="constrained")
        grid = figure.add_gridspec(1 + (len(shown) + 2) // 3, 3)
        _power(figure.add_subplot(grid[0, :]), phases)
        for place, (proof, draw) in enumerate(shown):
            axes = figure.add_subplot(grid[1 + place // 3, place % 3])
            draw(axes, summary[proof])
            axes.spines[["top", "right"]].set_visible(False)
        sources = ", ".join(summary.get("a", {}).get("sources", []))
        figure.supxlabel(f"source of joules: {sources}", fontsize=9, color="#666666", x=0.012, ha="left")
        figure.savefig(out, dpi=110)
        plt.close(figure)


def _whole(proof: str, numbers: Mapping[str, Any] | None) -> bool:
    """Whether there is enough to draw."""
    needed: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
        "a": lambda told: told.get("windows_of_10_s"),
        "b": lambda told: any(told.values()),
        "c": lambda told: told.get("repeats"),
        "d": lambda told: any(ratios["tokens_over_shapley"] for ratios in told.values()),
        "f": lambda told: all(told.get(part) for part in PARTS),
    }
    return bool(numbers) and bool(needed[proof](numbers or {}))


def _power(axes: Axes, phases: Sequence[Phase]) -> None:
    """Where each second's joules went."""
    seconds = sorted(chain.from_iterable(phase.seconds for phase in phases), key=lambda second: second["since_s"])
    began_s = seconds[0]["since_s"]
    times = [second["since_s"] - began_s for second in seconds]
    parts = [("idle_j", "idle", IDLE), ("requests_j", "requests", INTERACTIVE), ("unattributed_j", "unattributed", BEFORE)]
    watts = [[second[part] for second in seconds] for part, _, _ in parts]
    axes.stackplot(times, *watts, labels=[label for _, label, _ in parts], colors=[colour for _, _, colour in parts])
    for phase in (phase for phase in phases if phase.seconds):
        at_s = phase.seconds[0]["since_s"] - began_s
        axes.axvline(at_s, color=INK, linewidth=0.6)
        axes.annotate(f"({phase.name})", (at_s, 1.0), (3, -11), xycoords=("data", "axes fraction"), textcoords="offset points")
    axes.set_title("Where the counter's joules went, second by second", loc="left", weight="bold")
    axes.set(xlabel="seconds", ylabel="W", xlim=(0, max(times[-1], 1)), ylim=(0, axes.get_ylim()[1] * 1.2))
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3)
    axes.spines[["top", "right"]].set_visible(False)


def _ratio(axes: Axes, numbers: Mapping[str, Any]) -> None:
    windows = numbers["windows_of_10_s"]
    axes.plot([window["at_s"] for window in windows], [window["ratio"] for window in windows], "o", color=INTERACTIVE)
    axes.axhline(numbers["ratio"], color=INK, linewidth=1)
    axes.axhspan(0.97, 1.03, color=IDLE, alpha=0.3)
    axes.set_title(f"(a) counter over integrated power: {numbers['ratio']:.4f}", loc="left", weight="bold")
    axes.set(xlabel="seconds; each point 10 s", ylabel="ratio")


def _equal(axes: Axes, numbers: Mapping[str, Any]) -> None:
    levels = [level for level in LEVELS if numbers.get(level)]
    for place, level in enumerate(levels):
        told, pooled_j = numbers[level]["difference_j"], numbers[level]["pooled_j"]
        half = (told["high_95"] - told["mean"]) / pooled_j if told["high_95"] is not None else 0.0
        axes.errorbar(place, told["mean"] / pooled_j, half, fmt="o", color=INTERACTIVE)
        share = numbers[level]["uncertainty_j"] / pooled_j
        axes.fill_between([place - 0.35, place + 0.35], -share, share, color=IDLE, alpha=0.3, linewidth=0)
    axes.set_xticks(range(len(levels)), [f"{level}\n{numbers[level]['pooled_j']:.1f} J" for level in levels])
    axes.axhline(0.0, color=INK, linewidth=0.6)
    axes.set_title("(b) the same request, streamed less plain", loc="left", weight="bold")
    axes.set_ylabel("over the mean; grey: stated uncertainty")


def _core(axes: Axes, numbers: Mapping[str, Any]) -> None:
    for one in numbers["repeats"]:
        for place, name in enumerate(CLASSES):
            measured_j = one["measured_j"]
            adds_j = measured_j["AB"] - measured_j[OTHER[name]]
            at = place + 0.12 * (one["repeat"] - 2)
            axes.plot([at, at], [adds_j, measured_j[name]], color=IDLE, linewidth=6, solid_capstyle="butt")
            axes.plot(at, one["charged_together_j"][name], "o", color=AFTER)
    axes.set_xticks(range(len(CLASSES)), [f"class {name}" for name in CLASSES])
    axes.set_title("(c) charged in company (dot), between", loc="left", weight="bold")
    axes.set(xlabel="what it adds and what it costs alone (bar)", ylabel="J", ylim=(0, None), xlim=(-0.5, 1.5))


def _methods(axes: Axes, numbers: Mapping[str, Any]) -> None:
    groups = [name for name, ratios in numbers.items() if all(ratios.values())]
    for shift, (method, (label, colour)) in enumerate(METHODS.items()):
        for place, name in enumerate(groups):
            told, at = numbers[name][method], place + 0.2 * (2 * shift - 1)
            axes.plot([told["p5"], told["p95"]], [at, at], color=colour, linewidth=2)
            axes.plot(told["median"], at, "o", color=colour, label=label if place == 0 else None)
    axes.axvline(1.0, color=INK, linewidth=1)
    axes.set_yticks(range(len(groups)), groups, fontsize=8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(ScalarFormatter())
    axes.tick_params(axis="x", which="both", labelsize=8)
    axes.set(xlabel="over Shapley's; 5 % to 95 % of requests")
    axes.set_title("(d) other methods", loc="left", weight="bold")
    axes.legend(frameon=False)


def _neighbour(axes: Axes, numbers: Mapping[str, Any]) -> None:
    for place, part in enumerate(PARTS):
        told, share = numbers[part]["j_per_request"], numbers[part]["unattributed_share"]
        axes.bar(place, told["mean"] if told else 0.0, width=0.6, color=INTERACTIVE)
        axes.annotate(f"{share:.1%}", (place, told["mean"] if told else 0.0), (0, 4), textcoords="offset points", ha="center")
    axes.set_xticks(range(len(PARTS)), PARTS)
    axes.set_title("(f) with a neighbour on the device", loc="left", weight="bold")
    axes.set(xlabel="over the bars: unattributed", ylabel="J a request", ylim=(0, axes.get_ylim()[1] * 1.15))


if __name__ == "__main__":
    main()
