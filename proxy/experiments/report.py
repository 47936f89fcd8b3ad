"""What is told of experiments: all of them at a glance, one of them whole, and those that run as metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from proxy.experiments.experiments import Experiments
from proxy.experiments.judging import compared, merged
from proxy.experiments.plan import Plan
from proxy.experiments.run import Running
from proxy.experiments.store import State
from telemetry.blocks import Block
from telemetry.comparison import Comparison
from telemetry.gauges import EndedGauge, ExperimentGauge

GLANCE = ("name", "state", "why", "group", "design", "split", "arms", "same_arms", "metric", "created_unix_s", "ended_unix_s")
MOST_ENDED = 20  # experiments whose ends are metrics
ANY_ARM = {"policy": {"name": "passthrough", "params": {}}, "placement": {"name": "spread", "params": {}}}


def overview(experiments: Experiments) -> list[dict[str, Any]]:
    """All, the latest first, without their blocks."""
    running = (_as_json(one) for one in experiments.running.values())
    states: Sequence[Mapping[str, Any]] = [*running, *experiments.over.values()]
    told = [{key: state.get(key) for key in GLANCE} for state in states]
    return sorted(told, key=lambda state: -(state["created_unix_s"] or 0.0))


async def show(experiments: Experiments, name: str) -> dict[str, Any]:
    """One experiment, whole.

    Raises:
        KeyError: there is none.
        OSError: the store cannot be had.
    """
    if (one := experiments.running.get(name)) is not None:
        figures = await asyncio.to_thread(_figures, one.blocks, one.comparison)
        return {**_as_json(one), "now": one.now(), **figures, "log_lines": one.keeper.lines}
    return await _show_over(experiments, name)


def _as_json(one: Running) -> dict[str, Any]:
    """One that runs; what costs it blocks now is told as why."""
    return {**one.plan.as_json(), "why": one.plan.why or one.trouble}


async def _show_over(experiments: Experiments, name: str) -> dict[str, Any]:
    """One that has ended: other replicas may have told more since."""
    state = experiments.over[name]
    plan = _judged(state)
    parts = await experiments.store.parts(name) if plan is not None else {}
    blocks = merged(parts, experiments.expected, plan.design) if plan is not None else []
    if plan is not None and blocks and (name not in experiments.compared or experiments.compared[name][0] != blocks):
        experiments.compared[name] = blocks, await asyncio.to_thread(compared, plan, blocks)
    found = experiments.compared[name][1] if name in experiments.compared else None
    pool = experiments.fleet.pools.get(state.get("group", ""))
    return {
        **state,
        "now": None,
        "in_force": pool.scheduler.strategy.describe() if pool is not None else None,
        **await asyncio.to_thread(_figures, blocks, found),
        "log_lines": len(await experiments.store.lines(name)),
    }


def _figures(blocks: Sequence[Block], found: Comparison | None) -> dict[str, Any]:
    """Of a long experiment a tenth of a second's work: for a thread."""
    return {"blocks": [block.as_json() for block in blocks], "comparison": found.as_json() if found is not None else None}


def _judged(state: State) -> Plan | None:
    """The plan as far as figures hang on it: they are there, also if its policies are not any more. None: it is no state."""
    try:
        return Plan.of({**state, "arms": [ANY_ARM, ANY_ARM]})
    except ValueError:
        return None


def gauges(experiments: Experiments) -> list[ExperimentGauge]:
    """Those that run."""
    return [_gauge(one) for one in experiments.running.values()]


def ended(experiments: Experiments) -> list[EndedGauge]:
    """The latest that are over, for metrics."""
    states = [state for state in experiments.over.values() if state.get("ended_unix_s")]
    states.sort(key=lambda state: state["ended_unix_s"])
    return [EndedGauge(state["name"], state["state"], state["ended_unix_s"]) for state in states[-MOST_ENDED:]]


def _gauge(one: Running) -> ExperimentGauge:
    found, effect = one.comparison, one.comparison.effect if one.comparison is not None else None
    return ExperimentGauge(
        name=one.plan.name,
        metric=one.plan.metric,
        pairs=found.pairs if found is not None else 0,
        effect=effect.middle if effect is not None else None,
        low=effect.low if effect is not None else None,
        high=effect.high if effect is not None else None,
        guardrails={verdict.name: verdict.judgement for verdict in found.guardrails} if found is not None else {},
        sources=found.sources if found is not None else (),
    )
