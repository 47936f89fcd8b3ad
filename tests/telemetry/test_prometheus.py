"""What the energy exporters tell, over a real server; the contract of all meters is in test_meters.py."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import pytest

from telemetry.meter import MeterUnavailable
from telemetry.prometheus import PrometheusMeter
from telemetry.snapshot import Hardware, Reading, Source
from tests.telemetry.libraries import Clock
from tests.telemetry.pages import pages

# as they were seen: dcgm-exporter 4 of a machine with a whole GPU and one that is split by MIG, and Kepler 0.11
DCGM = """# HELP DCGM_FI_DEV_POWER_USAGE Power draw (in W).
# TYPE DCGM_FI_DEV_POWER_USAGE gauge
DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-a",device="nvidia0",modelName="NVIDIA H200",Hostname="n"} 118.250000
DCGM_FI_DEV_POWER_USAGE{gpu="1",UUID="GPU-b",device="nvidia1",GPU_I_PROFILE="1g.18gb",GPU_I_ID="7",Hostname="n"} 90.5
# HELP DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION Total energy consumption since boot (in mJ).
# TYPE DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION counter
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0",UUID="GPU-a",device="nvidia0",modelName="NVIDIA H200",Hostname="n"} 15152422938
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="1",UUID="GPU-b",device="nvidia1",GPU_I_ID="7",Hostname="n"} 42
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="1",UUID="GPU-b",device="nvidia1",GPU_I_ID="8",Hostname="n"} 42
DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-a"} 33
"""
KEPLER = """# TYPE kepler_node_cpu_joules_total counter
kepler_node_cpu_joules_total{node_name="n",path="/sys/class/powercap/intel-rapl/intel-rapl:0",zone="package"} 2040.5
kepler_node_cpu_joules_total{node_name="n",path="/sys/class/powercap/intel-rapl/intel-rapl:1",zone="package"} 99
kepler_node_cpu_joules_total{node_name="n",path="/sys/class/powercap/intel-rapl/intel-rapl:0:0",zone="dram"} 7
kepler_node_cpu_joules_total{node_name="n",path="/sys/class/powercap/intel-rapl/intel-rapl:0:1",zone="core"} 1000
kepler_node_cpu_joules_total{node_name="n",path="/sys/class/powercap/intel-rapl/intel-rapl:2",zone="psys"} 9000
kepler_node_gpu_joules_total{gpu="0",gpu_uuid="GPU-a",node_name="n",vendor="nvidia"} 12
kepler_process_cpu_joules_total{pid="1",comm="a\\"b",zone="package"} 3
"""
PACELINE = """# TYPE hw_energy_joules_total counter
hw_energy_joules_total{energy_source="power_integral",hw_id="GPU-a",hw_type="gpu"} 1.5
hw_energy_joules_total{energy_source="counter",hw_id="cpu:package-0",hw_type="cpu"} 2e3
hw_energy_joules_total{hw_id="fan",hw_type="fan"} 2e3
"""


def read_once(url: str, devices: Sequence[str] | None = None, *, key: str = "") -> Sequence[Reading]:
    with closing(PrometheusMeter(url, devices, key=key)) as meter:
        return meter.read()


def test_a_dcgm_exporter() -> None:
    with pages(DCGM.encode()) as server:
        readings = read_once(server.url + "/metrics")
    assert [(r.device, r.energy_uj, r.source, r.hardware) for r in readings] == [
        ("GPU-a", 15_152_422_938_000, Source.COUNTER, Hardware.GPU),
        ("GPU-b", 42_000, Source.COUNTER, Hardware.GPU),
    ]
    assert server.paths == ["/metrics"]


def test_kepler_without_what_is_in_its_packages_already() -> None:
    with pages(KEPLER.encode()) as server:
        readings = read_once(server.url)
    assert [(r.device, r.energy_uj, r.source, r.hardware) for r in readings] == [
        ("GPU-a", 12_000_000, Source.POWER_INTEGRAL, Hardware.GPU),
        ("kepler:n/dram/intel-rapl:0:0", 7_000_000, Source.COUNTER, Hardware.MEMORY),
        ("kepler:n/package/intel-rapl:0", 2_040_500_000, Source.COUNTER, Hardware.CPU),
        ("kepler:n/package/intel-rapl:1", 99_000_000, Source.COUNTER, Hardware.CPU),
    ]


def test_another_paceline_keeps_its_sources() -> None:
    with pages(PACELINE.encode()) as server:
        readings = read_once(server.url)
    assert [(r.device, r.energy_uj, r.source, r.hardware) for r in readings] == [
        ("GPU-a", 1_500_000, Source.POWER_INTEGRAL, Hardware.GPU),
        ("cpu:package-0", 2_000_000_000, Source.COUNTER, Hardware.CPU),
    ]


def test_where_only_power_is_told_it_is_added_up_between_looks_of_the_exporter() -> None:
    clock = Clock()
    with pages() as server:
        meter = PrometheusMeter(server.url, clock=clock)
        told = []
        for second in range(61):
            power = 100.0 + 50 * (second // 30)  # the exporter looks every 30 s
            server.body = f'DCGM_FI_DEV_POWER_USAGE{{UUID="GPU-a"}} {power}\n'.encode()
            told.append(meter.read()[0])
            clock.now_s += 1.0
        meter.close()
    assert {r.source for r in told} == {Source.POWER_INTEGRAL}
    assert {r.energy_uj for r in told[:30]} == {0}
    assert told[30].energy_uj == 30 * 125_000_000
    assert told[60].energy_uj == 30 * 125_000_000 + 30 * 175_000_000


def test_an_exporter_that_starts_again_does_not_go_back() -> None:
    clock = Clock()
    with pages() as server:
        meter = PrometheusMeter(server.url, clock=clock)
        told = []
        for joules in (100, 110, 3, 5, 9):
            server.body = f'kepler_node_cpu_joules_total{{zone="package"}} {joules}\n'.encode()
            told.append(meter.read()[0].energy_uj / 1e6)
            clock.now_s += 1.0
        meter.close()
    assert told == [100, 110, 110, 110, 114]


def test_a_filter_and_a_key() -> None:
    with pages(DCGM.encode()) as server:
        server.key = "secret"
        assert [r.device for r in read_once(server.url, ["GPU-b"], key="secret")] == ["GPU-b"]
        with pytest.raises(MeterUnavailable, match=rf"no metrics at {server.url}: status 401"):
            read_once(server.url, key="other")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"go_threads 7\n", "no energy of any device at http"),
        (b"<html>hello</html>", "no energy of any device at http"),
        (b'hw_energy_joules_total{hw_id="GPU-a"', "no metrics at http"),
        (b'DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{UUID="GPU-a"} NaN\n', "no energy of any device"),
        (b"\xff\xfe\x00", "no energy of any device"),
    ],
)
def test_what_is_no_energy_exporter_is_told(body: bytes, said: str) -> None:
    with pages(body) as server:
        meter = PrometheusMeter(server.url)
        with pytest.raises(MeterUnavailable, match=said):
            meter.read()
        meter.close()
