"""What shadows tell: the answer of `/shadow`, and their metrics. Every joule in it is the model's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policies.lived import AS_RUN
from proxy.shadow import Shadows
from telemetry.cost import built_in
from telemetry.gauges import ShadowGauge, ShadowTotals


def gauge(shadows: Shadows) -> ShadowGauge | None:
    """For metrics; None while nothing has been compared."""
    compared = shadows.comparing.compared
    if not compared.strategies:
        return None
    totals = [
        ShadowTotals(name, told["energy_j"], told["saved_j"], told["requests"], told["late"], told["faults"])
        for name, told in compared.strategies.items()
    ]
    left_out = shadows.left_out + compared.left_out
    return ShadowGauge(totals, compared.saved_by, left_out, max(shadows.clock() - compared.until, 0.0))


def describe(shadows: Shadows) -> dict[str, Any]:
    """The answer of `/shadow`."""
    compared, profile = shadows.comparing.compared, shadows.config.energy.profile
    model = shadows.model
    return {
        "state": _state(shadows),
        "energy_source": "modelled",
        "profile": {"name": model.name, "from": profile, "built_in": profile in built_in(), "band": model.band},
        "behind_s": shadows.clock() - compared.until if compared.strategies else None,
        "episodes": compared.episodes,
        "left_out": shadows.left_out + compared.left_out,
        "guessed": shadows.guessed,
        "thread_s": shadows.comparing.worked_s,
        "gain": _gain(compared.strategies.get(AS_RUN), compared.saved_by),
        "strategies": [_strategy(shadows, name, told) for name, told in compared.strategies.items()],
    }


def _state(shadows: Shadows) -> str:
    if shadows.comparing.fault:
        return f"failed: {shadows.comparing.fault}"
    return "on" if shadows.config.shadow.on else "off"


def _strategy(shadows: Shadows, name: str, told: Mapping[str, Any]) -> dict[str, Any]:
    strategy = shadows.strategies.get(name)
    return {"name": name, **told, "strategy": strategy.describe() if strategy is not None else None}


def _gain(as_run: Mapping[str, Any] | None, saved_by: Mapping[str, float]) -> dict[str, Any] | None:
    if as_run is None:
        return None
    return {
        "saved_j": as_run["saved_j"],
        "saved_share_of_active": as_run["saved_share_of_active"],
        "requests": as_run["compared"],
        "by_policy": dict(saved_by),
    }
