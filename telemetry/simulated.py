"""The meter of simulated engines: reads each one's energy counter over HTTP, as NVML is read from a driver."""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import urlsplit

from telemetry.meter import MeterUnavailable, Rhythm
from telemetry.page import Page
from telemetry.snapshot import Reading, Source

COUNTER = "/simulator/energy"


class SimulatedMeter:
    """One device per engine, called after its address. An engine that does not answer is left out of a reading."""

    rhythm = Rhythm(poll_s=0.02, frozen_after_s=2.0)

    def __init__(self, urls: Sequence[str], *, timeout_s: float = 1.0) -> None:
        """Nothing is asked yet; the engines need not run.

        Args:
            urls: the engines', as `http://host:port`.
            timeout_s: longest wait for one engine.
        """
        self._counters = [_Counter(url, timeout_s) for url in urls]

    def read(self) -> Sequence[Reading]:
        """See `Meter.read`.

        Raises:
            MeterUnavailable: not one engine answered.
        """
        readings, errors = [], []
        for counter in self._counters:
            try:
                readings.append(counter.read())
            except MeterUnavailable as error:
                errors.append(str(error))
        if not readings:
            raise MeterUnavailable("; ".join(errors) or "no simulated engine is named")
        return readings

    def close(self) -> None:
        for counter in self._counters:
            counter.close()


class _Counter:
    """One engine's counter."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._device = f"sim:{urlsplit(url).netloc}"
        self._page = Page(url.rstrip("/") + COUNTER, timeout_s=timeout_s)

    def read(self) -> Reading:
        answer = self._page.get()
        if answer.status != 200:
            raise MeterUnavailable(f"no energy counter at {self._page.url}: status {answer.status}, so no simulated engine")
        return Reading(self._device, self._energy_uj(answer.body), answer.at_s, Source.SIMULATED)

    def close(self) -> None:
        self._page.close()

    def _energy_uj(self, body: bytes) -> int:
        try:
            return int(json.loads(body)["energy_mj"]) * 1000
        except (ValueError, KeyError, TypeError) as error:
            raise MeterUnavailable(f"no energy counter at {self._page.url}: it answers {body[:80]!r}") from error
