"""An advice in words, with what to paste, and as a table."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from bench.advise.findings import Advice, Row
from bench.advise.levers import DEFERRED, Lever
from bench.advise.paste import command_line, configuration
from bench.advise.report import CARBON, Context, kwh_a_day
from bench.advise.trial import Trial


def tell(advice: Advice, context: Context, console: Console) -> None:
    """On a terminal."""
    console.print(f"{context.source}: {' '.join(_traffic(advice))}", highlight=False)
    for fact in context.facts:
        console.print(fact, highlight=False)
    console.print(_table(advice))
    for row in advice.rows:
        if row.trial is None:
            console.print(f"{row.lever}: {row.why_not}", highlight=False, style="dim")
        elif row.broken:
            console.print(f"{row.lever}: here it breaks a guardrail: {', '.join(row.broken)}", highlight=False)
    console.print(_footnote(advice), highlight=False, style="dim")
    for line in _verdict(advice, context):
        console.print(line, highlight=False)
    if any(row.lever is Lever.DEFERRING and row.trial is not None for row in advice.rows):
        console.print(CARBON, highlight=False, style="dim")
    for warning in context.warnings:
        console.print(f"[yellow]note:[/] {warning}", highlight=False)
    if advice.best is not None:
        console.print("\nto put it in force:\n", highlight=False)
        console.print(configuration(advice.best, context.slack_s), highlight=False, markup=False, soft_wrap=True)
        console.print(command_line(advice.best, context.slack_s), highlight=False, markup=False, soft_wrap=True)


def _traffic(advice: Advice) -> Iterator[str]:
    straight, stage = advice.straight, advice.stage
    yield f"settings chosen on {advice.chosen_on} requests, told of the {straight.requests} that followed"
    yield f"({straight.requests / straight.span_s:.2f}/s) on {stage.servers} server{'s' if stage.servers > 1 else ''}."
    yield f"Straight through: {straight.energy_j / straight.requests:.1f} J a request, idle included (simulated);"
    yield f"{advice.shareable:.1%} of that is what schedules can save at most, sleep apart."


def _table(advice: Advice) -> Table:
    table = Table(box=None)
    names = ["lever", "best setting", "saves", "95 %", "kWh/day", "wait p99", "first token p99", "a token p99", "late"]
    if advice.straight.deferrable_wait_s is not None:
        names.append(f"{'/'.join(DEFERRED)} wait p50 / p99")
    for name in names:
        table.add_column(name, justify="left" if name in ("lever", "best setting") else "right", no_wrap=name != "best setting")
    table.add_row("none", "passthrough, spread", "", "", "", *_waits(advice.straight))
    for row in advice.rows:
        if row.trial is None or row.saving is None:
            continue
        saving = row.saving
        name = f"[bold]{row.lever}[/]" if advice.best is not None and row.lever is advice.best.lever else row.lever.value
        figures = (f"{saving.share:.1%}", f"{saving.low:.1%} .. {saving.high:.1%}", f"{kwh_a_day(advice.straight, saving):.2f}")
        table.add_row(name, str(row.setting), *figures, *_waits(row.trial))
    return table


def _waits(trial: Trial) -> tuple[str, ...]:
    prompt = (*(_ms(value) for value in (trial.waits.wait_s, trial.waits.ttft_s, trial.waits.tpot_s)), str(trial.late))
    held = trial.deferrable_wait_s
    return prompt if held is None else (*prompt, f"{held[0]:,.1f} / {held[1]:,.1f} s")


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:,.1f} ms"


def _footnote(advice: Advice) -> str:
    model = advice.stage.model
    return (
        f"simulated with the profile {model.name} (band {model.band:.0%}); of all joules, idle included; waits of priority and"
        " interactive requests where there are any; late: left after their deadline"
    )


def _verdict(advice: Advice, context: Context) -> Iterator[str]:
    """The recommendation."""
    row = advice.best
    if row is None or row.saving is None or row.setting is None:
        yield "\n[bold]Advice: none.[/] Leave it straight through (`passthrough`, `spread`)."
        yield from (f"- {reason}" for reason in advice.reasons)
        yield from _what_if(advice)
        return
    saving = row.saving
    agreed = ", ".join(f"{tier} requests agreed to {s:g} s" for tier, s in context.slack_s.items())
    setting = f"{row.setting}, if {agreed}" if agreed else str(row.setting)
    yield (
        f"\n[bold]Advice: {row.lever}[/], {setting}. It saves {saving.share:.1%} of all joules"
        f" (95 %: {saving.low:.1%} to {saving.high:.1%}), {kwh_a_day(advice.straight, saving):.2f} kWh a day at this traffic."
    )
    if saving.pessimistic is not None:
        yield f"With the profile as far off as it may be it is {saving.pessimistic:.1%}."
    yield from _cost(advice.straight, row)
    yield from _on_top(advice)
    yield from _what_if(advice)


def _cost(straight: Trial, row: Row) -> Iterator[str]:
    assert row.trial is not None
    names = ("wait", "first token", "time a token")
    before = (straight.waits.wait_s, straight.waits.ttft_s, straight.waits.tpot_s)
    after = (row.trial.waits.wait_s, row.trial.waits.ttft_s, row.trial.waits.tpot_s)
    moved = [f"{n} {_ms(b)} -> {_ms(a)}" for n, b, a in zip(names, before, after, strict=True) if b is not None]
    yield f"What it costs (p99): {'; '.join(moved)}."


def _on_top(advice: Advice) -> Iterator[str]:
    for one in advice.on_top:
        saving, wait = one.saving, _ms(one.trial.all_waits.wait_s)
        doubt = ", so perhaps nothing" if saving.low <= 0 else ""
        broken = f"; it breaks a guardrail: {', '.join(one.broken)}" if one.broken else ""
        yield (
            f"{one.lever.capitalize()} on top of it ({one.setting}) saves {saving.share:.1%} of what is left"
            f" (95 %: {saving.low:.1%} to {saving.high:.1%}{doubt}), for a wait of {wait} (p99, of all){broken}."
        )


def _what_if(advice: Advice) -> Iterator[str]:
    if not advice.what_if:
        return
    left = " of what is left" if advice.best is not None else ""
    yield f"Nobody agreed to wait. If interactive requests did (`--slack interactive=S`), holding them in groups saves{left}:"
    yield "; ".join(f"{one.slack_s:g} s: {one.saving.share:.1%}" for one in advice.what_if) + " (simulated)."
