"""What else could be had: from holding on top of the packing that is advised, and from slack that nobody agreed to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from bench.advise.findings import Guardrails, OnTop, Row, Saving, WhatIf
from bench.advise.levers import STRAIGHT, Lever, Setting
from bench.advise.trial import Trial
from policies.base import Tier
from policies.simulate import Arrival
from policies.strategy import Choice

WHAT_IF_S = (0.25, 0.5, 1.0, 2.0)
PLACED = (Lever.PACKING, Lever.SLEEPING)

Run = Callable[[Sequence[Arrival], Setting, str], Trial]
Against = Callable[[Trial, Trial], Saving]


def on_top(
    best: Row | None, rows: Sequence[Row], rest: Sequence[Arrival], run: Run, saving: Against, guardrails: Guardrails
) -> Iterator[OnTop]:
    """What each way of holding saves of the joules that are left where packing, or sleep, is in force.

    Args:
        best: what is advised; where that is to hold, there is nothing to put on top.
        rows: all levers'; their policies, and their runs where they are of the same setting.
        rest: the part that is reported on.
        run: simulates.
        saving: of the second against the first.
        guardrails: that it may break, though packing and holding keep them each alone.
    """
    if best is None or best.lever not in PLACED or best.setting is None or best.trial is None:
        return
    known = {str(row.setting): row.trial for row in rows if row.trial is not None}
    for row in rows:
        if row.lever in (Lever.GROUPING, Lever.DEFERRING) and row.setting is not None:
            setting = Setting(Lever.TOGETHER, row.setting.policy, best.setting.placement)
            trial = known.get(str(setting)) or run(rest, setting, str(setting))
            yield OnTop(row.lever, setting, saving(best.trial, trial), trial, guardrails.broken(trial))


def what_if(best: Row | None, straight: Trial, rest: Sequence[Arrival], run: Run, saving: Against) -> Iterator[WhatIf]:
    """Nobody agreed to wait: what if interactive requests did, where what is advised is in force?"""
    placement, without = STRAIGHT.placement, straight
    if best is not None and best.setting is not None and best.trial is not None:
        placement, without = best.setting.placement, best.trial
    asked = Setting(Lever.GROUPING, Choice("span", {}), placement)
    for slack in WHAT_IF_S:
        trial = run(with_slack(rest, {Tier.INTERACTIVE: slack}), asked, f"what if {slack:g} s")
        yield WhatIf(slack, saving(without, trial))


def with_slack(arrivals: Sequence[Arrival], slack: Mapping[Tier, float]) -> list[Arrival]:
    """The same, had each tier agreed to so many seconds."""
    return [
        replace(arrival, waiting=replace(arrival.waiting, deadline=arrival.waiting.arrived_at + slack[arrival.waiting.tier]))
        if arrival.waiting.tier in slack
        else arrival
        for arrival in arrivals
    ]
