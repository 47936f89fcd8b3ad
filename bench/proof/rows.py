"""What the proof measured, as it lies in its folder: each request, each run, each phase."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Row:
    """One request: what was asked, what its sender saw, and what the admin port tells of it.

    Attributes:
        run: which load it belonged to, `repeat` which time.
        kind: requests of one kind are of one shape.
        number: its place in the run's plan.
        sent_s: monotonic seconds, as all instants here; one machine has one such clock.
        error: empty when the answer came whole.
        record: what `GET /requests/{id}` says; None where it knows nothing.
    """

    run: str
    repeat: int
    kind: str
    number: int
    streamed: bool
    prompt_tokens: int
    output_tokens: int
    sent_s: float
    ended_s: float
    error: str
    record: Mapping[str, Any] | None

    @property
    def energy(self) -> Mapping[str, Any] | None:
        """Its joules, where they are known for good and the answer came whole; unknown is not zero."""
        energy = self.record["energy"] if self.record is not None and not self.error else None
        return energy if energy is not None and energy["final"] else None


@dataclass(frozen=True, slots=True)
class Run:
    """One load from the calm before it to the calm after it, and what the admin port says of that time.

    Attributes:
        devices: whose joules the proxy counts.
        joules: what `GET /energy` says.
    """

    name: str
    repeat: int
    since_s: float
    until_s: float
    idle_power_w: float
    devices: Sequence[str]
    joules: Mapping[str, Any]

    @property
    def unattributed_share(self) -> float:
        return float(self.joules["unattributed_j"] / self.joules["counted_j"])


@dataclass(slots=True)
class Phase:
    """One part of the proof; it grows while it is measured.

    Attributes:
        seconds: what `GET /energy` says of each second, calm included: `since_s` and joules.
        skipped: why nothing was measured.
    """

    name: str
    rows: list[Row] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    seconds: list[Mapping[str, float]] = field(default_factory=list)
    skipped: str = ""

    def save(self, folder: Path) -> None:
        (folder / f"{self.name}.json").write_text(json.dumps(asdict(self), separators=(",", ":")) + "\n")

    @classmethod
    def read(cls, file: Path) -> Self:
        told = json.loads(file.read_text())
        parts = {"rows": [Row(**row) for row in told["rows"]], "runs": [Run(**run) for run in told["runs"]]}
        return cls(**{one.name: told[one.name] for one in fields(cls)} | parts)

    def rows_of(self, run: str, repeat: int | None = None) -> list[Row]:
        return [row for row in self.rows if row.run == run and repeat in (None, row.repeat)]
