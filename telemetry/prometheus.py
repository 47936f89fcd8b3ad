"""Devices as an exporter tells them: scrapes a DCGM exporter, Kepler, or another Paceline over HTTP."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from telemetry.exporters import NAMES, Sample, Told, told
from telemetry.integral import Bridge
from telemetry.meter import MeterUnavailable, Rhythm
from telemetry.page import Page
from telemetry.snapshot import Reading, Source

SAME_POWER_S = 30.0  # a figure that stands so long is taken once more: power can be constant


@dataclass(slots=True)
class _Device:
    """One device's bridge, and the latest power that was new."""

    bridge: Bridge
    power_w: float | None = None
    power_at_s: float = float("-inf")

    def observe(self, now: Told, at_s: float) -> Source:
        self.bridge.observe(now.counter_uj, self._fresh(now.power_w, at_s), at_s)
        return now.source if self.bridge.source is Source.COUNTER else self.bridge.source

    def _fresh(self, power_w: float | None, at_s: float) -> float | None:
        """Exporters look every 10 to 30 s: the same figure again is the same look at the device, not another."""
        if power_w is None or (power_w == self.power_w and at_s - self.power_at_s < SAME_POWER_S):
            return None
        self.power_w, self.power_at_s = power_w, at_s
        return power_w


class PrometheusMeter:
    """Knows by itself which exporter it talks to. Exporters are slow: steps are known to a second, and come seldom."""

    rhythm = Rhythm(poll_s=1.0, frozen_after_s=90.0)

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
        """Nothing is asked yet; the exporter need not run.

        Args:
            url: of the exposition, as `http://host:9400/metrics`.
            devices: their names; None is all.
            key: shown as a bearer token; empty shows none.
            ca_file: certificates to trust instead of the system's.
            timeout_s: longest wait.
            clock: monotonic seconds.

        Raises:
            MeterUnavailable: the URL is none, or the certificates cannot be read.
        """
        self._page = Page(url, key=key, ca_file=ca_file, timeout_s=timeout_s, clock=clock)
        self._names = tuple(devices or ())
        self._devices: dict[str, _Device] = {}

    def read(self) -> Sequence[Reading]:
        answer = self._page.get()
        if answer.status != 200:
            raise MeterUnavailable(f"no metrics at {self._page.url}: status {answer.status}")
        found = [one for one in told(self._samples(answer.body)) if not self._names or one.device in self._names]
        if not found:
            raise MeterUnavailable(f"no energy of {', '.join(self._names) or 'any device'} at {self._page.url}")
        return list(self._readings(found, answer.at_s))

    def close(self) -> None:
        self._page.close()

    def _readings(self, found: list[Told], at_s: float) -> Iterator[Reading]:
        for one in found:
            device = self._devices.get(one.device)
            if device is None:
                device = self._devices[one.device] = _Device(Bridge(one.device, self.rhythm.frozen_after_s))
            source, bridge = device.observe(one, at_s), device.bridge
            yield Reading(one.device, bridge.energy_uj, at_s, source, one.hardware, integral_uj=bridge.integral_uj)

    def _samples(self, body: bytes) -> Iterator[Sample]:
        """Of the lines that matter alone: Kepler has one for each process of the node."""
        lines = [line for line in body.decode(errors="replace").splitlines() if line.startswith(NAMES)]
        try:
            for family in text_string_to_metric_families("\n".join(lines) + "\n"):
                for sample in family.samples:
                    if math.isfinite(sample.value):
                        yield Sample(sample.name, sample.labels, sample.value)
        except ValueError as error:
            raise MeterUnavailable(f"no metrics at {self._page.url}: {error}") from error
