"""What a calibration was asked for, and who is told how it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.calibration.outcome import Outcome
from bench.calibration.plan import Run


@dataclass(frozen=True, slots=True)
class Settings:
    """What a calibration was asked for."""

    url: str
    meter: str
    budget_s: float
    devices: tuple[str, ...] = ()
    dialect: str = "auto"
    model: str = ""
    max_batch: int = 128
    max_step_tokens: int = 8192
    window_s: float = 2.5
    seed: int = 0
    timeout_s: float = 60.0


@dataclass(slots=True)
class Telling:
    """Who is told what goes on; all seconds are of the clock on the wall.

    Attributes:
        about: a line about the calibration as a whole.
        begins: a run, and the seconds that all that is left should take.
        ended: a run, and what became of it.
    """

    about: Callable[[str], None]
    begins: Callable[[Run, float], None]
    ended: Callable[[Run, Outcome], None]
