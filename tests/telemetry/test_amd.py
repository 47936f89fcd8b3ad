"""The AMD meter's own ways, over a fake of the few calls that it makes; the contract of all meters is in test_meters.py."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from telemetry.amd import AmdMeter
from telemetry.meter import MeterUnavailable
from telemetry.snapshot import Source
from tests.telemetry.libraries import Clock, FakeAmdsmi


@pytest.mark.parametrize("key", ["energy_accumulator", "power"])
def test_the_accumulator_times_its_resolution(key: str) -> None:
    readings = AmdMeter(["1", "amd-a"], library=FakeAmdsmi(key=key)).read()
    assert [(r.device, r.energy_uj) for r in readings] == [("amd-b", 30_615_300), ("amd-a", 15_315_300)]
    assert {r.source for r in readings} == {Source.COUNTER}


@pytest.mark.parametrize(
    "told", [{"socket_power": 250}, {"socket_power": "N/A", "current_socket_power": "N/A", "average_socket_power": 250}]
)
def test_a_stuck_accumulator_is_bridged_by_power(told: dict[str, object]) -> None:
    clock = Clock()
    meter = AmdMeter(library=FakeAmdsmi({"amd-a": 1_000_000}, {"amd-a": told}, step=0), clock=clock)
    for _ in range(200):
        clock.now_s += 0.02
        reading = meter.read()[0]
    assert reading.source is Source.POWER_INTEGRAL
    assert reading.energy_uj - 15_300_000 == pytest.approx(1e9, rel=0.05)


def test_a_gpu_that_fails_does_not_hide_the_other() -> None:
    assert [r.device for r in AmdMeter(library=FakeAmdsmi({"amd-a": None, "amd-b": 1})).read()] == ["amd-b"]


@pytest.mark.parametrize(
    ("library", "devices", "said"),
    [
        (FakeAmdsmi(driver=False), None, "AMD SMI: AMDSMI_STATUS_DRIVER_NOT_LOADED"),
        (FakeAmdsmi({}), None, "no GPU"),
        (FakeAmdsmi({"amd-a": None}), None, "GPU amd-a tells neither energy nor power: AMDSMI_STATUS_NOT_SUPPORTED"),
        (FakeAmdsmi(), ["7"], "no GPU 7 here, but amd-a, amd-b"),
    ],
)
def test_what_cannot_be_read_is_named(library: FakeAmdsmi, devices: list[str] | None, said: str) -> None:
    with pytest.raises(MeterUnavailable, match=said):
        AmdMeter(devices, library=library)


@pytest.mark.skipif(find_spec("amdsmi") is not None, reason="amdsmi is installed here")
def test_without_the_library_it_says_what_to_install() -> None:
    with pytest.raises(MeterUnavailable, match=r"ModuleNotFoundError.*pip install paceline\[amd\]"):
        AmdMeter()
