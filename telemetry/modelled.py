"""The meter of what nobody measures: joules that the step model says, always marked as modelled."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from telemetry.meter import Rhythm
from telemetry.snapshot import Reading, Source

BEHIND_S = 0.25  # by then the tokens of an instant have been seen


@dataclass(slots=True)
class ModelledMeter:
    """One device, whose counter is what the model says of the requests that were there. It is read where they are.

    Attributes:
        device: its name.
        joules: what the model says was used between two instants, idle power included.
        clock: monotonic seconds.
    """

    device: str
    joules: Callable[[float, float], float]
    clock: Callable[[], float] = time.monotonic
    rhythm: Rhythm = field(default_factory=lambda: Rhythm(0.1, 2.0))
    _energy_j: float = 0.0
    _until_s: float | None = None

    def read(self) -> Sequence[Reading]:
        now = self.clock() - BEHIND_S
        if self._until_s is not None and now > self._until_s:
            self._energy_j += self.joules(self._until_s, now)
        self._until_s = now
        return [Reading(self.device, round(self._energy_j * 1e6), now, Source.MODELLED, edge_s=0.0)]

    def close(self) -> None:
        pass
