"""How long a switchback's blocks and burn-ins should be, from how long requests last and how many come.

What the former arm left behind must be gone before anything is counted, and must be little beside what is counted. So

    drain   = how long the last of those who are there when the arm changes may still take
    burn-in = drain + 60 s, in which clocks, caches and temperatures follow the new load
    block   = the longest of 5 times the latency's 99th percentile, twice the burn-in, 5 minutes,
              and the time that 20 requests need to come after the burn-in, an hour at most

That some burn-in is needed, else the error falls much slower with time, is Hu and Wager, "Switchback experiments under
geometric mixing" (arXiv 2209.00197). A block that is too long costs precision, for there are fewer of them; one that is too
short costs truth. The factors are a choice: 99 requests of 100 then last a fifth of a block at most, and half of the time at
least is analysed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, isfinite

from telemetry.ledger import Entry
from telemetry.traffic import UNKNOWN_TRAFFIC, Traffic

LATENCIES = 5.0
BURN_INS = 2.0
FLOOR_S = 300.0
SETTLES_S = 60.0
FEWEST_REQUESTS = 20.0  # by chance fewer than 5 of a mean of 20 come once in 60,000 blocks
MOST_FOR_TRAFFIC_S = 3_600.0  # for so little traffic nobody should wait longer than this


@dataclass(frozen=True, slots=True)
class Advised:
    """Lengths for a switchback, whole seconds, and what they are reckoned from.

    Attributes:
        block_s: length of a block, burn-in included.
        burn_in_s: of its beginning that is not analysed.
        p99_latency_s: from arrival to end, as requests had it; None: none has ended yet.
        drain_s: until all who were there had gone, 99 times of 100.
        requests: that ended, from which both are known.
        why: a sentence for whoever starts the experiment.
    """

    block_s: float
    burn_in_s: float
    p99_latency_s: float | None
    drain_s: float
    requests: int
    why: str


def advised_burn_in_s(drain_s: float, settles_s: float = SETTLES_S) -> float:
    """Seconds of burn-in, from the seconds until all who were there have gone.

    Raises:
        ValueError: one of them is negative, or not finite.
    """
    return _checked(drain_s, "drain_s") + _checked(settles_s, "settles_s")


def advised_block_s(p99_latency_s: float, drain_s: float, *, per_s: float | None = None, floor_s: float = FLOOR_S) -> float:
    """Seconds of a block, burn-in included.

    Args:
        p99_latency_s: from arrival to end.
        drain_s: until all who were there have gone.
        per_s: arrivals a second; None: not known.
        floor_s: no block is shorter.

    Raises:
        ValueError: one of them is negative, or not finite.
    """
    burn_in_s = advised_burn_in_s(drain_s)
    needs_s = [LATENCIES * _checked(p99_latency_s, "p99_latency_s"), BURN_INS * burn_in_s, _checked(floor_s, "floor_s")]
    if per_s:
        needs_s.append(min(burn_in_s + FEWEST_REQUESTS / _checked(per_s, "per_s"), MOST_FOR_TRAFFIC_S))
    return max(needs_s)


def advised(entries: Iterable[Entry], traffic: Traffic = UNKNOWN_TRAFFIC, *, floor_s: float = FLOOR_S) -> Advised:
    """Lengths from the requests that ended lately, for any arm that may hold them as long as they allow.

    Args:
        entries: of the ledger; those that never left, or have not ended, say nothing.
        traffic: what arrives, as the room knows it.
        floor_s: no block is shorter.
    """
    done = [entry for entry in entries if entry.released_at is not None and entry.duration_s is not None]
    p99_latency_s = _p99([entry.duration_s or 0.0 for entry in done])
    may_last_s = _p99([_may_last_s(entry) for entry in done])
    drain_s = traffic.slack_s if may_last_s is None else may_last_s
    burn_in_s = ceil(advised_burn_in_s(drain_s))
    block_s = ceil(advised_block_s(p99_latency_s or 0.0, drain_s, per_s=traffic.per_s, floor_s=floor_s))
    return Advised(block_s, burn_in_s, p99_latency_s, drain_s, len(done), _why(len(done), p99_latency_s, drain_s))


def _may_last_s(entry: Entry) -> float:
    """How long a request could have taken: another arm may hold it to its deadline, whatever the one in force did."""
    return (entry.duration_s or 0.0) + max((entry.slack_s or 0.0) - entry.held_s, 0.0)


def _why(requests: int, p99_latency_s: float | None, drain_s: float) -> str:
    if p99_latency_s is None:
        return "no request has ended yet, so these are the shortest that are advised"
    return f"of {requests} requests 99 % took at most {p99_latency_s:.1f} s, and {drain_s:.1f} s if held as long as they allow"


def _p99(values: list[float]) -> float | None:
    """The one that 99 % do not exceed; of fewer than 100 the longest."""
    return sorted(values)[ceil(0.99 * len(values)) - 1] if values else None


def _checked(value: float, name: str) -> float:
    if not (isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be at least 0, and finite, not {value}")
    return value
