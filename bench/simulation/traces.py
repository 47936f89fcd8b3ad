"""Reads arrivals from traces in any of the formats that are known (`bench/simulation/formats.py`).

Simulated time begins with the first arrival. What a trace does not tell is not made up: tiers and slack come from whoever
asks, and the most tokens that a client asked for, which no trace tells and policies may look at, is the same for all, so
that nobody is told how long an answer will be.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import islice
from math import inf, isfinite
from pathlib import Path
from random import Random

from bench.draws import BadSpec
from bench.simulation.formats import READERS, Read, Row, format_of, ledger_files
from policies.base import Tier, Waiting
from policies.simulate import Arrival

FORMATS = ("auto", "azure", "mooncake", "ledger")


@dataclass(slots=True)
class Trace:
    """What was read, and how much it can be trusted.

    Attributes:
        arrivals: in order of time, the first at 0.
        format: azure, mooncake or ledger.
        digest: SHA-256 of the files' bytes.
        wall_offset_s: seconds since the epoch at the first arrival; None: the trace does not tell.
        incomplete: records left out because their request did not complete, or says too little.
        estimated: arrivals with a token count that nobody counted.
        slack_told: arrivals whose slack the trace itself tells.
        most_tokens: what each is said to ask for at most, where the trace does not tell.
    """

    format: str
    digest: str = ""
    arrivals: list[Arrival] = field(default_factory=list)
    wall_offset_s: float | None = None
    incomplete: int = 0
    estimated: int = 0
    slack_told: int = 0
    most_tokens: int = 1

    def as_json(self) -> dict[str, object]:
        """All but the arrivals themselves."""
        return {
            "format": self.format,
            "sha256": self.digest,
            "arrivals": len(self.arrivals),
            "span_s": self.arrivals[-1].waiting.arrived_at if self.arrivals else 0.0,
            "began_unix_s": self.wall_offset_s,
            "incomplete": self.incomplete,
            "estimated": self.estimated,
            "slack_told": self.slack_told,
            "max_new_tokens": self.most_tokens,
        }


def read(
    path: Path,
    *,
    format: str = "auto",
    speedup: float = 1.0,
    slack_s: Mapping[Tier, float] | None = None,
    duration_s: float | None = None,
    requests: int | None = None,
) -> list[Arrival]:
    """The arrivals of a trace; see `load`."""
    return load(path, format=format, speedup=speedup, slack_s=slack_s, duration_s=duration_s, requests=requests).arrivals


def load(
    path: Path,
    *,
    format: str = "auto",
    speedup: float = 1.0,
    slack_s: Mapping[Tier, float] | None = None,
    duration_s: float | None = None,
    requests: int | None = None,
) -> Trace:
    """A trace, and what is to be known of it.

    Args:
        path: a file, or a directory of the ledger's files.
        format: one of `FORMATS`; auto looks at the file.
        speedup: how many times faster than it was recorded it is played; slack stays as it is.
        slack_s: how long requests of each tier may be held; it goes before what the trace tells. Neither: not at all.
        duration_s: nobody arrives later than this, in simulated seconds.
        requests: most arrivals.

    Raises:
        BadSpec: it cannot be read, or holds nobody; the message names file and line, and what is allowed.
    """
    if not (isfinite(speedup) and speedup > 0):
        raise BadSpec(f"speedup must be more than 0, not {speedup}")
    known = format_of(path) if format == "auto" else format
    if known not in READERS:
        raise BadSpec(f"format {format!r} is not known; it is one of {', '.join(FORMATS)}")
    trace = Trace(known)
    last_s = inf if duration_s is None else duration_s * speedup
    try:
        rows = _rows(trace, READERS[known](path), last_s, inf if requests is None else requests, ordered=known != "ledger")
        trace.digest = _digest(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadSpec(f"trace {path}: {error}") from error
    if not rows:
        raise BadSpec(f"trace {path} holds no request that completed ({trace.incomplete} others)")
    _fill(trace, rows, speedup, slack_s or {})
    return trace


def _fill(trace: Trace, rows: Sequence[Row], speedup: float, slack_s: Mapping[Tier, float]) -> None:
    trace.most_tokens = max(-(-row.output_tokens // row.sequences) for row in rows)
    trace.estimated = sum(row.estimated for row in rows)
    began = rows[0].at_s
    trace.wall_offset_s = began if trace.format != "mooncake" else None
    ids: set[str] = set()
    for number, row in enumerate(rows):
        asked = slack_s.get(row.tier)
        trace.slack_told += asked is None and row.slack_s is not None
        id = row.id if row.id and row.id not in ids else f"{row.id or 'r'}-{number}"
        ids.add(id)
        slack = asked if asked is not None else row.slack_s or 0.0
        trace.arrivals.append(_arrival(row, id, (row.at_s - began) / speedup, slack, trace.most_tokens))


def with_tiers(trace: list[Arrival], shares: Mapping[Tier, float], slack_s: Mapping[Tier, float], seed: int) -> list[Arrival]:
    """The same arrivals with tiers drawn by their shares, and each tier's slack."""
    tiers = Random(f"{seed}/tiers").choices(list(shares), list(shares.values()), k=len(trace))
    return [_in_tier(arrival, tier, slack_s.get(tier, 0.0)) for arrival, tier in zip(trace, tiers, strict=True)]


def _in_tier(arrival: Arrival, tier: Tier, slack_s: float) -> Arrival:
    waiting = replace(arrival.waiting, tier=tier, deadline=arrival.waiting.arrived_at + slack_s)
    return Arrival(waiting, arrival.output_tokens)


def _arrival(row: Row, id: str, at: float, slack_s: float, most_tokens: int) -> Arrival:
    waiting = Waiting(
        id,
        arrived_at=at,
        deadline=at + slack_s,
        prompt_tokens=row.prompt_tokens,
        max_new_tokens=max(row.max_new_tokens or most_tokens, -(-row.output_tokens // row.sequences)),
        tier=row.tier,
        tenant=row.tenant,
        sequences=row.sequences,
        model=row.model,
        prefix=row.prefix,
    )
    return Arrival(waiting, row.output_tokens)


def _rows(trace: Trace, read: Read, last_s: float, most: float, *, ordered: bool) -> list[Row]:
    """Those of the trace that are wanted. What was written in order of arrival is read no further than that."""
    kept: list[Row] = []
    for where, row in read:
        if row is None:
            trace.incomplete += 1
            continue
        if ordered and kept and row.at_s < kept[-1].at_s:
            raise BadSpec(f"{where}: its instant lies before that of the line above")
        if ordered and (len(kept) >= most or (kept and row.at_s - kept[0].at_s > last_s)):
            break
        kept.append(row)
    if not ordered and kept:
        kept.sort(key=lambda row: row.at_s)
        began = kept[0].at_s
        wanted = (row for row in kept if row.at_s - began <= last_s)
        kept = list(wanted if most == inf else islice(wanted, int(most)))
    return kept


def _digest(path: Path) -> str:
    """Of all bytes, files in the order in which they are read."""
    total = sha256()
    for file in _files(path):
        with file.open("rb") as opened:
            while block := opened.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def _files(path: Path) -> Iterable[Path]:
    return ledger_files(path) if path.is_dir() else [path]
