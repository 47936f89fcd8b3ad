"""How figures of an experiment are written, alike on a terminal and on a page."""

from __future__ import annotations

from collections.abc import Iterator

from bench.ab.document import Document
from telemetry.blocks import Block
from telemetry.comparison import Arm
from telemetry.guardrails import ENOUGH_FOR_P95, Verdict
from telemetry.student import Interval

UNITS = {"j_per_token": "J/token", "j_per_request": "J/request"}
VERDICTS = {
    "saves": "The treatment saves.",
    "costs": "The treatment costs.",
    "not shown": "No difference is shown.",
    "incomplete": "Too few pairs for an interval.",
}
JUDGED = {"holds": "holds", "open": "not known yet", "tripped": "tripped", "unknown": "nothing tells it"}

LEAST_COUNTED = 2.5  # the order that was, and the one that is its mirror


def per_unit(metric: str) -> str:
    return UNITS.get(metric, metric)


def marked(document: Document) -> str:
    """What is not measured says so."""
    sources = ", ".join(document.comparison.sources)
    return f" ({sources}, not measured)" if document.simulated else ""


def figure(value: float | None, digits: int = 3) -> str:
    return "unknown" if value is None else f"{value:,.{digits}f}"


def share(value: float) -> str:
    """`-23.4 %`; with a sign."""
    return f"{100 * value:+.1f} %"


def effect(found: Interval) -> str:
    return share(found.middle)


def bounds(found: Interval, alpha: float) -> str:
    if found.low is None or found.high is None:
        return "no interval yet"
    return f"{100 * (1 - alpha):g} % always-valid interval {share(found.low)} to {share(found.high)}"


def once(found: Interval | None) -> str:
    """An interval that is for one look."""
    if found is None:
        return "unknown"
    if found.low is None or found.high is None:
        return share(found.middle)
    return f"{share(found.middle)} ({share(found.low)} to {share(found.high)})"


def latencies(block: Block, digits: int = 0) -> tuple[str, ...]:
    """First token, a token, wait. A percentile of a handful says of how many it is: guardrails do not look at it."""
    told = ((block.ttft_p95_s, block.ttft_of), (block.tpot_p95_s, block.tpot_of), (block.wait_p99_s, None))
    return tuple(_latency(value, of, digits) for value, of in told)


def _latency(seconds: float | None, of: int | None, digits: int) -> str:
    if seconds is None:
        return ""
    few = f" of {of}" if of is not None and of < ENOUGH_FOR_P95 else ""
    return f"{1000 * seconds:,.{digits}f} ms{few}"


def across(arm: Arm) -> str:
    """Joules that its blocks lack, and have too many."""
    return f"-{arm.boundary_j:,.0f} +{arm.carried_j:,.0f}"


def reading(verdict: Verdict) -> tuple[str, str]:
    """What a guardrail found, and what is allowed, in its unit."""
    found = verdict.found
    if found is None:
        return "unknown", _in(verdict.unit, verdict.margin)
    told = _in(verdict.unit, found.middle)
    if found.low is not None and found.high is not None:
        told += f" ({_in(verdict.unit, found.low)} to {_in(verdict.unit, found.high)})"
    return told, _in(verdict.unit, verdict.margin)


def _in(unit: str, value: float) -> str:
    return {"ratio": f"{value:.3g}x", "seconds": f"{value:+.3g} s", "share": f"{100 * value:+.2g} %"}.get(unit, f"{value:.3g}")


def lines_of_look_once(document: Document) -> Iterator[str]:
    """Other answers to the same question; each is for one look at a time that was fixed beforehand."""
    found = document.comparison
    yield f"for one look: t interval over pairs {once(found.at_the_end)}; ratio of sums {once(found.of_sums)}"
    if found.conserved is not None:
        yield f"with joules across borders charged to the blocks that the requests came in: {once(found.conserved)}"
    if found.adjusted is not None:
        yield f"adjusted for {', '.join(found.adjusted_by).replace('_', ' ')}: {once(found.adjusted)}"
    if found.chance is not None:
        of = f"{'all' if found.chance.exact else 'drawn'} {found.chance.assignments:,} orders of blocks"
        least = found.chance.exact and found.chance.p * found.chance.assignments < LEAST_COUNTED
        yield f"randomisation test over {of}: p = {found.chance.p:.3g}{', as little as so few can show' if least else ''}"
    if found.effective_pairs is not None and found.lag_1 is not None:
        yield f"{found.pairs} pairs are worth {found.effective_pairs:.0f} independent ones (lag 1: {found.lag_1:+.2f})"
    if found.detectable is not None:
        yield f"so many pairs as planned show a saving of {100 * found.detectable:.1f} % four times in five"
