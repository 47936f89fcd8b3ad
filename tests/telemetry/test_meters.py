"""The contract of every meter, over fakes where hardware is missing and over the real thing where it is there."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path

import pytest

from bench.engine import SimulatedServer
from bench.processes import running
from telemetry.amd import AmdMeter
from telemetry.cost import Linear, StepModel
from telemetry.meter import Meter, MeterUnavailable, Rhythm
from telemetry.nvml import NvmlMeter
from telemetry.prometheus import PrometheusMeter
from telemetry.rapl import RaplMeter
from telemetry.recording import RecordingMeter, as_json
from telemetry.remote import RemoteMeter
from telemetry.replay import ReplayMeter
from telemetry.simulated import SimulatedMeter
from telemetry.snapshot import Hardware, Reading, Source
from tests.telemetry import powercap
from tests.telemetry.libraries import FakeAmdsmi, FakeNvml
from tests.telemetry.pages import pages

LOOKS_WITHIN_S = 10.0
QUICK = StepModel("quick", Linear(0.001, 0.0, 0.0, 0.0), Linear(2.0, 0.01, 0.01, 0.0), idle_power_w=100.0)
Stage = Callable[[Path], AbstractAsyncContextManager[Meter]]


# --- every meter, ready to be read -----------------------------------------------------------------------------------


def of(open_meter: Callable[[Path], Meter]) -> Stage:
    """A stage of a meter that needs nothing but itself; hardware that is missing is skipped, and says why."""

    @asynccontextmanager
    async def stage(folder: Path) -> AsyncIterator[Meter]:
        try:
            yield open_meter(folder)
        except MeterUnavailable as error:
            pytest.skip(str(error))

    return stage


def recording(folder: Path) -> Path:
    file = folder / "run.jsonl"
    at = (Reading("gpu", 10**12 + n * 10**6, 50 + n / 50, Source.COUNTER, Hardware.GPU, 0.001, n * 10**6) for n in range(500))
    file.write_text("".join(json.dumps(as_json(reading)) + "\n" for reading in at))
    return file


@dataclass
class CountingRapl:
    """RAPL over a real folder, in which somebody counts."""

    root: Path

    def __post_init__(self) -> None:
        self._meter = RaplMeter(root=powercap.powercap(self.root))
        self._counts = count(10_000, 500)

    @property
    def rhythm(self) -> Rhythm:
        return self._meter.rhythm

    def read(self) -> Sequence[Reading]:
        powercap.count(self.root, "intel-rapl:0", next(self._counts))
        return self._meter.read()

    def close(self) -> None:
        self._meter.close()


@contextmanager
def exporter(line: str) -> Iterator[str]:
    counts = count(1000, 3)
    with pages(lambda path: line.format(next(counts)).encode()) as server:
        yield server.url


def scraping(line: str) -> Stage:
    @asynccontextmanager
    async def stage(folder: Path) -> AsyncIterator[Meter]:
        with exporter(line) as url:
            yield PrometheusMeter(url)

    return stage


@asynccontextmanager
async def simulated(folder: Path) -> AsyncIterator[Meter]:
    async with SimulatedServer("tgi", QUICK, speed=50) as server:
        yield SimulatedMeter([server.url])


@asynccontextmanager
async def far(folder: Path) -> AsyncIterator[Meter]:
    """`paceline meter`, as a process."""
    async with running("meter", "--meter", f"replay:{recording(folder)}", "--port", "0") as child:
        ready = await child.ready(r"paceline meter ready: (\S+)")
        yield RemoteMeter(ready[1])


STAGES: dict[str, Stage] = {
    "nvml": of(lambda folder: NvmlMeter(library=FakeNvml())),
    "nvml without a counter": of(
        lambda folder: NvmlMeter(library=FakeNvml({"GPU-a": None}, {"GPU-a": 300_000}), clock=time.monotonic)
    ),
    "nvml, real": of(lambda folder: NvmlMeter()),
    "amd": of(lambda folder: AmdMeter(library=FakeAmdsmi())),
    "amd, real": of(lambda folder: AmdMeter()),
    "rapl": of(CountingRapl),
    "rapl, real": of(lambda folder: RaplMeter()),
    "dcgm": scraping('DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{gpu="0",UUID="GPU-a"}} {}\n'),
    "kepler": scraping('kepler_node_cpu_joules_total{{zone="package",path="/sys/a",node_name="n"}} {}\n'),
    "another paceline": scraping('hw_energy_joules_total{{hw_id="GPU-a",hw_type="gpu",energy_source="counter"}} {}\n'),
    "replay": of(lambda folder: ReplayMeter(recording(folder))),
    "recording": of(lambda folder: RecordingMeter(NvmlMeter(library=FakeNvml()), folder / "out.jsonl")),
    "simulated": simulated,
    "paceline meter": far,
}


@dataclass(frozen=True)
class Look:
    """What one read told, and when it was called and had answered."""

    called_s: float
    readings: Sequence[Reading]
    answered_s: float


async def look(meter: Meter) -> Look:
    called_s = time.monotonic()
    readings = await asyncio.to_thread(meter.read)  # it may block, as in the monitor's thread
    return Look(called_s, readings, time.monotonic())


async def looks(meter: Meter) -> list[Look]:
    """Until some device has been told four times."""
    found: list[Look] = []
    end_s = time.monotonic() + LOOKS_WITHIN_S
    while time.monotonic() < end_s:
        found.append(await look(meter))
        told = [reading.device for one in found for reading in one.readings]
        if told and max(map(told.count, told)) >= 4:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"hardly anything was told: {found}")


@pytest.mark.parametrize("name", STAGES)
async def test_contract(name: str, tmp_path: Path) -> None:
    async with STAGES[name](tmp_path) as meter:
        try:
            found = await looks(meter)
        finally:
            await asyncio.to_thread(meter.close)
        assert 0 < meter.rhythm.poll_s <= 1.0 < meter.rhythm.frozen_after_s
    assert all(reading.at_s <= one.answered_s for one in found for reading in one.readings)
    assert all(one.called_s <= r.at_s for one in found for r in one.readings if r.edge_s is None)
    for device in {reading.device for one in found for reading in one.readings}:
        is_one_device([reading for one in found for reading in one.readings if reading.device == device])


def is_one_device(readings: Sequence[Reading]) -> None:
    """Its numbers are whole, its words are known, and neither its energy nor its time goes back."""
    for reading in readings:
        assert isinstance(reading.energy_uj, int)
        assert reading.energy_uj >= 0
        assert isinstance(reading.integral_uj, int | None)
        assert isinstance(reading.source, Source)
        assert reading.device
        assert reading.edge_s is None or reading.edge_s >= 0
    assert len({reading.hardware for reading in readings}) == 1
    for before, after in pairwise(readings):
        assert after.energy_uj >= before.energy_uj
        assert after.at_s >= before.at_s
        assert (after.integral_uj or 0) >= (before.integral_uj or 0)


# --- what cannot be reached ------------------------------------------------------------------------------------------

NOBODY = "http://127.0.0.1:9"
UNREACHABLE: dict[str, tuple[Callable[[Path], Meter], str]] = {
    "nvml": (lambda folder: NvmlMeter(library=FakeNvml(driver=False)), "NVML"),
    "nvml, a device": (lambda folder: NvmlMeter(["GPU-x"], library=FakeNvml()), "GPU GPU-x"),
    "amd": (lambda folder: AmdMeter(library=FakeAmdsmi(driver=False)), "AMD SMI"),
    "amd, a device": (lambda folder: AmdMeter(["9"], library=FakeAmdsmi()), "no GPU 9"),
    "rapl": (lambda folder: RaplMeter(root=folder / "none"), "/none"),
    "rapl, a device": (lambda folder: RaplMeter(["cpu:x"], root=powercap.powercap(folder)), "cpu:x"),
    "prometheus": (lambda folder: PrometheusMeter(NOBODY), NOBODY),
    "prometheus, no URL": (lambda folder: PrometheusMeter("dcgm:9400"), "'dcgm:9400' is no URL"),
    "prometheus, no port": (lambda folder: PrometheusMeter("http://dcgm:94000"), "'http://dcgm:94000' is no URL"),
    "replay": (lambda folder: ReplayMeter(folder / "none"), "/none"),
    "simulated": (lambda folder: SimulatedMeter([NOBODY]), NOBODY),
    "paceline meter": (lambda folder: RemoteMeter(NOBODY), NOBODY),
}


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("name", UNREACHABLE)
async def test_what_cannot_be_reached_is_named_however_often_it_is_tried(name: str, times: int, tmp_path: Path) -> None:
    open_meter, said = UNREACHABLE[name]
    with pytest.raises(MeterUnavailable, match=said):
        await opened_and_tried(open_meter, tmp_path, times)


async def opened_and_tried(open_meter: Callable[[Path], Meter], folder: Path, times: int) -> None:
    """Its last error is told; those before it are not."""
    meter = open_meter(folder)
    try:
        for _ in range(times - 1):
            with suppress(MeterUnavailable):
                await look(meter)
        await look(meter)
    finally:
        meter.close()
