"""The meters of another machine, by the `paceline meter` that runs there, in terms of this machine's clock."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from telemetry.meter import MeterUnavailable, Rhythm
from telemetry.page import Answer, Page
from telemetry.recording import from_json
from telemetry.snapshot import Reading

log = logging.getLogger("paceline.telemetry")

DRIFT = 1e-4  # clocks of two machines differ by less: seconds a second
SAMPLES = 64


@dataclass(slots=True)
class ClockOffset:
    """What to add to another machine's clock, by the NTP way: that clock was read about halfway through each round trip.

    The sample that is told is the one with the least doubt: half its round trip, and what may have drifted since.
    """

    _samples: deque[tuple[float, float, float]] = field(default_factory=lambda: deque(maxlen=SAMPLES))

    def add(self, theirs_s: float, asked_s: float, answered_s: float) -> None:
        middle_s, half_s = (asked_s + answered_s) / 2, (answered_s - asked_s) / 2
        self._samples.append((middle_s - theirs_s, half_s, asked_s))

    def at(self, now_s: float) -> tuple[float, float]:
        """The offset, give or take how much; there must be a sample."""
        doubt_s, offset_s = min((half_s + DRIFT * (now_s - at_s), offset_s) for offset_s, half_s, at_s in self._samples)
        return offset_s, doubt_s

    def forget(self) -> None:
        self._samples.clear()


@dataclass(slots=True)
class _Track:
    """One device as it was told to us, and what its numbers are lifted by, so that none goes back."""

    latest: Reading | None = None
    lift_uj: int = 0
    integral_lift_uj: int = 0

    def tell(self, step: Reading, answered_s: float) -> Reading:
        """The step as we tell it: no earlier than the one before, not in the future, and no energy taken back."""
        before = self.latest
        if before is not None:
            if step.energy_uj + self.lift_uj < before.energy_uj:
                self.lift_uj = before.energy_uj - step.energy_uj
                log.warning("%s counts anew: what it drew in between is not counted", step.device)
            if step.integral_uj is not None and before.integral_uj is not None:
                self.integral_lift_uj = max(self.integral_lift_uj, before.integral_uj - step.integral_uj)
        self.latest = replace(
            step,
            energy_uj=step.energy_uj + self.lift_uj,
            at_s=min(max(step.at_s, before.at_s if before is not None else step.at_s), answered_s),
            integral_uj=step.integral_uj + self.integral_lift_uj if step.integral_uj is not None else None,
        )
        return self.latest


class RemoteMeter:
    """Asks for the steps since the last time, so each is known by its own instant however seldom we ask."""

    rhythm = Rhythm(poll_s=0.1, frozen_after_s=10.0)

    def __init__(
        self,
        url: str,
        devices: Sequence[str] | None = None,
        *,
        key: str = "",
        ca_file: Path | None = None,
        timeout_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is asked yet; the meter need not run.

        Args:
            url: as `http://host:9465`.
            devices: their names; None is all.
            key: the one that the meter wants; empty shows none.
            ca_file: certificates to trust instead of the system's.
            timeout_s: longest wait.
            clock: monotonic seconds.

        Raises:
            MeterUnavailable: the URL is none, or the certificates cannot be read.
        """
        self._page = Page(url.rstrip("/") + "/readings", key=key, ca_file=ca_file, timeout_s=timeout_s, clock=clock)
        self._names = tuple(devices or ())
        self._cursor = self._instance = ""
        self._offset = ClockOffset()
        self._tracks: dict[str, _Track] = {}

    def read(self) -> Sequence[Reading]:
        answer = self._page.get(f"?since={quote(self._cursor)}" if self._cursor else "")
        told = self._told(answer)
        try:
            instance, cursor, now_s = str(told["instance"]), str(told["cursor"]), float(told["now_s"])
            steps = [from_json(one) for one in told["readings"]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MeterUnavailable(f"{self._page.url} tells what this version does not know: {error!r}") from error
        if instance != self._instance:
            self._offset.forget()
            if self._instance:
                log.warning("the meter at %s was started again", self._page.url)
        self._instance, self._cursor = instance, cursor
        self._offset.add(now_s, answer.asked_s, answer.answered_s)
        return [self._ours(step, answer) for step in steps if not self._names or step.device in self._names]

    def close(self) -> None:
        self._page.close()

    def _told(self, answer: Answer) -> dict[str, Any]:
        if answer.status in (401, 403):
            raise MeterUnavailable(f"{self._page.url} wants another key (status {answer.status})")
        if answer.status != 200:
            raise MeterUnavailable(f"no `paceline meter` at {self._page.url}: status {answer.status}")
        try:
            told = json.loads(answer.body)
        except ValueError as error:
            raise MeterUnavailable(f"no `paceline meter` at {self._page.url}: it answers {answer.body[:80]!r}") from error
        return told if isinstance(told, dict) else {}

    def _ours(self, step: Reading, answer: Answer) -> Reading:
        offset_s, doubt_s = self._offset.at(answer.answered_s)
        moved = replace(step, at_s=step.at_s + offset_s, edge_s=(step.edge_s or 0.0) + doubt_s)
        return self._tracks.setdefault(step.device, _Track()).tell(moved, answer.answered_s)
