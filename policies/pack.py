"""Fill one server before using the next: full batches cost fewer joules a token, and empty servers only idle.

Nobody waits for it; tokens come a little slower, which is what the knee and the guardrails bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from policies.base import Plan, ServerView, View, Waiting
from telemetry.cost import StepModel


@dataclass(slots=True)
class _Load:
    """What a server has, those of the group that were sent there before counted."""

    server: ServerView
    free: float
    sequences: int
    tokens: int

    def take(self, waiting: Waiting) -> None:
        self.free -= waiting.sequences
        self.sequences += waiting.sequences
        self.tokens += waiting.tokens


@dataclass(frozen=True, slots=True)
class Pack:
    """Each request goes to the fullest server that is not full with it; when all are full, to the emptiest.

    Attributes:
        knee: sequences in flight at which a server counts as full (beyond it, time per token grows faster than
            joules per token fall; 64 on an H200 with an 8B model).
        tokens: most prompt and possible output tokens in flight on a server, else it counts as full; not set: no bound.
        tpot_ms: guardrail: a server counts as full where a token takes, or would take with the request, so many
            milliseconds; not set: none. Observed by the latest streams that ended there; what the step model says of one
            sequence more is held against that, or believed where nobody has observed anything.
    """

    knee: int = 64
    tokens: int | None = None
    tpot_ms: float | None = None

    def __post_init__(self) -> None:
        if self.knee < 1:
            raise ValueError("knee must be at least 1")
        if self.tokens is not None and self.tokens < 1:
            raise ValueError("tokens must be at least 1")
        if self.tpot_ms is not None and not self.tpot_ms > 0:
            raise ValueError("tpot_ms must be above 0")

    def place(self, group: Sequence[Waiting], view: View) -> Plan:
        loads = [_Load(server, server.free, server.in_flight, server.tokens) for server in view.servers]
        assignments = {}
        for waiting in group:
            open_ones = [load for load in loads if load.server.takes(waiting, load.free)]
            if not open_ones:
                continue
            below = [load for load in open_ones if not self._is_full(load, waiting, view.model)]
            chosen = max(below, key=_sequences) if below else min(open_ones, key=_sequences)
            chosen.take(waiting)
            assignments[waiting.id] = chosen.server.name
        return Plan(assignments)

    def filled(self, server: ServerView, model: StepModel | None) -> float:
        """How near a server is to the bounds on tokens and time a token: a share of the former, 1 at the latter."""
        share = server.tokens / self.tokens if self.tokens is not None else 0.0
        if self.tpot_ms is None or not server.in_flight:
            return share
        tpot_s = server.tpot_s or (model.step_s(server.in_flight, 0, server.tokens) if model is not None else 0.0)
        return max(share, float(tpot_s * 1000 > self.tpot_ms))

    def _is_full(self, load: _Load, waiting: Waiting, model: StepModel | None) -> bool:
        if load.sequences >= self.knee:
            return True
        if self.tokens is not None and load.sequences and load.tokens + waiting.tokens > self.tokens:
            return True  # but an empty server is not full with the one that nobody else could take either
        return self.tpot_ms is not None and _tpot_s(load, waiting, model) * 1000 > self.tpot_ms


def _tpot_s(load: _Load, waiting: Waiting, model: StepModel | None) -> float:
    """Seconds a token would take with one request more, whose possible tokens count as context: it is no less than true."""
    observed_s = load.server.tpot_s
    if model is None:
        return observed_s or 0.0
    with_it_s = model.step_s(load.sequences + waiting.sequences, 0, load.tokens + waiting.tokens)
    if observed_s is None:
        return with_it_s
    return observed_s * with_it_s / model.step_s(load.server.in_flight, 0, load.server.tokens)


def _sequences(load: _Load) -> int:
    return load.sequences
