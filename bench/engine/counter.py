"""The energy counter of a simulated device: cumulative, and moving only every 100 ms of the engine's time, as NVML's does."""

from __future__ import annotations

from dataclasses import dataclass

from policies.engine import Engine, Step

COUNTER_HZ = 10


@dataclass(slots=True)
class Counter:
    """The energy counter as a device shows it: it stands still between the instants of a grid."""

    engine: Engine
    energy_j: float = 0.0
    power_w: float = 0.0  # mean over the grid's last interval
    _tick: int = 0

    def advance(self, now: float) -> list[Step]:
        """Bring counter and engine to `now`; the steps that ended."""
        steps: list[Step] = []
        tick = int(now * COUNTER_HZ)
        for passed in range(max(self._tick + 1, tick - 1), tick + 1):
            at = min(passed / COUNTER_HZ, now)
            steps += self.engine.advance(at)
            energy_j = self.engine.energy_j(at)
            # the first of a longer gap has no neighbour, and a second one follows it
            self.power_w = (energy_j - self.energy_j) * COUNTER_HZ
            self.energy_j, self._tick = energy_j, passed
        return steps + self.engine.advance(now)
