"""What became of a run, and whatever makes it less than what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from proxy.dialects.base import Usage
from telemetry.fit import Work
from telemetry.snapshot import Source


@dataclass(slots=True)
class Outcome:
    """What became of a run.

    Attributes:
        work: None where nothing could be counted; the notes say why.
        final: it need not be tried again.
        notes: whatever makes the run less than what was asked for.
    """

    work: Work | None = None
    notes: list[str] = field(default_factory=list)
    final: bool = True
    source: Source | None = None

    def lengths(self, what: str, asked: int, told: Sequence[int | None]) -> None:
        """A run whose lengths are not as asked is used as it was, and says so."""
        known = [tokens for tokens in told if tokens is not None]
        if told and not known:
            self.note(f"{what}: the server counts no tokens, {asked} are assumed")
        elif known and (min(known) != asked or max(known) != asked):
            self.note(f"{what}: {asked} tokens asked for, {_range(known)} came")

    def cached(self, usage: Usage) -> None:
        if usage.cached_tokens:
            self.note("prompt tokens came out of the server's prefix cache; they are not counted as computed")

    def note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low} to {high}"
