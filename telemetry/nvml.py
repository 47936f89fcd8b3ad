"""NVIDIA GPUs' own energy counters, by NVML; the only importer of pynvml."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pynvml

from telemetry.meter import MeterUnavailable
from telemetry.snapshot import Reading, Source


class NvmlMeter:
    """Reads `nvmlDeviceGetTotalEnergyConsumption`: millijoules since the driver was loaded, on Volta and later.

    The counter moves about every 100 ms. Devices are known by their UUIDs.
    """

    def __init__(self, devices: Sequence[str] | None = None, *, library: Any = pynvml) -> None:
        """Open the driver's library and the devices.

        Args:
            devices: indices or UUIDs; None is all.
            library: pynvml, or what stands for it.

        Raises:
            MeterUnavailable: no driver, no such device, or one without a counter.
        """
        self._nvml = library
        with self._errors("NVML"):
            library.nvmlInit()
            handles = list(self._handles(devices))
        self._devices: list[tuple[str, Any]] = []
        for name, handle in handles:
            with self._errors(f"GPU {name}"):
                library.nvmlDeviceGetTotalEnergyConsumption(handle)
                self._devices.append((_text(library.nvmlDeviceGetUUID(handle)), handle))

    def _handles(self, devices: Sequence[str] | None) -> Iterator[tuple[str, Any]]:
        names = devices or [str(index) for index in range(self._nvml.nvmlDeviceGetCount())]
        if not names:
            raise MeterUnavailable("NVML: the driver is there, but no GPU")
        for name in names:
            with self._errors(f"GPU {name}"):
                by_index = name.isdecimal()
                find = self._nvml.nvmlDeviceGetHandleByIndex if by_index else self._nvml.nvmlDeviceGetHandleByUUID
                yield name, find(int(name) if by_index else name)

    def read(self) -> Sequence[Reading]:
        readings = []
        for uuid, handle in self._devices:
            with self._errors(f"GPU {uuid}"):
                before = time.monotonic()
                energy_mj = self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
                readings.append(Reading(uuid, energy_mj * 1000, (before + time.monotonic()) / 2, Source.COUNTER))
        return readings

    def close(self) -> None:
        with self._errors("NVML"):
            self._nvml.nvmlShutdown()

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._nvml.NVMLError as error:
            raise MeterUnavailable(f"{what}: {error}") from error


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
