"""The NVML meter over a fake of the few calls that it makes; a real GPU runs the same contract where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pynvml
import pytest

from telemetry.meter import Meter, MeterUnavailable
from telemetry.nvml import NvmlMeter
from telemetry.snapshot import Source


class NVMLError(Exception):
    """As the library's own."""


@dataclass
class FakeLibrary:
    """Two GPUs, one of which may have no counter."""

    counters: dict[str, int | None] = field(default_factory=lambda: {"GPU-a": 1_000, "GPU-b": 2_000})
    driver: bool = True
    open: bool = False
    NVMLError = NVMLError

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.driver:
            raise NVMLError("NVML Shared Library Not Found")
        self.open = True

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open = False

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.counters)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        try:
            return list(self.counters)[index]
        except IndexError:
            raise NVMLError("Invalid Argument") from None

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid not in self.counters:
            raise NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetUUID(self, handle: str) -> str:  # noqa: N802
        return handle

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        counter = self.counters[handle]
        if counter is None:
            raise NVMLError("Not Supported")
        self.counters[handle] = counter + 10
        return counter


def real() -> bool:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    return True


@pytest.fixture(params=["fake", "real"])
def meter(request: pytest.FixtureRequest) -> Iterator[Meter]:
    if request.param == "real" and not real():
        pytest.skip("no NVIDIA driver here")
    opened = NvmlMeter(library=FakeLibrary()) if request.param == "fake" else NvmlMeter()
    yield opened
    opened.close()


def test_contract(meter: Meter) -> None:
    first, second = meter.read(), meter.read()
    assert first
    assert [r.device for r in first] == [r.device for r in second]
    assert all(r.source is Source.COUNTER and r.energy_uj > 0 for r in first)
    assert all(
        after.energy_uj >= before.energy_uj and after.at_s > before.at_s for before, after in zip(first, second, strict=True)
    )


def test_devices_by_index_and_uuid_in_microjoules() -> None:
    readings = NvmlMeter(["1", "GPU-a"], library=FakeLibrary()).read()
    assert [(r.device, r.energy_uj) for r in readings] == [("GPU-b", 2_010_000), ("GPU-a", 1_010_000)]


@pytest.mark.parametrize(
    ("library", "devices", "said"),
    [
        (FakeLibrary(driver=False), None, "NVML: NVML Shared Library Not Found"),
        (FakeLibrary(counters={}), None, "no GPU"),
        (FakeLibrary(counters={"GPU-a": None}), None, "Not Supported"),
        (FakeLibrary(), ["7"], "GPU 7: Invalid Argument"),
        (FakeLibrary(), ["GPU-x"], "GPU GPU-x: Not Found"),
    ],
)
def test_what_cannot_be_read_is_named(library: FakeLibrary, devices: list[str] | None, said: str) -> None:
    with pytest.raises(MeterUnavailable, match=said):
        NvmlMeter(devices, library=library)
