"""Who arrives in a simulation, as the command's options say: from a trace, or drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.arrivals import Load
from bench.draws import BadSpec, by_tier, tiers
from bench.simulation.traces import load, with_tiers
from policies.base import Tier, Waiting
from policies.simulate import Arrival

OF_DRAWN = ("arrivals", "rate", "prompt_tokens", "output_tokens")  # a trace says these itself


@dataclass(frozen=True, slots=True)
class Traffic:
    """Who arrives, where that comes from, and in one line for pictures."""

    arrivals: list[Arrival]
    described: Mapping[str, object]
    wall_offset_s: float
    line: str


def slack_of(given: Mapping[str, Any]) -> dict[Tier, float]:
    """What was asked for; tiers that were not named are not in it."""
    slack = dict.fromkeys(Tier, given["slack_all"]) if given["slack_all"] is not None else {}
    return slack | dict(by_tier(given["slack"], "slack") if given["slack"] else {})


def from_trace(path: Path, given: Mapping[str, Any]) -> Traffic:
    """What a trace holds, as the command's options say.

    Raises:
        BadSpec: it cannot be read, or an option does not fit a trace.
    """
    if unfit := [name for name in OF_DRAWN if given[name] is not None]:
        raise BadSpec(f"--{unfit[0].replace('_', '-')} is for drawn arrivals; a trace says that itself (--speedup scales it)")
    slack = slack_of(given)
    trace = load(
        path,
        format=given["format_"],
        speedup=given["speedup"],
        slack_s=slack,
        duration_s=given["duration"],
        requests=given["requests"],
    )
    arrivals = trace.arrivals
    if given["shares"]:
        arrivals = with_tiers(arrivals, tiers(given["shares"]), slack, given["seed"])
    played = f" at {given['speedup']:g} times its speed" if given["speedup"] != 1 else ""
    doubts = f", {trace.estimated:,} of them with estimated token counts" if trace.estimated else ""
    left_out = f" ({trace.incomplete:,} that did not complete left out)" if trace.incomplete else ""
    line = f"{path.name}{played}: {len(arrivals):,} requests{left_out}{doubts} in {_span(arrivals)}"
    return Traffic(arrivals, {"trace": str(path), **trace.as_json()}, trace.wall_offset_s or 0.0, line)


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
    slack, coming = slack_of(given), []
    for number, planned in enumerate(plan):
        at = planned.at_s
        waiting = Waiting(f"r-{number}", at, at + slack.get(planned.tier, 0.0), planned.prompt_tokens, most)
        coming.append(Arrival(waiting, planned.output_tokens))
    if given["shares"]:
        coming = with_tiers(coming, tiers(given["shares"]), slack, given["seed"])
    told = {"arrivals": arrivals, "rate": rate, "seed": given["seed"], "requests": len(coming)}
    return Traffic(coming, told, 0.0, f"{arrivals} arrivals, {len(coming):,} requests in {_span(coming)}")


def _span(arrivals: list[Arrival]) -> str:
    seconds = arrivals[-1].waiting.arrived_at
    return f"{seconds:,.0f} s" + (f" ({len(arrivals) / seconds:.2f}/s)" if seconds else "")
