"""Where an advice comes from, and all of it as JSON."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from bench.advise.findings import Advice, OnTop, Row, Saving
from bench.advise.paste import configuration
from bench.advise.trial import Trial

CARBON = (
    "not among the levers: cleaner hours, which save grams and no joules."
    " `paceline simulate TRACE --policy 'carbon file=FILE'` tells their grams"
)
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
        "on_top": [_on_top_json(one) for one in advice.on_top],
        "what_if": [asdict(one) for one in advice.what_if],
        "configuration": configuration(advice.best, context.slack_s) if advice.best is not None else None,
        "warnings": list(context.warnings),
        "facts": list(context.facts),
        "not_tried": {"carbon": CARBON},
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


def _on_top_json(one: OnTop) -> dict[str, Any]:
    return {
        "lever": one.lever.value,
        "policy": asdict(one.setting.policy),
        "placement": asdict(one.setting.placement),
        "saving_of_what_is_left": asdict(one.saving),
        "trial": asdict(one.trial),
        "guardrails_broken": list(one.broken),
    }
