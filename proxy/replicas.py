"""What several proxies in front of the same servers know of one experiment, brought together; pure.

All of it are unions, so it does not matter who tells what first, or twice: log lines are told apart by what they say, parts of
blocks by block and replica, and of a state that is over, or was changed more often, nobody goes back.

Quantiles of several replicas cannot be had from theirs. What is told is the worst of them, which the whole's cannot exceed: if
at most 5 % of each replica's requests are slower, so are at most 5 % of all. A 95th percentile of a handful is none, so
those who had a handful are heard only where all had.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from proxy.experiments.store import Part, State
from telemetry.blocks import Block
from telemetry.guardrails import ENOUGH_FOR_P95
from telemetry.snapshot import Source

AGREE = 0.03  # two meters of the same devices over the same block: a counter and integrated power differ by less
ADDED = (
    "requests",
    "completed",
    "output_tokens",
    "prompt_tokens",
    "errors",
    "late",
    "burn_in_requests",
    "crossing",
    "unfinished",
    "arrival_rate",
)
PERCENTILES = (("ttft_p95_s", "ttft_of"), ("tpot_p95_s", "tpot_of"))

Lines = Mapping[str, Mapping[str, Any]]
Parts = Mapping[tuple[int, str], Part]


@dataclass(frozen=True, slots=True)
class Presence:
    """When a replica was there, by Redis's clock, seconds since the epoch; `instance` is its process."""

    instance: str
    first_unix_s: float
    seen_unix_s: float

    def as_text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str | None) -> Presence | None:
        """As it was told; None: it was not, or by a version that tells it otherwise."""
        told = _object(text)
        with suppress(KeyError, TypeError, ValueError):
            return cls(str(told["instance"]), float(told["first_unix_s"]), float(told["seen_unix_s"]))
        return None


@dataclass(frozen=True, slots=True)
class Known:
    """All that is known of one experiment: its state and how often it was changed, its log, the parts of its blocks."""

    state: State | None = None
    revision: int = 0
    parts: Parts = field(default_factory=dict)
    lines: Lines = field(default_factory=dict)

    @classmethod
    def of(cls, state: str | None, parts: Mapping[str, str], lines: Mapping[str, str]) -> Known:
        """As it was told; what is not understood, for another version told it, is left out."""
        held = _object(state)
        known, revision = held.get("state"), held.get("revision")
        if not isinstance(known, dict) or not isinstance(revision, int):
            known, revision = None, 0
        read = (_part(text) for text in parts.values())
        by_key = {(part.block.index, part.replica): part for part in read if part is not None}
        return cls(known, revision, by_key, {id: line for id, text in lines.items() if (line := _object(text))})

    def joined(self, ours: Known, replica: str) -> Known:
        """With what one replica knows; of its own parts its own word counts."""
        state, revision = _newer((self.state, self.revision), (ours.state, ours.revision))
        own = {key: part for key, part in ours.parts.items() if part.replica == replica}
        return Known(state, revision, {**ours.parts, **self.parts, **own}, {**ours.lines, **self.lines})


def _object(text: str | None) -> dict[str, Any]:
    with suppress(ValueError):
        if isinstance(value := json.loads(text or ""), dict):
            return value
    return {}


def _part(text: str) -> Part | None:
    with suppress(ValueError):
        return Part.of(_object(text))
    return None


def line_id(line: Mapping[str, Any]) -> str:
    """What tells a line from another: all that it says."""
    return hashlib.sha256(json.dumps(line, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:24]


def by_id(lines: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {line_id(line): line for line in lines}


def _newer(theirs: tuple[State | None, int], ours: tuple[State | None, int]) -> tuple[State | None, int]:
    """Of two states the one that holds: one that is over, else that of the design that was first, else the one changed more."""
    if theirs[0] is None or ours[0] is None:
        return ours if theirs[0] is None else theirs
    return ours if _rank(ours[0], ours[1]) > _rank(theirs[0], theirs[1]) else theirs


def _rank(state: State, revision: int) -> tuple[bool, float, int]:
    design = state.get("design")
    began = design.get("began_unix_s", 0.0) if isinstance(design, Mapping) else 0.0
    return is_over(state), -float(began), revision


def is_over(state: State) -> bool:
    return state.get("state") != "running"


@dataclass(frozen=True, slots=True)
class Merged:
    """One block as all replicas saw it, who has not told yet, and what must be said of it."""

    block: Block
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def there(presences: Mapping[str, Presence], block: Block) -> set[str]:
    """Who was there during a block, from the first to the last time that it was seen."""
    return {
        name
        for name, presence in presences.items()
        if presence.first_unix_s < block.end_unix_s and presence.seen_unix_s > block.start_unix_s
    }


def merge(parts: Mapping[str, Block], expected: Collection[str] = ()) -> Merged:
    """One block of all replicas' parts. What is counted adds up, joules are taken once, quantiles are the worst.

    Args:
        parts: by replica, at least one, all of one block.
        expected: replicas that were there; a block that one of them has not told of is not complete.
    """
    first = parts[min(parts)]
    missing = tuple(sorted(set(expected) - set(parts)))
    notes = [f"nothing from {', '.join(missing)}"] if missing else []
    one_arm = len({part.arm for part in parts.values()}) == 1
    if not one_arm:
        notes.append("replicas ruled by different arms")
    if cut := sorted(name for name, part in parts.items() if not part.complete):
        notes.append(f"not whole at {', '.join(cut)}")
    energy = _energy(parts, notes)
    counts = {name: sum(getattr(part, name) for part in parts.values()) for name in ADDED}
    waits_s = [part.wait_p99_s for part in parts.values() if part.wait_p99_s is not None]
    worst: dict[str, Any] = {"wait_p99_s": max(waits_s, default=None)}
    for figure, of in PERCENTILES:
        worst[figure], worst[of] = _worst([(getattr(part, figure), getattr(part, of)) for part in parts.values()])
    changed: dict[str, Any] = {
        "start_unix_s": min(part.start_unix_s for part in parts.values()),
        "end_unix_s": max(part.end_unix_s for part in parts.values()),
        "complete": not missing and not cut and one_arm,
    }
    block = replace(first, **{**changed, **counts, **worst, **energy})
    return Merged(block, missing, tuple(notes))


def _worst(told: Sequence[tuple[float | None, int | None]]) -> tuple[float | None, int | None]:
    """Of each replica's percentile and how many it is of, the worst of those that are of enough, with what they are of."""
    enough = [(value, of) for value, of in told if value is not None and (of is None or of >= ENOUGH_FOR_P95)]
    counts = [of for _, of in enough or told if of is not None]
    values = [value for value, _ in enough or told if value is not None]
    return max(values, default=None), (sum if enough else max)(counts) if counts else None


def _energy(parts: Mapping[str, Block], notes: list[str]) -> dict[str, Any]:
    """All devices' joules, once: from the replica with the strongest source, if all who metered agree.

    A model's joules are of one replica's own requests: of several replicas they are no sum and no part of one.
    """
    told = {name: part for name, part in parts.items() if part.energy_j is not None}
    metered = {name: part for name, part in told.items() if part.source != Source.MODELLED}
    if len(parts) == 1:
        metered = dict(parts)
    taken = parts[min(metered, key=lambda name: (_weakness(metered[name]), name))] if metered else None
    if taken is None or taken.energy_j is None:
        if told:
            notes.append("joules are modelled, each of one replica's requests: unknown of all")
        return {"energy_j": None, "burn_in_j": None, "boundary_j": 0.0, "carried_j": 0.0, "source": ""}
    joules = [part.energy_j for part in metered.values() if part.energy_j is not None]
    agree = max(joules) - min(joules) <= AGREE * max(joules)
    if not agree:
        notes.append(f"meters of {', '.join(sorted(metered))} disagree: {min(joules):.1f} to {max(joules):.1f} J")
    return {
        "energy_j": taken.energy_j if agree else None,
        "burn_in_j": taken.burn_in_j if agree else None,
        # what was charged at the borders: each meter's replica charges its own requests, so the larger is the nearer
        "boundary_j": max(part.boundary_j for part in metered.values()),
        "carried_j": max(part.carried_j for part in metered.values()),
        "source": taken.source,
        "temperature_c": taken.temperature_c,
    }


def _weakness(part: Block) -> int:
    order = [str(source) for source in Source]
    return order.index(part.source) if part.source in order else len(order)
