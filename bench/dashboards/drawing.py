"""One panel drawn with matplotlib, roughly as Grafana would: lines, numbers, tables, states and heat."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from math import inf, isfinite
from typing import Any

from bench.dashboards.asking import Series

Answers = Sequence[tuple[Mapping[str, Any], list[Series]]]
PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"))
SUFFIXES = {"joule": "J", "watt": "W", "s": "s", "reqps": "req/s", "short": "", "none": ""}
GREY = "#808080"
STYLE = {"loc": "upper left", "cellLoc": "left", "edges": "horizontal"}


def written(value: float, unit: str) -> str:
    """A value as a panel shows it."""
    if not isfinite(value):
        return "no data"
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "bool_yes_no":
        return "Yes" if value else "No"
    if unit == "dateTimeAsIso":
        return datetime.fromtimestamp(value / 1000, UTC).strftime("%m-%d %H:%M:%S")
    if unit == "none" or (unit == "short" and abs(value) < 1000):
        return f"{value:.3g}"
    scale, prefix = next(((s, p) for s, p in PREFIXES if abs(value) >= s), (1.0, ""))
    return f"{value / scale:.3g} {prefix}{SUFFIXES.get(unit, unit)}".strip()


def legend(target: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """A series' name: `{{label}}` is the label's value."""
    text = target.get("legendFormat", "__auto")
    if text == "__auto":
        return ", ".join(f"{key}={value}" for key, value in labels.items() if key != "__name__") or "value"
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), text)


def lines(axes: Any, panel: Mapping[str, Any], answers: Answers) -> None:
    """A time series; stacked ones as areas, thresholds as dashed lines."""
    defaults = panel["fieldConfig"]["defaults"]
    named = [(legend(target, one.labels), one) for target, found in answers for one in found if one.finite]
    stacked = defaults.get("custom", {}).get("stacking", {}).get("mode") == "normal"
    if stacked and named:
        _stack(axes, named)
    else:
        for name, one in named:
            axes.plot([at for at, _ in one.points], [value for _, value in one.points], lw=1, label=name)
    if defaults.get("custom", {}).get("thresholdsStyle"):
        low, high = axes.get_ylim()
        for step in defaults["thresholds"]["steps"]:
            if step["value"] is not None and low <= step["value"] <= high:
                axes.axhline(step["value"], lw=0.8, ls="--", color=step["color"])
    if defaults.get("min") is not None and named:
        axes.set_ylim(bottom=defaults["min"])
    axes.yaxis.set_major_formatter(lambda value, place: written(value, defaults["unit"]))
    _dress(axes, bool(named))


def _stack(axes: Any, named: Sequence[tuple[str, Series]]) -> None:
    instants = sorted({at for _, one in named for at, _ in one.points})
    values = [[dict(one.points).get(at, 0.0) for at in instants] for _, one in named]
    values = [[value if isfinite(value) else 0.0 for value in row] for row in values]
    axes.stackplot(instants, values, labels=[name for name, _ in named], alpha=0.7, lw=0.3)


def number(axes: Any, panel: Mapping[str, Any], answers: Answers) -> None:
    """The last value of each series, large, in its threshold's colour."""
    defaults, axes_off = panel["fieldConfig"]["defaults"], axes.set_axis_off
    axes_off()
    found = [(legend(target, one.labels), one.points[-1][1]) for target, some in answers for one in some if one.points]
    named = panel["options"]["textMode"] == "value_and_name"
    if not found:
        axes.text(0.5, 0.4, defaults.get("noValue", "no data"), ha="center", va="center", fontsize=12, color=GREY)
    for place, (name, value) in enumerate(found):
        at = (place + 0.5) / len(found)
        text, colour = written(value, defaults["unit"]), _coloured(defaults["thresholds"]["steps"], value)
        size = 17 if len(found) == 1 else 12
        axes.text(at, 0.55 if named else 0.4, text, ha="center", va="center", fontsize=size, color=colour, weight="bold")
        if named:
            axes.text(at, -0.05, name, ha="center", va="center", fontsize=7, color="#444")


def _coloured(steps: Sequence[Mapping[str, Any]], value: float) -> str:
    at_or_above = [step for step in steps if value >= (-inf if step["value"] is None else step["value"])]
    return str(at_or_above[-1]["color"]) if at_or_above else GREY


def rows(axes: Any, panel: Mapping[str, Any], answers: Answers) -> None:
    """A table, its columns joined by their labels."""
    axes.set_axis_off()
    organised = panel["transformations"][-1]["options"]
    renamed = dict(sorted(organised["renameByName"].items(), key=lambda pair: organised["indexByName"][pair[0]]))
    labels = {key: heading for key, heading in renamed.items() if not key.startswith("Value")}
    columns = [heading for key, heading in renamed.items() if key.startswith("Value")]
    units = {one["matcher"]["options"]: one["properties"][0]["value"] for one in panel["fieldConfig"]["overrides"]}
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for heading, (_, found) in zip(columns, answers, strict=True):
        for one in found:
            key = tuple(one.labels.get(label, "") for label in labels)
            cells.setdefault(key, {})[heading] = written(one.points[-1][1], units[heading])
    if not cells:
        axes.text(0.5, 0.5, "no data", ha="center", fontsize=9, color=GREY)
        return
    text = [[*key, *(row.get(heading, "") for heading in columns)] for key, row in sorted(cells.items())]
    drawn = axes.table(text, colLabels=[*labels.values(), *columns], colWidths=[0.96 / len(text[0])] * len(text[0]), **STYLE)
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(7)


def states(axes: Any, panel: Mapping[str, Any], answers: Answers) -> None:
    """A bar for each series, coloured by state."""
    words = panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
    named = [(legend(target, one.labels), one) for target, found in answers for one in found]
    for place, (_, one) in enumerate(named):
        for at, value in one.points:
            axes.barh(place, 1.05, left=at, height=0.7, color=words[str(int(value))]["color"])
        axes.text(one.points[0][0], place, " " + words[str(int(one.points[-1][1]))]["text"], va="center", fontsize=6)
    axes.set_yticks(range(len(named)), [name for name, _ in named])
    _dress(axes, bool(named), key=False)


def heat(axes: Any, panel: Mapping[str, Any], answers: Answers) -> None:
    """Buckets of a histogram over time; each is told with those below it."""
    found = sorted(answers[0][1], key=lambda one: float(one.labels["le"]))
    if found:
        instants = sorted({at for one in found for at, _ in one.points})
        grid = [[dict(one.points).get(at, 0.0) for at in instants] for one in found]
        alone = [[max(a - b, 0.0) for a, b in zip(row, below, strict=True)] for row, below in zip(grid[1:], grid, strict=False)]
        axes.pcolormesh(instants, range(len(found)), [grid[0], *alone], cmap="Oranges", shading="nearest")
        unit = panel["fieldConfig"]["defaults"]["unit"]
        bounds = [one.labels["le"] for one in found]
        axes.set_yticks(range(len(found)), ["∞" if bound == "+Inf" else written(float(bound), unit) for bound in bounds])
    _dress(axes, bool(found), key=False)


def _dress(axes: Any, any_data: bool, *, key: bool = True) -> None:
    axes.tick_params(labelsize=6, length=2)
    axes.xaxis.set_major_formatter(lambda value, place: f"{datetime.fromtimestamp(value, UTC):%M:%S}" if value > 1e6 else "")
    axes.grid(alpha=0.25, lw=0.5)
    if not any_data:
        axes.text(0.5, 0.5, "no data", ha="center", transform=axes.transAxes, fontsize=9, color=GREY)
    elif key and axes.get_legend_handles_labels()[0]:
        axes.set_ylim(top=axes.get_ylim()[1] * 1.3)  # room for the legend
        axes.legend(fontsize=5.5, loc="upper left", framealpha=0.6, handlelength=1)


DRAW: Mapping[str, Callable[[Any, Mapping[str, Any], Answers], None]] = {
    "timeseries": lines,
    "stat": number,
    "table": rows,
    "state-timeline": states,
    "heatmap": heat,
}
