"""The meter of simulated engines: reads each one's energy counter over HTTP, as NVML is read from a driver."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

from telemetry.meter import MeterUnavailable
from telemetry.snapshot import Reading, Source

COUNTER = "/simulator/energy"


class SimulatedMeter:
    """One device per engine, called after its address. An engine that does not answer is left out of a reading."""

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
    """One engine's counter, over a connection that is kept."""

    def __init__(self, url: str, timeout_s: float) -> None:
        address = urlsplit(url)
        self._url = url
        self._device = f"sim:{address.netloc}"
        self._connection = HTTPConnection(address.hostname or "", address.port or 80, timeout=timeout_s)

    def read(self) -> Reading:
        kept = self._connection.sock is not None
        try:
            return self._ask()
        except (OSError, HTTPException) as error:
            self.close()
            if not kept or isinstance(error, TimeoutError):
                raise self._unavailable(error) from error
        try:
            return self._ask()  # the engine had closed a connection that was idle, or came back
        except (OSError, HTTPException) as error:
            self.close()
            raise self._unavailable(error) from error

    def close(self) -> None:
        self._connection.close()

    def _ask(self) -> Reading:
        before = time.monotonic()
        self._connection.request("GET", COUNTER)
        answer = self._connection.getresponse()
        body = answer.read()
        after = time.monotonic()
        if answer.status != 200:
            raise MeterUnavailable(f"no energy counter at {self._url}{COUNTER}: status {answer.status}, so no simulated engine")
        return Reading(self._device, self._energy_uj(body), (before + after) / 2, Source.SIMULATED)

    def _energy_uj(self, body: bytes) -> int:
        try:
            return int(json.loads(body)["energy_mj"]) * 1000
        except (ValueError, KeyError, TypeError) as error:
            raise MeterUnavailable(f"no energy counter at {self._url}{COUNTER}: it answers {body[:80]!r}") from error

    def _unavailable(self, error: Exception) -> MeterUnavailable:
        return MeterUnavailable(f"no answer from the simulated engine at {self._url}: {type(error).__name__}: {error}")
