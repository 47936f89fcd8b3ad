"""The NVML meter's own ways, over a fake of the few calls that it makes; the contract of all meters is in test_meters.py."""

from __future__ import annotations

import pytest

from telemetry.meter import MeterUnavailable
from telemetry.nvml import NvmlMeter, compute_processes
from telemetry.snapshot import Reading, Source
from tests.telemetry.libraries import Clock, FakeNvml


def looks(meter: NvmlMeter, clock: Clock, seconds: float) -> list[Reading]:
    """The first device's readings, every 20 ms."""
    readings = []
    for _ in range(round(seconds / 0.02)):
        clock.now_s += 0.02
        readings.append(meter.read()[0])
    return readings


def test_devices_by_index_and_uuid_in_microjoules() -> None:
    readings = NvmlMeter(["1", "GPU-a"], library=FakeNvml()).read()
    assert [(r.device, r.energy_uj) for r in readings] == [("GPU-b", 2_010_000), ("GPU-a", 1_010_000)]
    assert all(r.source is Source.COUNTER and r.integral_uj is None for r in readings)


def test_power_is_added_up_beside_the_counter() -> None:
    clock = Clock()
    library = FakeNvml({"GPU-a": 5_000}, {"GPU-a": 200_000})
    latest = looks(NvmlMeter(library=library, clock=clock), clock, 1.0)[-1]
    assert latest.source is Source.COUNTER
    assert latest.integral_uj is not None
    assert 150_000_000 < latest.integral_uj <= 200_000_000


def test_without_a_counter_it_is_power_in_steps_of_a_tenth_of_a_second() -> None:
    clock = Clock()
    library = FakeNvml({"GPU-a": None}, {"GPU-a": 200_000})
    readings = looks(NvmlMeter(library=library, clock=clock), clock, 1.0)
    assert {r.source for r in readings} == {Source.POWER_INTEGRAL}
    assert 160_000_000 < readings[-1].energy_uj <= 200_000_000
    assert 7 <= len({r.energy_uj for r in readings}) <= 11


def test_whether_anybody_computes_is_told_where_the_driver_tells() -> None:
    clock, library = Clock(), FakeNvml(utilization={"GPU-a": 0})
    meter = NvmlMeter(library=library, clock=clock)
    seen = []
    for per_cent in (0, 4, 80, 0):
        library.utilization["GPU-a"] = per_cent
        clock.now_s += 0.11
        seen.append({reading.device: reading.busy for reading in meter.read()})
    assert [one["GPU-a"] for one in seen] == [False, False, True, False]
    assert {one["GPU-b"] for one in seen} == {None}


def test_a_frozen_counter_is_bridged() -> None:
    clock = Clock()
    library = FakeNvml({"GPU-a": 5_000}, {"GPU-a": 100_000}, step_mj=0)
    readings = looks(NvmlMeter(library=library, clock=clock), clock, 5.0)
    assert [r.source for r in readings[:90]] == [Source.COUNTER] * 90
    assert readings[-1].source is Source.POWER_INTEGRAL
    assert 475_000_000 < readings[-1].energy_uj - 5_000_000 <= 500_000_000


def test_a_gpu_that_fails_does_not_hide_the_other(caplog: pytest.LogCaptureFixture) -> None:
    library = FakeNvml()
    meter = NvmlMeter(library=library)
    library.counters["GPU-a"] = None
    assert [r.device for r in meter.read()] == ["GPU-b"]
    meter.read()
    assert [record.getMessage() for record in caplog.records] == [
        "GPU GPU-a tells neither energy nor power: Not Supported"
    ]  # once
    library.counters["GPU-a"] = 7_000
    assert [r.device for r in meter.read()] == ["GPU-a", "GPU-b"]


def test_of_all_gpus_one_that_tells_nothing_is_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    meter = NvmlMeter(library=FakeNvml({"GPU-a": None, "GPU-b": 1}))
    assert [r.device for r in meter.read()] == ["GPU-b"]
    assert "GPU GPU-a tells neither energy nor power" in caplog.text


def test_a_reloaded_driver_is_opened_again_and_nothing_goes_back() -> None:
    clock, library = Clock(), FakeNvml({"GPU-a": 50_000_000}, {"GPU-a": 100_000})
    meter = NvmlMeter(library=library, clock=clock)
    before = looks(meter, clock, 1.0)[-1]
    library.driver = False
    for _ in range(100):
        clock.now_s += 0.02
        with pytest.raises(MeterUnavailable):
            meter.read()
    library.driver, library.open = True, False
    library.counters["GPU-a"] = 3
    clock.now_s += 1.0
    with pytest.raises(MeterUnavailable):
        meter.read()
    after = looks(meter, clock, 0.1)
    assert after[0].energy_uj >= before.energy_uj
    # what was drawn meanwhile, three seconds of 100 W, is told by power
    assert after[-1].energy_uj - before.energy_uj == pytest.approx(300e6, rel=0.05)


def test_with_mig_the_whole_gpu_is_metered_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    library = FakeNvml(parts={"MIG-1": "GPU-a", "MIG-2": "GPU-a"})
    assert [r.device for r in NvmlMeter(["MIG-1", "MIG-2", "GPU-b"], library=library).read()] == ["GPU-a", "GPU-b"]
    assert [record.getMessage() for record in caplog.records] == [
        "GPU GPU-a is split by MIG, but tells energy for all of it only: all of it is metered"
    ]


@pytest.mark.parametrize(
    ("library", "devices", "said"),
    [
        (FakeNvml(driver=False), None, "NVML: NVML Shared Library Not Found"),
        (FakeNvml(counters={}), None, "no GPU"),
        (FakeNvml(counters={"GPU-a": None}), None, "GPU GPU-a tells neither energy nor power: Not Supported"),
        (FakeNvml(counters={"GPU-a": None, "GPU-b": 1}), ["GPU-b", "GPU-a"], "GPU GPU-a tells neither"),
        (FakeNvml(), ["7"], "GPU 7: Invalid Argument"),
        (FakeNvml(), ["GPU-x"], "GPU GPU-x: Not Found"),
    ],
)
def test_what_cannot_be_read_is_named(library: FakeNvml, devices: list[str] | None, said: str) -> None:
    with pytest.raises(MeterUnavailable, match=said):
        NvmlMeter(devices, library=library)


def test_who_computes_on_which_gpu() -> None:
    library = FakeNvml(processes={"GPU-b": [7, 8]})
    assert compute_processes(library) == {"GPU-a": frozenset(), "GPU-b": frozenset({7, 8})}
    assert not library.open
    with pytest.raises(MeterUnavailable, match="NVML: NVML Shared Library Not Found"):
        compute_processes(FakeNvml(driver=False))
