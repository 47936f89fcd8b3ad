"""What `paceline ab start` asks the proxy for: arms as they are written on a command line, lengths, guardrails."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from math import isfinite, nan
from typing import Any

from bench.draws import BadSpec
from bench.simulation.strategies import choice
from policies.strategy import Choice, Strategy, build
from telemetry.guardrails import Guardrails

AUTO = "auto"
FORM = "POLICY [KEY=VALUE ...] [/ PLACEMENT [KEY=VALUE ...]]"


def arm(text: str, in_force: Mapping[str, Any]) -> dict[str, Any]:
    """`span / pack knee=32` as JSON; what is not named is as it is in force, so that arms differ in one thing only.

    Args:
        text: see there; empty is all that is in force.
        in_force: the proxy's strategy, as `/status` tells it.

    Raises:
        BadSpec: it cannot be read.
    """
    # with spaces around it, since package.module:Name and paths in parameters have none
    policy, _, placement = f" {text.strip()} ".partition(" / ")
    if "/" in text.split() and not (policy.strip() or placement.strip()):
        raise BadSpec(f"{text!r} names nothing; write {FORM}")
    return {
        "policy": _named(policy, in_force["policy"]),
        "placement": _named(placement, in_force["placement"]),
    }


def _named(text: str, otherwise: Mapping[str, Any]) -> dict[str, Any]:
    if not text.strip():
        return dict(otherwise)
    told = choice(text.strip())
    return {"name": told.name, "params": dict(told.params)}


def strategy(arm: Mapping[str, Any]) -> Strategy:
    """The arm itself.

    Raises:
        UnknownStrategy: there is none like this here, though the proxy may know it.
    """
    policy, placement = (Choice(arm[kind]["name"], arm[kind].get("params") or {}) for kind in ("policy", "placement"))
    return build(policy, placement)


def seconds(text: str) -> float | str:
    """`300` or `auto`; `5m` and `2h` too.

    Raises:
        BadSpec: it is neither.
    """
    if text == AUTO:
        return AUTO
    number, times = text, 1.0
    for unit, in_s in (("s", 1.0), ("m", 60.0), ("h", 3600.0)):
        if text.endswith(unit):
            number, times = text.removesuffix(unit), in_s
    try:
        value = float(number) * times
    except ValueError:
        value = -1.0
    if not (isfinite(value) and value >= 0):
        raise BadSpec(f"{text!r} is no length of time; write seconds, such as 300, or 5m, or auto")
    return value


def guardrails(pairs: Iterable[str]) -> dict[str, float | None]:
    """`ttft_p95=1.2`, `wait_p99_s=3`; `off` as the value looks away.

    Raises:
        BadSpec: there is no such guardrail, or it is no number.
    """
    known = [f.name for f in fields(Guardrails)]
    found: dict[str, float | None] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in known:
            raise BadSpec(f"--guardrail {pair}: write one of {', '.join(f'{name}=NUMBER' for name in known)}")
        try:
            found[key] = None if value == "off" else float(value)
        except ValueError:
            found[key] = nan
        if not isfinite(found[key] or 0.0):
            raise BadSpec(f"--guardrail {pair}: {value!r} is no number, and not `off`")
    return found
