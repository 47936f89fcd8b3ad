"""A group leaves when it is large enough, or when its oldest member has waited long enough."""

from __future__ import annotations

from dataclasses import dataclass

from policies.base import Decision, View


@dataclass(frozen=True, slots=True)
class Size:
    """Release all when `n` wait or the oldest has waited `wait_s`: the classic batcher of inference servers."""

    n: int = 8
    wait_s: float = 2.0

    def __post_init__(self) -> None:
        if self.n < 1 or not self.wait_s >= 0:
            raise ValueError("n must be at least 1 and wait_s at least 0")

    def decide(self, view: View, memory: object) -> Decision:
        due_at = view.waiting.oldest_arrival + self.wait_s
        if len(view.waiting) >= self.n or due_at <= view.now:
            return Decision([waiting.id for waiting in view.waiting])
        return Decision(wake_at=due_at)
