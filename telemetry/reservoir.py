"""A fair sample of values of which nobody knows how many will come: bounded memory, and a bounded time to sort it."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from telemetry.blocks import quantile

KEPT = 20_000  # 0.6 MB, sorted in 4 ms; a percentile of them is off by 0.15 points at 95, and 0.07 at 99 (standard error)


@dataclass(slots=True)
class Reservoir:
    """Each value that came is kept with the same probability (Vitter, "Random sampling with a reservoir", 1985, algorithm R).

    Up to `KEPT` values it has all of them, so that its quantiles are exact.

    Attributes:
        seen: how many came.
    """

    seen: int = 0
    _kept: list[float] = field(default_factory=list)
    _random: Random = field(default_factory=lambda: Random(0))  # the same values give the same sample

    def add(self, value: float) -> None:
        self.seen += 1
        if len(self._kept) < KEPT:
            self._kept.append(value)
        elif (place := self._random.randrange(self.seen)) < KEPT:
            self._kept[place] = value

    def quantile(self, part: float) -> float | None:
        """None: nothing came."""
        return quantile(self._kept, part)
