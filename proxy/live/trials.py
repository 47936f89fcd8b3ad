"""What rules now, and the experiments that run: their arm in force, what they show so far, whether guardrails hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from proxy.app import App
from proxy.experiments.experiments import Experiments
from proxy.experiments.plan import ARMS
from proxy.experiments.run import Running
from telemetry.comparison import Comparison


def experiments(all_of_them: Experiments) -> list[dict[str, Any]]:
    """Each that runs."""
    return [_experiment(one) for one in all_of_them.running.values()]


def in_force(app: App) -> dict[str, Any]:
    """The policy and the placement that rule now in front of the first group, and the experiment that says so, if one does."""
    pool = app.fleet.default
    for one in app.experiments.running.values():
        if one.pool is pool and one.in_force:
            arms = [one.plan.arm(ARMS.index(arm)) for arm in _ruling(one.now())]
            placements = dict.fromkeys(arm.placement_name for arm in arms)
            return {"policy": one.ruling_policy(), "placement": ", ".join(placements), "experiment": one.plan.name}
    strategy = pool.scheduler.strategy
    return {"policy": strategy.policy_name, "placement": strategy.placement_name, "experiment": None}


def _ruling(now: Mapping[str, Any]) -> Sequence[str]:
    """The arms in force: one, or, where servers are two sides, that of each."""
    sides: Sequence[str] = now.get("sides") or (now["arm"],)
    return sides


def _experiment(one: Running) -> dict[str, Any]:
    now, plan = one.now(), one.plan
    ends = now["ends_unix_s"]
    return {
        "name": plan.name,
        "group": plan.group,
        "metric": plan.metric,
        "arm": now["arm"] if len(_ruling(now)) == 1 else None,
        "sides": now.get("sides"),
        "policy": one.ruling_policy(),
        "arms": {name: plan.arm(arm).policy_name for arm, name in enumerate(ARMS)},
        "block": now["block"],
        "blocks": plan.design.blocks,
        "ends_in_s": round(max(ends - one.wall(), 0.0), 1) if ends is not None else None,
        "pairs_planned": plan.design.pairs,
        "result": _result(one.comparison) if one.comparison is not None else None,
    }


def _result(found: Comparison) -> dict[str, Any]:
    """The effect is a share: -0.2 is a fifth less than control; its bounds may be looked at at any time."""
    effect = found.effect
    return {
        "verdict": found.verdict,
        "pairs": found.pairs,
        "effect": effect.middle if effect is not None else None,
        "low": effect.low if effect is not None else None,
        "high": effect.high if effect is not None else None,
        "sources": list(found.sources),
        "guardrails": {verdict.name: verdict.judgement for verdict in found.guardrails},
    }
