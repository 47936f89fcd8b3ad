"""Released at fixed instants: everybody who came since the last one leaves together."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from math import floor

from policies.base import Decision, View


@dataclass(frozen=True, slots=True)
class Window:
    """Release at every multiple of `every_s` on the monotonic clock; the mean hold is half of it.

    Groups form whatever the traffic does, and the engine is idle in between; the hold is paid even when nothing is
    gained by it. Requests whose own slack is shorter leave earlier, by their deadline.
    """

    every_s: float = 2.0

    def __post_init__(self) -> None:
        if not self.every_s > 0:
            raise ValueError("every_s must be greater than 0")

    def decide(self, view: View, memory: object) -> Decision:
        # the small part of a period makes an instant count that floating point puts a hair before its multiple
        latest = floor(view.now / self.every_s + 1e-9)
        opened = latest * self.every_s
        release = [w.id for w in takewhile(lambda w: w.arrived_at <= opened, view.waiting)]
        return Decision(release, wake_at=(latest + 1) * self.every_s)
