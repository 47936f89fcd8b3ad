"""An advice in words, with what to paste, as a table, and as JSON."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.advise.findings import Advice, Row, Saving
from bench.advise.trial import Trial
from policies.strategy import Choice

DAY_S, J_PER_KWH = 86_400.0, 3.6e6


@dataclass(frozen=True, slots=True)
class Context:
    """Where an advice comes from.

    Attributes:
        source: of the arrivals.
        slack_s: what requests are taken to agree to, by tier, whatever they did.
        warnings: what to know before one believes it.
        facts: what a running proxy told.
        trace: what was read.
        asked: the command's other options: guardrails, seed, speed.
    """

    source: str
    command: str
    slack_s: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    trace: Mapping[str, object] = field(default_factory=dict)
    asked: Mapping[str, object] = field(default_factory=dict)


def kwh_a_day(straight: Trial, saving: Saving) -> float:
    return saving.share * straight.energy_j / straight.span_s * DAY_S / J_PER_KWH


def as_json(advice: Advice, context: Context) -> dict[str, Any]:
    """All of it; every joule is simulated with the profile named."""
    model = advice.stage.model
    return {
        "energy_source": "simulated",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": {"paceline": version("paceline"), "python": platform.python_version()},
        "profile": model.name,
        "profile_band": model.band,
        "model": asdict(model),
        "asked": dict(context.asked),
        "source": context.source,
        "command": context.command,
        "trace": dict(context.trace),
        "slack_s": dict(context.slack_s),
        "servers": advice.stage.servers,
        "slots": advice.stage.slots,
        "chosen_on_requests": advice.chosen_on,
        "reported_on_requests": advice.straight.requests,
        "settings_tried": advice.tried,
        "straight": asdict(advice.straight),
        "shareable": advice.shareable,
        "levers": [_row_json(advice, row) for row in advice.rows],
        "advice": advice.best.lever.value if advice.best is not None else "none",
        "reasons": advice.reasons,
        "what_if": [asdict(one) for one in advice.what_if],
        "configuration": configuration(advice.best, context) if advice.best is not None else None,
        "warnings": list(context.warnings),
        "facts": list(context.facts),
    }


def _row_json(advice: Advice, row: Row) -> dict[str, Any]:
    setting = row.setting
    return {
        "lever": row.lever.value,
        "policy": asdict(setting.policy) if setting is not None else None,
        "placement": asdict(setting.placement) if setting is not None else None,
        "saving": asdict(row.saving) if row.saving is not None else None,
        "saved_where_chosen": row.before if row.saving is not None else None,
        "saved_kwh_a_day": kwh_a_day(advice.straight, row.saving) if row.saving is not None else None,
        "trial": asdict(row.trial) if row.trial is not None else None,
        "why_not": row.why_not or None,
        "guardrails_broken": list(row.broken),
    }


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
    for warning in context.warnings:
        console.print(f"[yellow]note:[/] {warning}", highlight=False)
    if advice.best is not None:
        console.print("\nto put it in force:\n", highlight=False)
        console.print(configuration(advice.best, context), highlight=False, markup=False, soft_wrap=True)
        console.print(command_line(advice.best, context), highlight=False, markup=False, soft_wrap=True)


def _traffic(advice: Advice) -> Iterator[str]:
    straight, stage = advice.straight, advice.stage
    yield f"settings chosen on {advice.chosen_on} requests, told of the {straight.requests} that followed"
    yield f"({straight.requests / straight.span_s:.2f}/s) on {stage.servers} server{'s' if stage.servers > 1 else ''}."
    yield f"Straight through: {straight.energy_j / straight.requests:.1f} J a request, idle included (simulated);"
    yield f"{advice.shareable:.1%} of that is what schedules can save at most, sleep apart."


def _table(advice: Advice) -> Table:
    table = Table(box=None)
    for name in ("lever", "best setting", "saves", "95 %", "kWh/day", "wait p99", "first token p99", "a token p99", "late"):
        table.add_column(name, justify="left" if name in ("lever", "best setting") else "right", no_wrap=True)
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
    return (*(_ms(value) for value in (trial.waits.wait_s, trial.waits.ttft_s, trial.waits.tpot_s)), str(trial.late))


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
    yield from _what_if(advice)


def _cost(straight: Trial, row: Row) -> Iterator[str]:
    assert row.trial is not None
    names = ("wait", "first token", "time a token")
    before = (straight.waits.wait_s, straight.waits.ttft_s, straight.waits.tpot_s)
    after = (row.trial.waits.wait_s, row.trial.waits.ttft_s, row.trial.waits.tpot_s)
    moved = [f"{n} {_ms(b)} -> {_ms(a)}" for n, b, a in zip(names, before, after, strict=True) if b is not None]
    yield f"What it costs (p99): {'; '.join(moved)}."


def _what_if(advice: Advice) -> Iterator[str]:
    if not advice.what_if:
        return
    yield "Nobody agreed to wait. If interactive requests did (`--slack interactive=S`), holding them in groups would save"
    yield "; ".join(f"{one.slack_s:g} s: {one.saving.share:.1%}" for one in advice.what_if) + " (simulated)."


# --- what to paste ----------------------------------------------------------------------------------------------------


def configuration(row: Row, context: Context) -> str:
    """TOML of the configuration."""
    assert row.setting is not None
    parts = [_section("policy", row.setting.policy), _section("placement", row.setting.placement)]
    for tier, seconds in context.slack_s.items():
        parts.append(f"[slack.{tier}]\ndefault_s = {seconds:g}\nmax_s = {max(seconds, 2.0):g}\n")
    return "\n".join(parts)


def _section(name: str, choice: Choice) -> str:
    params = f"params = {_toml(dict(choice.params))}\n" if choice.params else ""
    return f'[{name}]\nname = "{choice.name}"\n{params}'


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value)


def command_line(row: Row, context: Context) -> str:
    """The flags that stand for it; slack has none."""
    assert row.setting is not None
    words = ["paceline serve"]
    for flag, choice, setting in (("policy", row.setting.policy, "set"), ("placement", row.setting.placement, "set-placement")):
        words.append(f"--{flag} {choice.name}")
        words += [f"--{setting} '{key}={_toml(value)}'" for key, value in choice.params.items()]
    return " ".join([*words, "--config FILE" if context.slack_s else "--upstream ..."])
