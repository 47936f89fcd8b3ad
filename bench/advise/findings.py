"""What an advice is made of: guardrails, each lever's best setting, its saving, and the one that is advised or why none is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.advise.levers import Lever, Setting
from bench.advise.trial import Stage, Trial


@dataclass(frozen=True, slots=True)
class Guardrails:
    """What must not be passed at the 99th percentile, in seconds; None: whatever it is."""

    wait_s: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None

    def broken(self, trial: Trial) -> list[str]:
        found = []
        for name in ("wait_s", "ttft_s", "tpot_s"):
            most, had = getattr(self, name), getattr(trial.waits, name)
            if most is not None and had is not None and had > most:
                found.append(f"{name.removesuffix('_s')} p99 {_seconds(had)} is over {_seconds(most)}")
        return found


def _seconds(value: float) -> str:
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"


@dataclass(frozen=True, slots=True)
class Saving:
    """Shares of all joules straight through, idle included."""

    share: float
    low: float  # of the interval of 95 %
    high: float
    pessimistic: float | None = None  # with the model as far off as it may be; None: not asked


@dataclass(frozen=True, slots=True)
class Row:
    """One lever at its best setting, on the part that it was not chosen on; or why there is none."""

    lever: Lever
    setting: Setting | None = None
    trial: Trial | None = None
    saving: Saving | None = None
    why_not: str = ""
    broken: Sequence[str] = ()  # guardrails that it kept where it was chosen, and breaks here
    before: float = 0.0  # the share that it saved on the part that it was chosen on


@dataclass(frozen=True, slots=True)
class OnTop:
    """What holding saves of what is left with the advised packing; the saving is a share of those joules."""

    lever: Lever
    setting: Setting
    saving: Saving
    trial: Trial
    broken: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What would be saved, of the joules with what is advised, if interactive requests agreed to be held."""

    slack_s: float
    saving: Saving


@dataclass(slots=True)
class Advice:
    """All that was found.

    Attributes:
        best: the row that is advised; None: none is worth it, for these `reasons`.
        shareable: of all joules, what any schedule could save at most without sleep.
        tried: settings.
    """

    stage: Stage
    straight: Trial
    rows: list[Row]
    best: Row | None
    reasons: list[str]
    shareable: float
    tried: int
    chosen_on: int
    what_if: list[WhatIf] = field(default_factory=list)
    on_top: list[OnTop] = field(default_factory=list)
