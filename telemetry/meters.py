"""The meters that can be opened on this machine, by their names."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from telemetry.amd import AmdMeter
from telemetry.meter import Meter, MeterUnavailable
from telemetry.nvml import NvmlMeter
from telemetry.rapl import RaplMeter
from telemetry.replay import ReplayMeter

log = logging.getLogger("paceline.telemetry")

GPUS: dict[str, Callable[[Sequence[str] | None], Meter]] = {"nvml": NvmlMeter, "amd": AmdMeter}
HOST = ("cpu:", "memory:")  # how names of the host's devices begin
REPLAY = "replay:"


def known(name: str) -> bool:
    """Whether there is such a meter."""
    return name in (*GPUS, "rapl", "auto") or (name.startswith(REPLAY) and name != REPLAY)


def open_meters(names: Sequence[str], devices: Sequence[str] = ()) -> list[Meter]:
    """Open some meters; one that cannot be opened closes the others again.

    Args:
        names: "nvml", "amd", "rapl", "replay:FILE", or "auto" for the GPUs and the host, as far as they can be read.
        devices: those to read, each by the meter that it belongs to; none is all.

    Raises:
        MeterUnavailable: one of them cannot be read; for "auto", not one.
    """
    meters: list[Meter] = []
    try:
        for name in names:
            meters += _auto(devices) if name == "auto" else [_open(name, devices)]
    except MeterUnavailable:
        for meter in meters:
            meter.close()
        raise
    return meters


def _open(name: str, devices: Sequence[str]) -> Meter:
    if name.startswith(REPLAY):
        return ReplayMeter(Path(name.removeprefix(REPLAY)), devices or None)
    if name == "rapl":
        return RaplMeter([device for device in devices if device.startswith(HOST)] or None)
    return GPUS[name]([device for device in devices if not device.startswith(HOST)] or None)


def _auto(devices: Sequence[str]) -> list[Meter]:
    meters: list[Meter] = []
    errors = []
    for name in (*GPUS, "rapl"):
        if name == "amd" and meters:
            continue  # a machine has GPUs of one maker
        try:
            meters.append(_open(name, devices))
        except MeterUnavailable as error:
            errors.append(str(error))
    if not meters:
        raise MeterUnavailable("; ".join(errors))
    for message in errors:
        log.info("%s", message)
    return meters
