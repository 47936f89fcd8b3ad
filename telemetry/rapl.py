"""CPU packages and their memory, by the energy counters that Linux shows of RAPL; AMD's CPUs are there by the same names."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from telemetry.meter import MeterUnavailable, Rhythm
from telemetry.snapshot import Hardware, Reading, Source

POWERCAP = Path("/sys/class/powercap")
# container engines hide /sys/devices/virtual/powercap since 2023, even a mount at that place; not one elsewhere
HOSTS = Path("/host/sys/class/powercap")
EDGE_S = 0.001  # the counter moves every millisecond, so each look is a step
HOW = (
    "only root may read it, since 2020 (CVE-2020-8694). Let this process's group read the energy_uj files, or give it "
    "CAP_DAC_READ_SEARCH; in a container, mount the host's below /host/sys"
)


@dataclass(slots=True)
class _Zone:
    """One counter, and its way around its end."""

    device: str
    hardware: Hardware
    file: Path
    range_uj: int
    seen_uj: int = 0
    wrapped_uj: int = 0  # all that its wraps add

    def read(self) -> int:
        """Cumulative microjoules.

        Raises:
            MeterUnavailable: the file cannot be read.
        """
        energy_uj = _number(self.file)
        if energy_uj < self.seen_uj:
            self.wrapped_uj += self.range_uj
        self.seen_uj = energy_uj
        return energy_uj + self.wrapped_uj


class RaplMeter:
    """One device for each package (`cpu:package-0`) and each package's memory (`memory:package-0`).

    Cores and uncore are in their package already; psys is of the whole board, and overlaps with all.
    """

    rhythm = Rhythm(poll_s=0.1, frozen_after_s=2.0)

    def __init__(
        self, devices: Sequence[str] | None = None, *, root: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Find the zones.

        Args:
            devices: their names; None is all.
            root: where Linux shows them; None: where the host's are mounted, below `/host`, else `/sys/class/powercap`.
            clock: monotonic seconds.

        Raises:
            MeterUnavailable: no such zone, or none that may be read.
        """
        self._clock = clock
        root = root or (HOSTS if HOSTS.is_dir() else POWERCAP)
        found = list(_zones(root))
        if not found:
            raise MeterUnavailable(f"RAPL: no CPU package under {root}; virtual machines seldom have one")
        names = {zone.device for zone in found}
        if missing := sorted(set(devices or ()) - names):
            raise MeterUnavailable(f"RAPL: no {', '.join(missing)} here, but {', '.join(sorted(names))}")
        self._zones = [zone for zone in found if not devices or zone.device in devices]
        self.read()

    def read(self) -> Sequence[Reading]:
        readings, errors = [], []
        for zone in self._zones:
            try:
                energy_uj = zone.read()
            except MeterUnavailable as error:
                errors.append(str(error))
            else:
                readings.append(Reading(zone.device, energy_uj, self._clock(), Source.COUNTER, zone.hardware, EDGE_S))
        if not readings:
            raise MeterUnavailable("; ".join(errors))
        return readings

    def close(self) -> None:
        """Nothing is held."""


def _zones(root: Path) -> Iterator[_Zone]:
    """Packages and their memory. `intel-rapl:0` is a package, `intel-rapl:0:1` one of its parts."""
    for folder in sorted(root.glob("intel-rapl:*")):
        parent = folder.name.rpartition(":")[0]
        name = _text(folder / "name")
        if name.startswith("package-"):
            yield _zone(folder, f"cpu:{name}", Hardware.CPU)
        elif name == "dram":
            yield _zone(folder, f"memory:{_text(root / parent / 'name')}", Hardware.MEMORY)


def _zone(folder: Path, device: str, hardware: Hardware) -> _Zone:
    return _Zone(device, hardware, folder / "energy_uj", _number(folder / "max_energy_range_uj"))


def _number(file: Path) -> int:
    text = _text(file)
    if not text.isdecimal():
        raise MeterUnavailable(f"RAPL: {file} holds {text[:20]!r}, which is no number")
    return int(text)


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except PermissionError as error:
        raise MeterUnavailable(f"RAPL: {file}: {HOW}") from error
    except OSError as error:
        raise MeterUnavailable(f"RAPL: {file}: {error.strerror}") from error
