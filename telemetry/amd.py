"""AMD GPUs' energy accumulators, by AMD SMI, which is an optional extra; the only importer of amdsmi."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from telemetry.integral import Bridge
from telemetry.meter import MeterUnavailable, Rhythm
from telemetry.snapshot import Reading

POWERS = ("socket_power", "current_socket_power", "average_socket_power")  # which of them is told depends on the GPU
COUNTERS = ("energy_accumulator", "power")  # the latter before ROCm 6.4


@dataclass(slots=True)
class _Gpu:
    """One device that is read."""

    device: str
    handle: Any
    bridge: Bridge


class AmdMeter:
    """Reads the accumulator times its resolution, and adds up power beside it, which stands in where that is stuck.

    It is stuck on some MI100 and MI210 (ROCm/amdsmi issue 38, rocm_smi_lib issue 180).
    """

    rhythm = Rhythm(poll_s=0.02, frozen_after_s=2.0)

    def __init__(
        self, devices: Sequence[str] | None = None, *, library: Any = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Open the library and the devices.

        Args:
            devices: indices or UUIDs; None is all.
            library: amdsmi, or what stands for it; None imports it.
            clock: monotonic seconds.

        Raises:
            MeterUnavailable: no library, no driver, no such device, or one that tells neither energy nor power.
        """
        self._amd, self._clock = library if library is not None else _library(), clock
        try:
            self._amd.amdsmi_init()
            handles = list(self._amd.amdsmi_get_processor_handles())
            found = [(str(self._amd.amdsmi_get_gpu_device_uuid(handle)), handle) for handle in handles]
        except self._amd.AmdSmiException as error:
            raise MeterUnavailable(f"AMD SMI: {error}") from error
        self._gpus = [_Gpu(uuid, handle, Bridge(f"GPU {uuid}")) for uuid, handle in _named(found, devices)]
        self.read()

    def read(self) -> Sequence[Reading]:
        readings, errors = [], []
        for gpu in self._gpus:
            try:
                readings.append(self._read(gpu))
            except self._amd.AmdSmiException as error:
                errors.append(f"GPU {gpu.device} tells neither energy nor power: {error}")
        if not readings:
            raise MeterUnavailable("; ".join(errors))
        return readings

    def close(self) -> None:
        try:
            self._amd.amdsmi_shut_down()
        except self._amd.AmdSmiException:
            return  # the driver may be gone

    def _read(self, gpu: _Gpu) -> Reading:
        before = self._clock()
        counter_uj = self._counter_uj(gpu.handle)
        at_s = (before + self._clock()) / 2
        try:
            power_w = _power_w(self._amd.amdsmi_get_power_info(gpu.handle))
        except self._amd.AmdSmiException:
            power_w = None
            if counter_uj is None:
                raise
        gpu.bridge.observe(counter_uj, power_w, at_s)
        return Reading(gpu.device, gpu.bridge.energy_uj, at_s, gpu.bridge.source, integral_uj=gpu.bridge.integral_uj)

    def _counter_uj(self, handle: Any) -> int | None:
        try:
            told: Mapping[str, Any] = self._amd.amdsmi_get_energy_count(handle)
        except self._amd.AmdSmiException:
            return None
        counter = next((told[key] for key in COUNTERS if key in told), None)
        return int(counter * told["counter_resolution"]) if counter is not None else None


def _library() -> Any:
    try:
        import amdsmi
    except Exception as error:  # without ROCm it raises KeyError or OSError
        raise MeterUnavailable(
            f"AMD SMI cannot be had ({type(error).__name__}: {error}): it wants ROCm, and `pip install paceline[amd]`"
        ) from error
    return amdsmi


def _named(found: list[tuple[str, Any]], devices: Sequence[str] | None) -> list[tuple[str, Any]]:
    if not found:
        raise MeterUnavailable("AMD SMI: the library is there, but no GPU")
    known = {str(index): gpu for index, gpu in enumerate(found)} | {gpu[0]: gpu for gpu in found}
    for name in devices or ():
        if name not in known:
            raise MeterUnavailable(f"AMD SMI: no GPU {name} here, but {', '.join(uuid for uuid, _ in found)}")
    return [known[name] for name in devices] if devices else found


def _power_w(told: Mapping[str, Any]) -> float | None:
    """The first that is a number: what a GPU does not tell is "N/A"."""
    return next((float(told[key]) for key in POWERS if isinstance(told.get(key), int | float)), None)
