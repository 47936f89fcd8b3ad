"""Who arrives in a simulation, as the command's options say: from a trace, or drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from pathlib import Path
from typing import Any

from bench.arrivals import Load
from bench.draws import BadSpec, by_tier
from bench.simulation.tiers import shares_of, with_tiers
from bench.simulation.traces import load
from policies.base import Tier, Waiting
from policies.simulate import Arrival

OF_DRAWN = ("arrivals", "rate", "prompt_tokens", "output_tokens")  # a trace says these itself


@dataclass(frozen=True, slots=True)
class Traffic:
    """Who arrives, where that comes from, in one line for pictures, and what does not fit the options."""

    arrivals: list[Arrival]
    described: Mapping[str, object]
    wall_offset_s: float
    line: str
    notes: tuple[str, ...] = ()


def slack_of(given: Mapping[str, Any]) -> dict[Tier, float]:
    """What was asked for; tiers that were not named are not in it."""
    slack = dict.fromkeys(Tier, given["slack_all"]) if given["slack_all"] is not None else {}
    spec = ",".join(given["slack"])
    return slack | dict(by_tier(spec, "slack in seconds") if spec else {})


def absent(arrivals: list[Arrival], given: Mapping[str, Any]) -> tuple[str, ...]:
    """Tiers that slack was asked for by name, and that nobody is of."""
    named = by_tier(",".join(given["slack"]), "slack in seconds") if given["slack"] else {}
    there = {arrival.waiting.tier for arrival in arrivals}
    return tuple(
        f"no request is {tier.value}, so --slack {tier.value}={seconds:g} holds nobody;"
        f" --tiers {tier.value}=0.5,{_another(tier)}=0.5 draws them"
        for tier, seconds in named.items()
        if tier not in there
    )


def _another(tier: Tier) -> str:
    return (Tier.FLEX if tier is Tier.INTERACTIVE else Tier.INTERACTIVE).value


def instant_of(text: str) -> float:
    """Seconds since the epoch.

    Raises:
        BadSpec: it is no instant.
    """
    try:
        at = datetime.fromisoformat(text)
        seconds = at.timestamp() if at.tzinfo else None
    except ValueError:
        seconds = _number(text)
    if seconds is None or not isfinite(seconds):
        raise BadSpec(f"--began {text}: write ISO 8601 with an offset, such as 2026-07-01T00:00Z, or Unix seconds")
    return seconds


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def from_trace(path: Path, given: Mapping[str, Any]) -> Traffic:
    """What a trace holds, as the command's options say.

    Raises:
        BadSpec: it cannot be read, or an option does not fit a trace.
    """
    if unfit := [name for name in OF_DRAWN if given[name] is not None]:
        raise BadSpec(f"--{unfit[0].replace('_', '-')} is for drawn arrivals; a trace says that itself (--speedup scales it)")
    slack, shares = slack_of(given), shares_of(given)
    trace = load(
        path,
        format=given["format_"],
        speedup=given["speedup"],
        slack_s=None if shares else slack,  # by the tiers that are drawn, then
        duration_s=given["duration"],
        requests=given["requests"],
    )
    arrivals = trace.arrivals
    if shares:
        arrivals = with_tiers(arrivals, shares, slack, given["seed"])
    began = instant_of(given["began"]) if given["began"] else trace.wall_offset_s or 0.0
    played = f" at {given['speedup']:g} times its speed" if given["speedup"] != 1 else ""
    doubts = f", {trace.estimated:,} of them with estimated token counts" if trace.estimated else ""
    left_out = f" ({trace.incomplete:,} that did not complete left out)" if trace.incomplete else ""
    line = f"{path.name}{played}: {len(arrivals):,} requests{left_out}{doubts} in {_span(arrivals)}"
    return Traffic(arrivals, {"trace": str(path), **trace.as_json()}, began, line, absent(arrivals, given))


def drawn(given: Mapping[str, Any]) -> Traffic:
    """Arrivals that are drawn, as the command's options say.

    Raises:
        BadSpec: an option cannot be read, or is for a trace.
    """
    if given["speedup"] != 1 or given["format_"] != "auto":
        raise BadSpec("--speedup and --format are for a trace; give one, or another --rate")
    arrivals, rate = given["arrivals"] or "poisson", given["rate"] or 1.0
    endless = given["requests"] is None and given["duration"] is None
    plan = Load(
        arrivals=arrivals,
        rate=rate,
        requests=100 if endless and arrivals == "burst" else given["requests"],
        duration_s=60.0 if endless and arrivals != "burst" else given["duration"],
        prompt_tokens=given["prompt_tokens"],
        output_tokens=given["output_tokens"],
        seed=given["seed"],
    ).plan()
    most = max(planned.output_tokens for planned in plan)
    slack, shares, coming = slack_of(given), shares_of(given), []
    for number, planned in enumerate(plan):
        at = planned.at_s
        slack_s = 0.0 if shares else slack.get(planned.tier, 0.0)
        waiting = Waiting(f"r-{number}", at, at + slack_s, planned.prompt_tokens, most)
        coming.append(Arrival(waiting, planned.output_tokens))
    if shares:
        coming = with_tiers(coming, shares, slack, given["seed"])
    told = {"arrivals": arrivals, "rate": rate, "seed": given["seed"], "requests": len(coming)}
    began = instant_of(given["began"]) if given["began"] else 0.0
    line = f"{arrivals} arrivals, {len(coming):,} requests in {_span(coming)}"
    return Traffic(coming, told, began, line, absent(coming, given))


def _span(arrivals: list[Arrival]) -> str:
    seconds = arrivals[-1].waiting.arrived_at
    return f"{seconds:,.0f} s" + (f" ({len(arrivals) / seconds:.2f}/s)" if seconds else "")
