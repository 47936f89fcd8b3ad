"""The picture of a calibration: what was measured as points, what was fitted as lines, and how far apart they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from bench.calibration.plan import SHORT_TOKENS
from bench.calibration.profile import Calibrated, Shown, errors
from telemetry.cost import StepModel

# of Okabe and Ito's colours, which those who cannot tell red from green can tell apart
SHORT, LONG, PROMPT = "#0072B2", "#D55E00", "#009E73"
INK, PALE, PAPER = "#222222", "#888888", "#FFFFFF"


def plot_fit(done: Calibrated, hardware: str, out: Path) -> None:
    """Write the picture.

    Args:
        done: a fit, with the runs that it is of.
        hardware: what it was measured on.
        out: a PNG file.
    """
    model = done.fit.model
    with plt.rc_context({"font.size": 10.5, "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK}):
        figure, ((steps, tokens), (prompts, far)) = plt.subplots(2, 2, figsize=(13.5, 9.6), facecolor=PAPER)
        figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.12)
        if _short(done.shown):
            _steps(steps, done.shown, model)
            _tokens(tokens, done.shown, model)
        if any(one.run.kind == "prefill" for one in done.shown):
            _prompts(prompts, done.shown, model)
        _residuals(far, done)
        of = done.header["of"]
        title = f"{model.name} on {of['engine']} {of['version']}".strip()
        figure.suptitle(title, fontsize=17, weight="bold", x=0.012, ha="left")
        measured = f"measured ({done.source.value}, idle included, repeats averaged)"
        note = (
            f"{hardware}, {done.header['began'][:10]}. Points: {measured}; lines and crosses: fitted. "
            f"{len(done.fit.residuals)} runs; idle {model.idle_power_w:.0f} W."
        )
        figure.supxlabel(note, fontsize=10, color=PALE, x=0.012, ha="left")
        figure.savefig(out, dpi=110)
        plt.close(figure)


def _short(shown: Sequence[Shown]) -> list[Shown]:
    """Decoding with as little context as can be, by batch."""
    return [one for one in shown if one.run.kind == "decode" and one.run.prompt_tokens == SHORT_TOKENS]


def _long(shown: Sequence[Shown]) -> list[Shown]:
    return [one for one in shown if one.run.kind == "decode" and one.run.prompt_tokens != SHORT_TOKENS]


def _steps(axes: Axes, shown: Sequence[Shown], model: StepModel) -> None:
    short = _short(shown)
    _batches(axes, shown, lambda one: one.step_s * 1e3, lambda one: one.model_s * 1e3)
    _line(axes, short, lambda batch, context: 1e3 * model.step_s(batch, 0, context))
    times = short[-1].step_s / short[0].step_s
    _dress(axes, f"Time of a step: {times:.1f} times as long with {short[-1].run.batch}", "sequences in the batch", "ms")
    axes.set_ylim(bottom=0, top=1.15 * max(one.step_s * 1e3 for one in [*short, *_long(shown)]))
    axes.legend(frameon=False, loc="lower right")


def _tokens(axes: Axes, shown: Sequence[Shown], model: StepModel) -> None:
    short = _short(shown)
    _batches(axes, shown, lambda one: one.step_j / one.tokens, lambda one: one.model_j / one.tokens)

    def token_j(batch: float, context: float) -> float:
        return (model.step_j(batch, 0, context) + model.idle_power_w * model.step_s(batch, 0, context)) / batch

    _line(axes, short, token_j)
    first, last = short[0].step_j / short[0].tokens, short[-1].step_j / short[-1].tokens
    title = f"Energy of a token: {first / last:.0f} times less with {short[-1].run.batch}"
    _dress(axes, title, "sequences in the batch", "J / token")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for one, value in ((short[0], first), (short[-1], last)):
        axes.annotate(f"{value:.2g} J", (one.run.batch, value), (10, 4), textcoords="offset points", weight="bold", color=SHORT)


def _batches(axes: Axes, shown: Sequence[Shown], measured: Callable[[Shown], float], fitted: Callable[[Shown], float]) -> None:
    short, long = _short(shown), _long(shown)
    label = f"prompts of {SHORT_TOKENS} tokens"
    axes.plot([one.run.batch for one in short], [measured(one) for one in short], "o", color=SHORT, label=label, zorder=3)
    batches = [one.run.batch for one in long]
    axes.plot(batches, [measured(one) for one in long], "s", color=LONG, label="long prompts", markersize=7.5, zorder=3)
    axes.plot(batches, [fitted(one) for one in long], "x", color=INK, markersize=6, label="... as fitted", zorder=4)
    for one in long:
        kilo = f"{one.run.prompt_tokens / 1024:g}k"
        axes.annotate(kilo, (one.run.batch, measured(one)), (8, -4), textcoords="offset points", color=LONG, fontsize=9)
    _ticks(axes, sorted({one.run.batch for one in shown if one.run.batch}))


def _line(axes: Axes, short: Sequence[Shown], value: Callable[[float, float], float]) -> None:
    """The model over all batches, with the contexts that the runs had."""
    places = np.log2([one.run.batch for one in short])
    contexts = [one.context_tokens / one.run.batch for one in short]
    drawn = np.linspace(places[0], places[-1], 100)
    batches = 2.0**drawn
    values = [value(batch, batch * each) for batch, each in zip(batches, np.interp(drawn, places, contexts), strict=True)]
    axes.plot(batches, values, color=SHORT, linewidth=1.6, alpha=0.75)


def _prompts(axes: Axes, shown: Sequence[Shown], model: StepModel) -> None:
    group = [one for one in shown if one.run.kind == "prefill"]
    lengths = [one.run.prompt_tokens for one in group]
    axes.plot(lengths, [one.step_j / one.tokens * 1e3 for one in group], "o", color=PROMPT, zorder=3)
    axes.plot(lengths, [one.model_j / one.tokens * 1e3 for one in group], color=PROMPT, linewidth=1.6, alpha=0.75)
    floor_mj = 1e3 * (model.step_j.per_prompt_token + model.idle_power_w * model.step_s.per_prompt_token)
    axes.axhline(floor_mj, color=PALE, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        f"{floor_mj:.3g} mJ without the step's base",
        (max(lengths), floor_mj),
        (0, -13),
        textcoords="offset points",
        ha="right",
        color=PALE,
        fontsize=9.5,
    )
    _dress(axes, "Energy of a prompt token, one prompt at a time", "tokens in the prompt", "mJ / prompt token")
    axes.set_ylim(bottom=0)
    _ticks(axes, lengths)


def _residuals(axes: Axes, done: Calibrated) -> None:
    """Every run's error in time and energy, in rows of runs that are alike; the band is behind them."""
    names = [one.run.name for one in done.shown]
    rows = {name: len(names) - 1 - place for place, name in enumerate(names)}
    places = [rows[done.runs[one.work.name].name] for one in done.fit.residuals]
    band, far = 100 * done.fit.model.band, errors(done.fit)
    axes.axvspan(-band, band, color="#F2F2F2", zorder=0)
    axes.axvline(0, color=PALE, linewidth=1)
    series: tuple[tuple[str, dict[str, Any], str, list[float]], ...] = (
        ("|", {"color": PALE, "markersize": 9, "markeredgewidth": 1.8}, "time", [one.time_error for one in done.fit.residuals]),
        ("o", {"color": INK, "markersize": 4.5}, "energy", [one.energy_error for one in done.fit.residuals]),
        (
            "o",
            {"color": LONG, "markerfacecolor": "none", "markersize": 7},
            "energy above idle, run not in the fit",
            [-one.unseen_error for one in done.fit.residuals],
        ),
    )
    for marker, style, label, values in series:
        axes.plot([100 * value for value in values], places, marker, label=label, **style)
    title = f"Model against data: energy {far['energy_rms']:.1%}, time {far['time_rms']:.1%} (RMS)"
    _dress(axes, title, f"% too much; grey: the band, {band:.0f} %", "")
    axes.set_yticks([rows[name] for name in names], names, fontsize=8.5)
    axes.set_ylim(-2.8, len(names) - 0.2)
    widest = 1.15 * max(band, *(100 * abs(value) for *_, values in series for value in values))
    axes.set_xlim(-widest, widest)
    axes.legend(frameon=False, loc="lower center", ncols=3, fontsize=9, handletextpad=0.2, columnspacing=1.0)


def _ticks(axes: Axes, places: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(list(places)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _dress(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", weight="bold", fontsize=12.5)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
