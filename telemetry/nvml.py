"""NVIDIA GPUs' own energy counters, by NVML, and which processes use them; the only importer of pynvml."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pynvml

from telemetry.integral import Bridge
from telemetry.meter import MeterUnavailable, Rhythm
from telemetry.snapshot import Reading

log = logging.getLogger("paceline.telemetry")

POWER_EVERY_S = 0.1  # asked for less often than the counter: it moves no faster
BUSY_PER_CENT = 5  # of the driver's latest sample, 1/6 to 1 s, in which a kernel ran; a desktop's own drawing is below
REOPEN_EVERY_S = 1.0


@dataclass(slots=True)
class _Gpu:
    """One device that is read."""

    uuid: str
    handle: Any
    bridge: Bridge
    power_at_s: float = float("-inf")
    lost: bool = False
    busy: bool | None = None


class NvmlMeter:
    """Reads `nvmlDeviceGetTotalEnergyConsumption`: millijoules since the driver was loaded, on Volta and later.

    The counter moves about every 100 ms. Beside it, `nvmlDeviceGetPowerUsage` is added up, and stands in where the counter
    fails. Devices are known by their UUIDs. With MIG, both are told for the whole GPU only, and so it is metered whole.
    """

    rhythm = Rhythm(poll_s=0.02, frozen_after_s=2.0)

    def __init__(
        self, devices: Sequence[str] | None = None, *, library: Any = pynvml, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Open the driver's library and the devices.

        Args:
            devices: indices, UUIDs, or UUIDs of MIG devices, which stand for the GPU that they are a part of; None is all.
            library: pynvml, or what stands for it.
            clock: monotonic seconds.

        Raises:
            MeterUnavailable: no driver, no such device, or one that tells neither energy nor power.
        """
        self._nvml, self._clock, self._names = library, clock, tuple(devices or ())
        self._gpus: dict[str, _Gpu] = {}
        self._opened_at_s = clock()
        self._open()

    def read(self) -> Sequence[Reading]:
        readings, errors = [], []
        for gpu in self._gpus.values():
            try:
                readings.append(self._read(gpu))
            except MeterUnavailable as error:
                errors.append(str(error))
                if not gpu.lost:
                    log.warning("%s", error)
                gpu.lost = True
            else:
                gpu.lost = False
        if not readings:
            self._reopen()
            raise MeterUnavailable("; ".join(errors))
        return readings

    def temperatures(self) -> dict[str, float]:
        """Degrees Celsius of each device that tells, by UUID. It may block, and any thread may ask."""
        found: dict[str, float] = {}
        for gpu in list(self._gpus.values()):
            with suppress(self._nvml.NVMLError):
                found[gpu.uuid] = float(self._nvml.nvmlDeviceGetTemperature(gpu.handle, self._nvml.NVML_TEMPERATURE_GPU))
        return found

    def close(self) -> None:
        with suppress(self._nvml.NVMLError):  # the driver may be gone
            self._nvml.nvmlShutdown()

    def _read(self, gpu: _Gpu) -> Reading:
        before = self._clock()
        counter_mj, error = self._ask(self._nvml.nvmlDeviceGetTotalEnergyConsumption, gpu.handle)
        at_s = (before + self._clock()) / 2
        power_mw = None
        if at_s - gpu.power_at_s >= POWER_EVERY_S or counter_mj is None:
            power_mw, _ = self._ask(self._nvml.nvmlDeviceGetPowerUsage, gpu.handle)
            gpu.power_at_s, gpu.busy = at_s, self._is_busy(gpu)
            if counter_mj is None and power_mw is None:
                raise MeterUnavailable(f"GPU {gpu.uuid} tells neither energy nor power: {error}")
        counter_uj = counter_mj * 1000 if counter_mj is not None else None
        gpu.bridge.observe(counter_uj, power_mw / 1000 if power_mw is not None else None, at_s)
        integral_uj = gpu.bridge.integral_uj
        return Reading(gpu.uuid, gpu.bridge.energy_uj, at_s, gpu.bridge.source, integral_uj=integral_uj, busy=gpu.busy)

    def _is_busy(self, gpu: _Gpu) -> bool | None:
        try:
            return int(self._nvml.nvmlDeviceGetUtilizationRates(gpu.handle).gpu) > BUSY_PER_CENT
        except self._nvml.NVMLError:  # MIG does not tell
            return None

    def _ask(self, call: Callable[[Any], int], handle: Any) -> tuple[int | None, str]:
        try:
            return call(handle), ""
        except self._nvml.NVMLError as error:
            return None, str(error)

    def _open(self) -> None:
        with _errors(self._nvml, "NVML"):
            self._nvml.nvmlInit()
            count = self._nvml.nvmlDeviceGetCount()
        if not count:
            raise MeterUnavailable("NVML: the driver is there, but no GPU")
        known, self._gpus, errors = self._gpus, {}, []
        for name in self._names or map(str, range(count)):
            try:
                gpu = self._find(name, known)
                self._read(gpu)
            except MeterUnavailable as error:
                if self._names:  # it was asked for: without it the sum would be too small
                    raise
                errors.append(str(error))
            else:
                self._gpus[gpu.uuid] = gpu
        if not self._gpus:
            raise MeterUnavailable("; ".join(errors))
        for message in errors:
            log.warning("%s", message)

    def _reopen(self) -> None:
        """After a reload of the driver, former handles mean nothing. What was counted so far stays."""
        if self._clock() - self._opened_at_s < REOPEN_EVERY_S:
            return
        self._opened_at_s = self._clock()
        gpus = self._gpus
        self.close()
        try:
            self._open()
        except MeterUnavailable:
            self._gpus = gpus

    def _find(self, name: str, known: dict[str, _Gpu]) -> _Gpu:
        with _errors(self._nvml, f"GPU {name}"):
            by_index = name.isdecimal()
            find = self._nvml.nvmlDeviceGetHandleByIndex if by_index else self._nvml.nvmlDeviceGetHandleByUUID
            handle = find(int(name) if by_index else name)
            if name.startswith("MIG-"):
                handle = self._nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
            uuid = _text(self._nvml.nvmlDeviceGetUUID(handle))
        if uuid in known:
            return _Gpu(uuid, handle, known[uuid].bridge)
        if uuid not in self._gpus and self._is_split(handle):
            log.warning("GPU %s is split by MIG, but tells energy for all of it only: all of it is metered", uuid)
        return self._gpus.get(uuid) or _Gpu(uuid, handle, Bridge(f"GPU {uuid}", self.rhythm.frozen_after_s))

    def _is_split(self, handle: Any) -> bool:
        try:
            return bool(self._nvml.nvmlDeviceGetMigMode(handle)[0])
        except self._nvml.NVMLError:
            return False  # GPUs that have no MIG say that it is not supported


def compute_processes(library: Any = pynvml) -> dict[str, frozenset[int]]:
    """The processes that compute on each GPU, by its UUID, as far as the driver shows them here.

    Raises:
        MeterUnavailable: no driver.
    """
    with _errors(library, "NVML"):
        library.nvmlInit()
        try:
            handles = [library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())]
            return {_text(library.nvmlDeviceGetUUID(handle)): _pids(library, handle) for handle in handles}
        finally:
            library.nvmlShutdown()


def hardware(devices: Sequence[str], library: Any = pynvml) -> str:
    """What GPUs are called and which driver they have, by their UUIDs, in words.

    Raises:
        MeterUnavailable: no driver, or no such GPU.
    """
    try:
        library.nvmlInit()
        try:
            handles = [library.nvmlDeviceGetHandleByUUID(uuid) for uuid in devices]
            names = Counter(_text(library.nvmlDeviceGetName(handle)) for handle in handles)
            driver = _text(library.nvmlSystemGetDriverVersion())
        finally:
            library.nvmlShutdown()
    except library.NVMLError as error:
        raise MeterUnavailable(f"NVML: {error}") from error
    return ", ".join(f"{count} x {name}" for name, count in names.items()) + f", driver {driver}"


def _pids(library: Any, handle: Any) -> frozenset[int]:
    pids: set[int] = set()
    for processes in (library.nvmlDeviceGetComputeRunningProcesses, library.nvmlDeviceGetMPSComputeRunningProcesses):
        with suppress(library.NVMLError):  # this GPU does not tell, others may
            pids.update(process.pid for process in processes(handle))
    return frozenset(pids)


@contextmanager
def _errors(library: Any, what: str) -> Iterator[None]:
    try:
        yield
    except library.NVMLError as error:
        raise MeterUnavailable(f"{what}: {error}") from error


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
