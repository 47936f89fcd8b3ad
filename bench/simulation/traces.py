"""Reads arrivals from traces in any of the formats that are known (`bench/simulation/formats.py`).

Simulated time begins with the first arrival. What a trace does not tell is not made up: tiers and slack come from whoever
asks, and the most tokens that a client asked for, which no trace tells and policies may look at, is the same for all, so
that nobody is told how long an answer will be.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from math import inf, isfinite
from pathlib import Path

from bench.draws import BadSpec
from bench.simulation.formats import READERS, Read, Row, format_of, ledger_files
from policies.base import Tier, Waiting
from policies.simulate import Arrival

FORMATS = ("auto", "azure", "mooncake", "ledger")
KINDS = {
    "azure": "CSV with Azure's columns",
    "mooncake": "JSON lines as Mooncake's",
    "ledger": "Paceline's ledger, JSON lines or Parquet",
}


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
        cut: whether it holds more than the most that were asked for.
    """

    format: str
    digest: str = ""
    arrivals: list[Arrival] = field(default_factory=list)
    wall_offset_s: float | None = None
    incomplete: int = 0
    estimated: int = 0
    slack_told: int = 0
    most_tokens: int = 1
    cut: bool = False

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
            "cut": self.cut,
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
    latest: bool = False,
) -> Trace:
    """A trace, and what is to be known of it.

    Args:
        path: a file, or a directory of the ledger's files.
        format: one of `FORMATS`; auto looks at the file.
        speedup: how many times faster than it was recorded it is played; slack stays as it is.
        slack_s: how long requests of each tier may be held; it goes before what the trace tells. Neither: not at all.
        duration_s: nobody arrives later than this, in simulated seconds.
        requests: most arrivals.
        latest: of more, those of a ledger that came last; of other traces, which are read no further, always the first.

    Raises:
        BadSpec: it cannot be read, or holds nobody; the message names file and line, and what is allowed.
    """
    if not (isfinite(speedup) and speedup > 0):
        raise BadSpec(f"speedup must be more than 0, not {speedup}")
    known = format_of(path) if format == "auto" else format
    most = inf if requests is None else requests
    if known not in READERS:
        raise BadSpec(f"format {format!r} is not known; it is one of {', '.join(FORMATS)}")
    trace = Trace(known)
    last_s = inf if duration_s is None else duration_s * speedup
    try:
        read = READERS[known](path)
        ledger = known == "ledger"
        rows = _wanted(trace, read, last_s, most, latest) if ledger else _ordered(trace, read, last_s, most)
        trace.digest = _digest(path)
    except BadSpec as error:
        raise _of_another(path, known) or error from error
    except OSError as error:
        raise BadSpec(f"trace {path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadSpec(f"trace {path}: {error}") from error
    if not rows:
        none = BadSpec(f"trace {path} holds no request that completed ({trace.incomplete} others)")
        raise _of_another(path, known) or none
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


def _ordered(trace: Trace, read: Read, last_s: float, most: float) -> list[Row]:
    """What was written in order of arrival is read no further than is wanted."""
    kept: list[Row] = []
    for where, row in read:
        if row is None:
            trace.incomplete += 1
            continue
        if kept and row.at_s < kept[-1].at_s:
            raise BadSpec(f"{where}: its instant lies before that of the line above")
        trace.cut = len(kept) >= most
        if trace.cut or (kept and row.at_s - kept[0].at_s > last_s):
            break
        kept.append(row)
    return kept


def _wanted(trace: Trace, read: Read, last_s: float, most: float, latest: bool) -> list[Row]:
    """The ledger's are in order of their ends, so all are read."""
    told = [row for _, row in read]
    kept = sorted((row for row in told if row is not None), key=lambda row: row.at_s)
    trace.incomplete = len(told) - len(kept)
    kept = [row for row in kept if row.at_s - kept[0].at_s <= last_s]
    trace.cut = len(kept) > most
    if not trace.cut:
        return kept
    return kept[-int(most) :] if latest else kept[: int(most)]


def _of_another(path: Path, format: str) -> BadSpec | None:
    """What to say of a file that looks like another format than the one that it was said to be."""
    try:
        looks_like = format_of(path)
    except BadSpec:
        return None
    if looks_like == format:
        return None
    return BadSpec(f"trace {path} is not {KINDS[format]}; this looks like {looks_like} (--format {looks_like}, or none)")


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
