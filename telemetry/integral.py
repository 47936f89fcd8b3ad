"""One device's cumulative energy that never goes back: its counter, and its power added up over time where that fails."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from telemetry.snapshot import Source

log = logging.getLogger("paceline.telemetry")

EMIT_EVERY_S = 0.1  # as often as a GPU's counter moves: more steps would be more work, and no more truth


@dataclass(slots=True)
class PowerIntegral:
    """Power readings added up by the trapezoid rule. What was drawn before the first is unknown, and left out."""

    energy_uj: int = 0
    _power_w: float | None = None
    _at_s: float = 0.0

    @property
    def known(self) -> bool:
        """Whether power has been told at all."""
        return self._power_w is not None

    def add(self, power_w: float, at_s: float) -> None:
        if self._power_w is not None:
            self.energy_uj += max(round((self._power_w + power_w) / 2 * (at_s - self._at_s) * 1e6), 0)
        self._power_w, self._at_s = power_w, at_s


@dataclass(slots=True)
class Bridge:
    """A counter while it can be trusted, and the power integral over every span in which it cannot.

    A counter is left when it is missing, goes back (a wrap, a reloaded driver), or stands still for `frozen_after_s` while
    power is drawn. What was drawn since its latest move is then told by power, until it moves forward again; from there
    its increments count once more. One that is not told at some look has not moved: its next value makes up for it.

    Neither clock nor device is in here: looks are handed in, in the order of their instants.

    Attributes:
        device: its name, for the log.
        energy_uj: cumulative; a first counter is taken as it is.
        source: of the latest change of `energy_uj`.
    """

    device: str
    frozen_after_s: float = 2.0
    emit_every_s: float = EMIT_EVERY_S
    energy_uj: int = 0
    source: Source = Source.COUNTER
    _integral: PowerIntegral = field(default_factory=PowerIntegral)
    _trusted: bool = False
    _counter_uj: int | None = None  # as it was seen last
    _moved_at_s: float = 0.0  # when the counter moved last, while it was trusted
    _told_at_s: float = float("-inf")  # when the integral was handed out last
    _told_uj: int = 0  # so much of the integral is in `energy_uj`, or was told by the counter instead

    @property
    def integral_uj(self) -> int | None:
        """Power alone, added up apart from the counter; None where no power is told."""
        return self._integral.energy_uj if self._integral.known else None

    @property
    def known(self) -> bool:
        """Whether there is any energy to tell: a counter, or power."""
        return self._counter_uj is not None or self._integral.known

    def observe(self, counter_uj: int | None, power_w: float | None, at_s: float) -> None:
        """Take one look.

        Args:
            counter_uj: the device's counter; None where it is not told.
            power_w: its power; None where it is not told, or was not asked for at this look.
            at_s: when; monotonic clock.
        """
        if not self.known:
            self._begin(counter_uj, at_s)
        if power_w is not None:
            self._integral.add(power_w, at_s)
        if self._trusted:
            self._follow(counter_uj, at_s)
        elif counter_uj is not None:
            self._await_move(counter_uj, at_s)
        if not self._trusted and at_s - self._told_at_s >= self.emit_every_s:
            self._tell_integral(at_s)

    def _begin(self, counter_uj: int | None, at_s: float) -> None:
        self.source = Source.COUNTER if counter_uj is not None else Source.POWER_INTEGRAL
        if counter_uj is not None:
            self.energy_uj = self._counter_uj = counter_uj
            self._trusted, self._moved_at_s = True, at_s

    def _follow(self, counter_uj: int | None, at_s: float) -> None:
        assert self._counter_uj is not None
        if counter_uj is not None and counter_uj > self._counter_uj:
            self.energy_uj += counter_uj - self._counter_uj
            self._counter_uj, self._moved_at_s, self._told_uj = counter_uj, at_s, self._integral.energy_uj
            self.source = Source.COUNTER
        elif counter_uj is not None and counter_uj < self._counter_uj:
            self._counter_uj = counter_uj
            self._distrust("went back")
        elif at_s - self._moved_at_s >= self.frozen_after_s and self._integral.energy_uj > self._told_uj:
            self._distrust("is not told any more" if counter_uj is None else f"stood still for {self.frozen_after_s:g} s")

    def _distrust(self, why: str) -> None:
        self._trusted = False
        told = "its power is added up instead" if self._integral.known else "its power is not told: what it draws is lost"
        log.warning("the energy counter of %s %s: %s", self.device, why, told)

    def _await_move(self, counter_uj: int, at_s: float) -> None:
        """A counter that moves forward is trusted from there: the value before it need not be as old as it looks."""
        before, self._counter_uj = self._counter_uj, counter_uj
        if before is None or counter_uj <= before:
            return
        self._tell_integral(at_s)
        self._trusted, self._moved_at_s = True, at_s
        log.warning("the energy counter of %s moves: it is read again", self.device)

    def _tell_integral(self, at_s: float) -> None:
        if self._integral.energy_uj > self._told_uj:
            self.energy_uj += self._integral.energy_uj - self._told_uj
            self.source = Source.POWER_INTEGRAL
        self._told_uj, self._told_at_s = self._integral.energy_uj, at_s
