"""Writes down what the devices' own counters and power say, apart from any proxy: `python -m bench.proof.recorder`."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import TextIO

import click

from bench.proof.companions import READY
from telemetry.meter import Meter, MeterUnavailable
from telemetry.nvml import NvmlMeter
from telemetry.simulated import SimulatedMeter

COLUMNS = ("at_s", "device", "energy_uj", "integral_uj", "source")
FLUSH_EVERY_S = 1.0


@click.command()
@click.option("--meter", type=click.Choice(["nvml", "simulated"]), required=True)
@click.option("--url", required=True, help="The simulated engine.")
@click.option("--poll", "poll_s", type=float, default=0.02, show_default=True, help="Seconds between looks.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A CSV file.")
def main(meter: str, url: str, poll_s: float, out: Path) -> None:
    """Look until standard input ends."""
    try:
        looked = NvmlMeter() if meter == "nvml" else SimulatedMeter([url])
        looked.read()
    except MeterUnavailable as error:
        print(error, flush=True)
        sys.exit(1)
    ended = threading.Event()
    threading.Thread(target=_listen, args=(ended,), daemon=True).start()
    with out.open("w") as file:
        print(",".join(COLUMNS), file=file)
        print(READY, flush=True)
        _record(looked, poll_s, file, ended)
    looked.close()


def _listen(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


def _record(meter: Meter, poll_s: float, file: TextIO, ended: threading.Event) -> None:
    """A look that fails is missing from the file, and the next one is taken."""
    next_at = flushed_at = time.monotonic()
    while not ended.wait(max(next_at - time.monotonic(), 0.0)):
        next_at = max(next_at + poll_s, time.monotonic())
        try:
            readings = meter.read()
        except MeterUnavailable as error:
            print(error, file=sys.stderr)
            continue
        for reading in readings:
            integral = "" if reading.integral_uj is None else reading.integral_uj
            print(f"{reading.at_s:.6f},{reading.device},{reading.energy_uj},{integral},{reading.source}", file=file)
        if next_at > flushed_at + FLUSH_EVERY_S:
            file.flush()
            flushed_at = next_at


if __name__ == "__main__":
    main()
