"""The RAPL meter over a real folder; the contract of all meters is in test_meters.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from telemetry import rapl
from telemetry.meter import MeterUnavailable
from telemetry.rapl import RaplMeter
from telemetry.snapshot import Hardware, Source
from tests.telemetry.powercap import RANGE_UJ, count, powercap


def test_packages_and_memory_and_nothing_twice(tmp_path: Path) -> None:
    readings = RaplMeter(root=powercap(tmp_path)).read()
    assert [(r.device, r.energy_uj, r.hardware) for r in readings] == [
        ("cpu:package-0", 1_000, Hardware.CPU),
        ("memory:package-0", 3_000, Hardware.MEMORY),
        ("cpu:package-1", 4_000, Hardware.CPU),
        ("memory:package-1", 6_000, Hardware.MEMORY),
    ]
    assert all(r.source is Source.COUNTER and r.edge_s is not None for r in readings)


def test_a_container_reads_what_is_mounted_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in sysfs: links beside each other, to folders elsewhere; what the engine hides at the usual place is empty."""
    zones = powercap(tmp_path / "host/sys/devices/virtual/powercap")
    shown, hidden = tmp_path / "host/sys/class/powercap", tmp_path / "sys/class/powercap"
    for folder in (shown, hidden):
        folder.mkdir(parents=True)
    monkeypatch.setattr(rapl, "HOSTS", shown)
    monkeypatch.setattr(rapl, "POWERCAP", hidden)
    for zone in zones.iterdir():
        (shown / zone.name).symlink_to(f"../../devices/virtual/powercap/{zone.name}")
    assert len(RaplMeter().read()) == 4


def test_a_counter_goes_on_after_its_end(tmp_path: Path) -> None:
    root = powercap(tmp_path)
    meter = RaplMeter(["cpu:package-0"], root=root)
    told = []
    for energy_uj in (RANGE_UJ - 10, 5, 7, RANGE_UJ, 0):
        count(root, "intel-rapl:0", energy_uj)
        told.append(meter.read()[0].energy_uj)
    assert told == [RANGE_UJ - 10, RANGE_UJ + 5, RANGE_UJ + 7, 2 * RANGE_UJ, 2 * RANGE_UJ]


def test_one_zone_that_fails_does_not_hide_the_others(tmp_path: Path) -> None:
    root = powercap(tmp_path)
    meter = RaplMeter(root=root)
    count(root, "intel-rapl:0", 0)
    (root / "intel-rapl:0" / "energy_uj").unlink()
    assert [r.device for r in meter.read()] == ["memory:package-0", "cpu:package-1", "memory:package-1"]


def test_what_may_not_be_read_says_how_it_could() -> None:
    with TemporaryDirectory() as folder, nobody(Path(folder)):
        root = powercap(Path(folder))
        for file in root.glob("*/energy_uj"):
            file.chmod(0)
        with pytest.raises(MeterUnavailable, match=r"intel-rapl:0/energy_uj: only root may read it"):
            RaplMeter(root=root)


@contextmanager
def nobody(folder: Path) -> Iterator[None]:
    """Root reads everything, so where we are root, we are somebody else for a moment, who owns the folder."""
    if os.geteuid():
        yield
        return
    os.chown(folder, 65534, 65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeterUnavailable, match=f"no CPU package under {tmp_path}"):
        RaplMeter(root=tmp_path)
    root = powercap(tmp_path)
    with pytest.raises(MeterUnavailable, match="no cpu:package-7 here, but cpu:package-0, cpu:package-1, memory"):
        RaplMeter(["cpu:package-7"], root=root)
    (root / "intel-rapl:0" / "energy_uj").write_text("nonsense")
    with pytest.raises(MeterUnavailable, match="holds 'nonsense', which is no number"):
        RaplMeter(["cpu:package-0"], root=root)
