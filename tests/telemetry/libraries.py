"""What stands for the vendors' libraries where their GPUs are missing: the few calls that the meters make, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


class NVMLError(Exception):
    """As the library's own."""


@dataclass(frozen=True)
class Process:
    pid: int


@dataclass(frozen=True)
class Utilization:
    gpu: int


@dataclass
class FakeNvml:
    """GPUs by UUID, each with a counter (millijoules) and power (milliwatts) that a test sets; None is not supported.

    Attributes:
        step_mj: each look at a counter moves it by so much.
        parts: MIG devices, and the GPU that each is a part of.
    """

    counters: dict[str, int | None] = field(default_factory=lambda: {"GPU-a": 1_000, "GPU-b": 2_000})
    powers: dict[str, int | None] = field(default_factory=dict)
    processes: dict[str, list[int]] = field(default_factory=dict)
    utilization: dict[str, int] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)
    step_mj: int = 10
    driver: bool = True
    open: bool = False
    NVMLError = NVMLError

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.driver:
            raise NVMLError("NVML Shared Library Not Found")
        self.open = True

    def nvmlShutdown(self) -> None:  # noqa: N802
        self._check()
        self.open = False

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.counters)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        try:
            return list(self.counters)[index]
        except IndexError:
            raise NVMLError("Invalid Argument") from None

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid not in self.counters and uuid not in self.parts:
            raise NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: str) -> str:  # noqa: N802
        return self.parts[handle]

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:  # noqa: N802
        if not self.parts:
            raise NVMLError("Not Supported")
        return [int(handle in self.parts.values())] * 2

    def nvmlDeviceGetUUID(self, handle: str) -> str:  # noqa: N802
        return handle

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        self._check()
        counter = self.counters[handle]
        if counter is None:
            raise NVMLError("Not Supported")
        self.counters[handle] = counter + self.step_mj
        return counter

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:  # noqa: N802
        self._check()
        power = self.powers.get(handle)
        if power is None:
            raise NVMLError("Not Supported")
        return power

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Utilization:  # noqa: N802
        self._check()
        if handle not in self.utilization:
            raise NVMLError("Not Supported")
        return Utilization(self.utilization[handle])

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Process]:  # noqa: N802
        return [Process(pid) for pid in self.processes.get(handle, [])]

    def nvmlDeviceGetMPSComputeRunningProcesses(self, handle: str) -> list[Process]:  # noqa: N802
        raise NVMLError("Not Supported")

    def _check(self) -> None:
        if not (self.driver and self.open):
            raise NVMLError("Uninitialized")


class AmdSmiException(Exception):
    """As the library's own."""


@dataclass
class FakeAmdsmi:
    """GPUs by UUID, each with what the energy call answers (None: it fails) and what the power call answers."""

    accumulators: dict[str, int | None] = field(default_factory=lambda: {"amd-a": 1_000_000, "amd-b": 2_000_000})
    powers: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    step: int = 1000
    key: str = "energy_accumulator"
    driver: bool = True
    open: bool = False
    AmdSmiException = AmdSmiException

    def amdsmi_init(self) -> None:
        if not self.driver:
            raise AmdSmiException("AMDSMI_STATUS_DRIVER_NOT_LOADED")
        self.open = True

    def amdsmi_shut_down(self) -> None:
        self.open = False

    def amdsmi_get_processor_handles(self) -> list[str]:
        return list(self.accumulators)

    def amdsmi_get_gpu_device_uuid(self, handle: str) -> str:
        return handle

    def amdsmi_get_energy_count(self, handle: str) -> dict[str, object]:
        counter = self.accumulators[handle]
        if counter is None:
            raise AmdSmiException("AMDSMI_STATUS_NOT_SUPPORTED")
        self.accumulators[handle] = counter + self.step
        return {self.key: counter, "counter_resolution": 15.3, "timestamp": 1}

    def amdsmi_get_power_info(self, handle: str) -> Mapping[str, object]:
        if handle not in self.powers:
            raise AmdSmiException("AMDSMI_STATUS_NOT_SUPPORTED")
        return self.powers[handle]


@dataclass
class Clock:
    """Stands still until it is moved."""

    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s
