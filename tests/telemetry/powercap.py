"""A folder as Linux shows RAPL: two packages with their parts, and the board."""

from __future__ import annotations

from pathlib import Path

RANGE_UJ = 262_143_328_850


def powercap(root: Path) -> Path:
    zones = {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "dram",
        "intel-rapl:1": "package-1",
        "intel-rapl:1:0": "uncore",
        "intel-rapl:1:1": "dram",
        "intel-rapl:2": "psys",
        "intel-rapl-mmio:0": "package-0",
    }
    for number, (folder, name) in enumerate(zones.items()):
        (root / folder).mkdir(parents=True)
        (root / folder / "name").write_text(f"{name}\n")
        (root / folder / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
        count(root, folder, 1_000 * (number + 1))
    return root


def count(root: Path, folder: str, energy_uj: int) -> None:
    (root / folder / "energy_uj").write_text(f"{energy_uj}\n")
