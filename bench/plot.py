"""The demo's picture: joules a request, power over time, and what it cost whom."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

# of Okabe and Ito's colours, which those who cannot tell red from green can tell apart
INTERACTIVE, FLEX, IDLE, BEFORE, AFTER = "#0072B2", "#56B4E9", "#BBBBBB", "#D55E00", "#009E73"
INK, PAPER = "#222222", "#FFFFFF"


def plot_demo(report: Mapping[str, Any], out: Path) -> None:
    """Write the picture of a demo's report.

    Args:
        report: as `bench/demo.py` makes it; each of its phases must know its energy.
        out: a PNG file.
    """
    phases = report["phases"]
    with plt.rc_context({"font.size": 11, "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK}):
        figure, (grouping, power, packing) = plt.subplots(
            1, 3, figsize=(15, 5.6), width_ratios=(1.15, 1.7, 0.95), facecolor=PAPER
        )
        figure.set_layout_engine("constrained", w_pad=0.15)
        _stacks(grouping, phases)
        _power(power, phases)
        _packing(packing, phases)
        figure.suptitle(
            "The same traffic, straight through and scheduled (simulated H200)", fontsize=17, weight="bold", x=0.012, ha="left"
        )
        note = f"simulated: profile {report['profile']}, seed and arrivals alike within each comparison, idle included"
        figure.supxlabel(note, fontsize=10, color="#666666", x=0.012, ha="left")
        figure.savefig(out, dpi=110)
        plt.close(figure)


def _stacks(axes: Axes, phases: Mapping[str, Any]) -> None:
    """Joules a request, by whom they were used."""
    for place, name in enumerate(("straight", "span")):
        energy = phases[name]["report"]["energy"]
        completed = phases[name]["report"]["completed"]
        # what the tiers were charged may reach past the window's last joule, so it only divides the window's
        charged_j = sum(use["active_j"] for use in energy["tiers"].values()) or 1.0
        part_j = energy["requests_j"] / completed / charged_j
        tiers = {tier: use["active_j"] * part_j for tier, use in energy["tiers"].items()}
        idle = (energy["idle_j"] + energy["unattributed_j"]) / completed
        parts = [("interactive", tiers.get("interactive", 0.0), INTERACTIVE), ("flex", tiers.get("flex", 0.0), FLEX)]
        bottom = 0.0
        for label, height, colour in [*parts, ("idle", idle, IDLE)]:
            axes.bar(place, height, bottom=bottom, width=0.62, color=colour, label=label if place == 0 else None)
            bottom += height
        axes.annotate(f"{bottom:.0f} J", (place, bottom), (0, 5), textcoords="offset points", ha="center", weight="bold")
    before, after = (phases[name]["report"]["energy"]["j_per_request"] for name in ("straight", "span"))
    _dress(axes, ("straight\nthrough", "span"), f"Grouping: {before / after:.2f} times less", "J / request")
    axes.legend(frameon=False, loc="upper right", fontsize=10, reverse=True)
    axes.set_ylim(0, before * 1.18)
    axes.set_xlabel(_waits(phases), fontsize=10, labelpad=10)


def _waits(phases: Mapping[str, Any]) -> str:
    latency = phases["span"]["report"]["latency"]
    waits = [(tier, latency[tier]["wait_s"]) for tier in ("interactive", "flex") if latency.get(tier, {}).get("wait_s")]
    told = "added wait under span, p50: " + ", ".join(f"{tier} {wait['p50']:.1f} s" for tier, wait in waits)
    if "interactive" not in latency:
        return told
    before_ms, after_ms = (
        1000 * phases[name]["report"]["latency"]["interactive"]["ttft_s"]["max"] for name in ("straight", "span")
    )
    return f"{told}\nlatest interactive first token: {before_ms:.0f} ms before, {after_ms:.0f} ms under span"


def _power(axes: Axes, phases: Mapping[str, Any]) -> None:
    """One engine's watts in the two runs of the first comparison."""
    for name, colour in (("straight", BEFORE), ("span", AFTER)):
        times, watts = zip(*phases[name]["power_w"], strict=True)
        axes.plot(times, watts, color=colour, linewidth=2, label=phases[name]["title"])
        axes.fill_between(times, watts, color=colour, alpha=0.08)
    axes.set_title("Power of one engine over time", loc="left", weight="bold", fontsize=13)
    axes.set_xlabel("seconds")
    axes.set_ylabel("W")
    axes.set_ylim(bottom=0, top=axes.get_ylim()[1] * 1.16)
    axes.set_xlim(left=0)
    axes.legend(frameon=False, loc="upper right", ncols=2, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def _packing(axes: Axes, phases: Mapping[str, Any]) -> None:
    joules = [phases[name]["report"]["energy"]["j_per_request"] for name in ("spread", "pack")]
    for place, (height, colour) in enumerate(zip(joules, (BEFORE, AFTER), strict=True)):
        axes.bar(place, height, width=0.62, color=colour)
        axes.annotate(f"{height:.0f} J", (place, height), (0, 5), textcoords="offset points", ha="center", weight="bold")
    _dress(axes, ("spread", "pack"), f"Packing: {joules[0] / joules[1]:.2f} times less", "J / request, four engines")
    axes.set_ylim(0, max(joules) * 1.18)
    token_ms = [phases[name]["report"]["latency"]["all"]["tpot_s"]["p50"] * 1000 for name in ("spread", "pack")]
    axes.set_xlabel(f"time a token, p50: {token_ms[0]:.2f} and {token_ms[1]:.2f} ms", fontsize=10, labelpad=10)


def _dress(axes: Axes, names: tuple[str, str], title: str, unit: str) -> None:
    axes.set_xticks([0, 1], names)
    axes.set_xlim(-0.55, 1.55)
    axes.set_title(title, loc="left", weight="bold", fontsize=13)
    axes.set_ylabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", length=0)
