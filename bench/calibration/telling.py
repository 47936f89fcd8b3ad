"""What a calibration shows: progress while it runs, then the fit beside the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from bench.calibration.outcome import Outcome
from bench.calibration.plan import Run
from bench.calibration.profile import Calibrated, Shown, errors
from bench.calibration.settings import Telling
from telemetry.fit import BAND_RULE, INTERVAL_RULE, Fit
from telemetry.regression import Coefficient

WIDTH = 128  # where it goes into a file

UNITS = {
    "request_s": ("ms a request", 1e3),
    "step_s.base": ("ms a step", 1e3),
    "step_s.per_sequence": ("µs a sequence", 1e6),
    "step_s.per_prompt_token": ("µs a prompt token", 1e6),
    "step_s.per_context_token": ("ns a token of context", 1e9),
    "step_j.base": ("J a step", 1.0),
    "step_j.per_sequence": ("mJ a sequence", 1e3),
    "step_j.per_prompt_token": ("mJ a prompt token", 1e3),
    "step_j.per_context_token": ("µJ a token of context", 1e6),
    "idle_power_w": ("W idle", 1.0),
}


class Screen:
    """A bar where there is a terminal, and a line for each run."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"))
        self._progress = Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        self._task = self._progress.add_task("", total=None, left="")
        self._done_s = 0.0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    @property
    def telling(self) -> Telling:
        return Telling(self.about, self._begins, self._ended)

    def about(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _begins(self, run: Run, left_s: float) -> None:
        elapsed_s = self._progress.tasks[0].elapsed or 0.0
        left = f"{left_s:.0f} s left"
        self._progress.update(self._task, description=run.id, total=elapsed_s + left_s, completed=elapsed_s, left=left)
        if not self._console.is_terminal:
            self.about(f"{run.id} ... {left}")

    def _ended(self, run: Run, outcome: Outcome) -> None:
        self.about(f"{run.id}: {_counted(run, outcome)}")
        for note in outcome.notes:
            self.about(f"    {note}")


def _counted(run: Run, outcome: Outcome) -> str:
    work = outcome.work
    if work is None:
        return "nothing was counted"
    if work.idle:
        return f"{work.power_w:.1f} W"
    each, count = ("prompt", work.requests) if run.kind == "prefill" else ("step", work.steps)
    return (
        f"{work.seconds / count * 1e3:.3g} ms and {work.energy_j / count:.3g} J a {each}, {work.power_w:.0f} W, "
        f"over {count:.0f} {each}s in {work.seconds:.2f} s"
    )


def tell(done: Calibrated) -> None:
    """The fit beside the data, and how far to believe it."""
    screen = Console()
    out = screen if screen.is_terminal else Console(width=WIDTH, soft_wrap=True)
    out.print(_runs(done.shown, done.source.value))
    out.print(_coefficients(done.fit.coefficients))
    far = errors(done.fit)
    out.print(
        f"{len(done.fit.residuals)} runs. "
        f"Time is off by {far['time_rms']:.1%} (root mean square), {far['time_max']:.1%} at most; "
        f"energy by {far['energy_rms']:.1%}, {far['energy_max']:.1%} at most."
    )
    out.print(f"Intervals: {INTERVAL_RULE}; the regressions' condition is {_conditions(done.fit)}.")
    out.print(f"Band {done.fit.model.band:.1%}: {BAND_RULE}.")
    for line in noted(done.notes):
        out.print(line, markup=False)


def _conditions(found: Fit) -> str:
    return f"{found.time_condition:.1f} for time and {found.energy_condition:.1f} for energy"


def noted(notes: Mapping[str, Sequence[str]]) -> list[str]:
    """Each note once, with the runs that it is of."""
    of: dict[str, list[str]] = {}
    for id, told in notes.items():
        for note in told:
            of.setdefault(note, []).append(id)
    return [f"{', '.join(ids)}: {note}" for note, ids in of.items()]


def _runs(shown: Sequence[Shown], source: str) -> Table:
    table = Table(title=f"Measured and fitted; joules: {source}, idle included", title_justify="left")
    table.add_column("", no_wrap=True)
    for column in ("n", "W", "ms", "model", "", "J", "model", "", "mJ/token", "model"):
        table.add_column(column, justify="right")
    for one in shown:
        table.add_row(
            f"{one.run.name}, a {one.each}",
            f"{one.repeats}",
            f"{one.power_w:.0f}",
            f"{one.step_s * 1e3:.4g}",
            f"{one.model_s * 1e3:.4g}",
            f"{one.model_s / one.step_s - 1:+.1%}",
            f"{one.step_j:.4g}",
            f"{one.model_j:.4g}",
            f"{one.model_j / one.step_j - 1:+.1%}",
            f"{one.step_j / one.tokens * 1e3:.4g}",
            f"{one.model_j / one.tokens * 1e3:.4g}",
        )
    return table


def _coefficients(coefficients: Sequence[Coefficient]) -> Table:
    table = Table(title="Coefficients; joules are net of idle power", title_justify="left")
    table.add_column("")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    for column in ("", ""):
        table.add_column(column)
    for one in coefficients:
        unit, scale = UNITS[one.name]
        table.add_row(one.name, f"{one.value * scale:.4g}", f"{one.low * scale:.4g} to {one.high * scale:.4g}", unit, one.doubt)
    return table
