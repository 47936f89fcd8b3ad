"""The bars that Paceline is held to here, each beside what was measured."""

from __future__ import annotations

from dataclasses import dataclass

from bench.overhead.figures import Results, Spread, spread
from bench.overhead.report import Report

OURS = "paceline"


@dataclass(frozen=True, slots=True)
class Bar:
    """One number to reach. A limit is a most, or a least where `least` is set."""

    name: str
    unit: str
    limit: float
    found: Spread | None  # None: not measured
    least: bool = False

    @property
    def met(self) -> bool | None:
        """By the median; None where nothing was measured."""
        if self.found is None:
            return None
        return self.found.median >= self.limit if self.least else self.found.median <= self.limit


def bars(report: Report) -> list[Bar]:
    results = Results(report.slices)
    return [*_latency(results), *_throughput(results), *_streams(results), *_waiting(report)]


def _latency(of: Results) -> list[Bar]:
    found = []
    for what, shape, figure in (("answer", "json-1", ""), ("first event", "burst-1", "first_")):
        for rank, limit_us in (("p50", 800), ("p99", 3000)):
            added = of.added(OURS, shape, f"{figure}{rank}_us")
            found.append(Bar(f"added latency, idle, {what}, {rank}", "us", limit_us, added))
    return found


def _throughput(of: Results) -> list[Bar]:
    return [
        Bar(
            "requests/s at 16 connections over the bare forwarder's", "x", 0.7, of.ratio(OURS, "bare", "json-16", "rate"), True
        ),
        Bar("requests/s at 16 connections over LiteLLM's", "x", 40, of.ratio(OURS, "litellm", "json-16", "rate"), True),
    ]


def _streams(of: Results) -> list[Bar]:
    # a slice with an event missing or doubled is void, so what is left to count are those slices
    slices = of.of(OURS, "paced-64")
    whole = spread([sum(not slice.void for slice in slices) / len(slices)] if slices else [])
    return [
        Bar("64 streams x 50 events/s: rounds with every event delivered", "x", 1, whole, True),
        Bar("64 streams x 50 events/s: CPU an event", "us", 110, of.alone(OURS, "paced-64", "cpu_us")),
        Bar("64 streams x 50 events/s: added event latency, p99", "us", 8000, of.added(OURS, "paced-64", "p99_us")),
    ]


def _waiting(report: Report) -> list[Bar]:
    cost = report.waiting
    if cost is None:
        return []
    slowest = max(cost.ticks, key=lambda ticks: ticks.p99_ms)
    own = spread([cost.crowd.own_bytes] if cost.crowd is not None else [])
    return [
        Bar(f"{cost.requests:,} waiting: slowest policy's tick, p99 ({slowest.policy})", "ms", 1, spread([slowest.p99_ms])),
        Bar(
            f"{cost.requests:,} waiting: our own state a request",
            "bytes",
            4096,
            own,
        ),
    ]
