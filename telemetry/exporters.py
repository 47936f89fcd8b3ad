"""What the energy exporters tell and in which words: NVIDIA's DCGM exporter, Kepler, and another Paceline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from telemetry.snapshot import Hardware, Source

DCGM_ENERGY = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"  # mJ
DCGM_POWER = "DCGM_FI_DEV_POWER_USAGE"  # W
KEPLER_CPU = "kepler_node_cpu_joules_total"
KEPLER_GPU = "kepler_node_gpu_joules_total"
PACELINE = "hw_energy_joules_total"
NAMES = (DCGM_ENERGY, DCGM_POWER, KEPLER_CPU, KEPLER_GPU, PACELINE)


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of an exposition."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Told:
    """What an exporter tells of one device at one look.

    Attributes:
        counter_uj: None: it tells power only.
        source: of the counter.
    """

    device: str
    counter_uj: int | None
    power_w: float | None = None
    source: Source = Source.COUNTER
    hardware: Hardware = Hardware.GPU


def told(samples: Iterable[Sample]) -> list[Told]:
    """All devices in an exposition, each once, in a steady order."""
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        by_name.setdefault(sample.name, []).append(sample)
    found: dict[str, Told] = {}
    for one in (*_dcgm(by_name), *_kepler(by_name), *_paceline(by_name)):
        found.setdefault(one.device, one)
    return [found[device] for device in sorted(found)]


def _dcgm(by_name: Mapping[str, list[Sample]]) -> Iterator[Told]:
    """A GPU that is split by MIG is told once for each part, each time with the energy of the whole."""
    energy, power = (
        {device: max(sample.value for sample in same) for device, same in _by_label(by_name.get(name, []), "UUID").items()}
        for name in (DCGM_ENERGY, DCGM_POWER)
    )
    for device in energy.keys() | power.keys():
        yield Told(device, round(energy[device] * 1e3) if device in energy else None, power.get(device))


def _kepler(by_name: Mapping[str, list[Sample]]) -> Iterator[Told]:
    """Its CPU zones are RAPL's counters; for GPUs it adds up power by itself. Cores are in their package already."""
    kinds = {"package": Hardware.CPU, "dram": Hardware.MEMORY}
    for sample in by_name.get(KEPLER_CPU, []):
        zone = sample.labels.get("zone", "")
        if (hardware := kinds.get(zone.partition("-")[0])) is not None:
            where = (sample.labels.get("node_name", ""), zone, sample.labels.get("path", "").rpartition("/")[2])
            yield Told("kepler:" + "/".join(filter(None, where)), round(sample.value * 1e6), hardware=hardware)
    for sample in by_name.get(KEPLER_GPU, []):
        device = (
            sample.labels.get("gpu_uuid") or f"kepler:{sample.labels.get('node_name', '')}/gpu-{sample.labels.get('gpu', '')}"
        )
        yield Told(device, round(sample.value * 1e6), source=Source.POWER_INTEGRAL)


def _paceline(by_name: Mapping[str, list[Sample]]) -> Iterator[Told]:
    """It says by itself where its joules come from."""
    for sample in by_name.get(PACELINE, []):
        try:
            source, hardware = Source(sample.labels["energy_source"]), Hardware(sample.labels["hw_type"])
            yield Told(sample.labels["hw_id"], round(sample.value * 1e6), source=source, hardware=hardware)
        except (KeyError, ValueError):
            continue  # some other's metric of that name, which has its own words


def _by_label(samples: list[Sample], label: str) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        if device := sample.labels.get(label):
            found.setdefault(device, []).append(sample)
    return found
