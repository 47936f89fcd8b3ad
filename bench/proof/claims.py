"""A claim of the proof, whether it holds, and by which numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Verdict:
    """One claim; `holds` is None where it cannot be told, and `told` says by which numbers or why not."""

    proof: str
    claim: str
    holds: bool | None
    told: str

    def __str__(self) -> str:
        mark = "cannot tell" if self.holds is None else "holds" if self.holds else "FAILS"
        return f"{mark:11}  ({self.proof}) {self.claim}: {self.told}"


@dataclass(frozen=True, slots=True)
class Judged:
    """One proof: its verdicts, and the numbers that they stand on."""

    verdicts: Sequence[Verdict]
    numbers: Mapping[str, Any] = field(default_factory=dict)
