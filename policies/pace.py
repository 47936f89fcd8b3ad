"""Even spacing: at most one request every so often, the arrival shaping of arXiv 2601.22362.

Spacing creates no groups, so it is expected to save nothing over passthrough (and to cost whatever it delays); it is
here to be compared with.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from policies.base import Decision, View


@dataclass(frozen=True, slots=True)
class Pace:
    """Release the oldest, then wait `every_s`; remembers when it released last."""

    every_s: float = 0.5

    def __post_init__(self) -> None:
        if not self.every_s > 0:
            raise ValueError("every_s must be greater than 0")

    def decide(self, view: View, memory: object) -> Decision:
        released_at = memory if isinstance(memory, float) else -inf
        if view.now < released_at + self.every_s:
            return Decision(wake_at=released_at + self.every_s, memory=released_at)
        oldest = next(iter(view.waiting))
        return Decision([oldest.id], wake_at=view.now + self.every_s, memory=view.now)
