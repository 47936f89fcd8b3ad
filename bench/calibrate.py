"""`paceline calibrate`: measures what a running server's steps cost in time and energy, and writes a profile of it."""

from __future__ import annotations

import asyncio
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from telemetry.amd import AmdMeter
from telemetry.meter import Meter, MeterUnavailable
from telemetry.nvml import NvmlMeter
from telemetry.simulated import SimulatedMeter

if TYPE_CHECKING:
    from bench.calibration.journal import Journal
    from bench.calibration.profile import Calibrated
    from bench.calibration.settings import Settings

METERS = ("nvml", "amd", "simulated")
SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
INTERRUPTED = 130


def seconds(context: click.Context, option: click.Parameter, value: str) -> float:
    """What 90, 90s, 4m or 1h says."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", value.strip())
    if found is None or float(found[1]) == 0:
        raise click.BadParameter(f"{value!r} is no duration: write it as 90s, 4m or 1h")
    return float(found[1]) * SECONDS[found[2]]


def create_meter(settings: Settings) -> Meter:
    """The meter of the server's devices.

    Raises:
        MeterUnavailable: it cannot be read here.
    """
    match settings.meter:
        case "nvml":
            return NvmlMeter(settings.devices or None)
        case "amd":
            return AmdMeter(settings.devices or None)
    return SimulatedMeter(settings.devices or (settings.url,))


@click.command("calibrate", short_help="measure a server's step model, write its profile")
@click.option("--url", default="", help="The server itself, not a proxy; nobody else may use it meanwhile.")
@click.option("--model", default="", help="What requests name. [the server's first]")
@click.option("--meter", type=click.Choice(METERS), default="nvml", show_default=True, help="What counts its joules.")
@click.option("--devices", default="", help="Of the server, by index or UUID, with commas. [all that the meter sees]")
@click.option(
    "--dialect", type=click.Choice(["auto", "tgi", "openai"]), default="auto", show_default=True, help="What the server speaks."
)
@click.option("--budget", "budget_s", callback=seconds, default="10m", show_default=True, help="Longest time to take.")
@click.option("--max-batch", type=click.IntRange(min=2), default=128, show_default=True, help="Largest batch to try.")
@click.option("--max-step-tokens", type=click.IntRange(min=1), default=8192, show_default=True, help="Of the server's steps.")
@click.option("--window", "window_s", callback=seconds, default="2.5s", show_default=True, help="Measured time of each run.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides the order of the runs.")
@click.option("--name", default="", help="Of the profile. [the model's]")
@click.option("--hardware", default="", help="What it runs on. [as the meter calls it]")
@click.option("--out", default="profile.json", show_default=True, metavar="FILE", help="Where the profile goes.")
@click.option("--plot", metavar="FILE", help="A picture of the fit, as PNG.")
@click.option("--journal", default="calibrate.jsonl", show_default=True, metavar="FILE", help="Goes on where it ended.")
@click.option("--refit", is_flag=True, help="Fit what is in the journal; no server is asked.")
def command(refit: bool, name: str, hardware: str, out: str, plot: str | None, journal: str, **given: Any) -> None:
    """Measure a running server and write the profile that attribution, policies and simulations read.

    Every run is in the journal as soon as it is over: the same command goes on after Ctrl-C, or adds repeats.
    """
    try:
        import numpy  # noqa: F401
    except ImportError as error:
        raise click.ClickException("calibrate needs numpy: pip install 'paceline[plot]'") from error
    from bench.calibration.journal import Journal, JournalError
    from bench.calibration.profile import calibrated, text
    from bench.calibration.telling import tell
    from telemetry.fit import FitError

    if not refit and not given["url"]:
        raise click.UsageError("--url says which server; or --refit takes what is in the journal")
    try:
        kept = Journal(Path(journal))
        if not refit:
            _sweep(kept, journal, given)
        done = calibrated(kept, name)
    except (JournalError, FitError) as error:
        raise click.ClickException(f"{error}; {journal} keeps every run that was made") from error
    told = hardware or done.hardware
    Path(out).write_text(text(done, shlex.join(["paceline", *sys.argv[1:]]), told))
    tell(done)
    click.echo(f"profile: {out}")
    if plot:
        _plot(done, told, Path(plot))


def _sweep(journal: Journal, path: str, given: dict[str, Any]) -> None:
    """Make the runs; what stops it is told, and what was done is kept."""
    from bench.calibration.asking import NotAnswered
    from bench.calibration.settings import Settings
    from bench.calibration.sweep import Gone, sweep
    from bench.calibration.telling import Screen

    devices = tuple(filter(None, (device.strip() for device in given.pop("devices").split(","))))
    settings = Settings(devices=devices, **given)
    with Screen() as screen:
        try:
            left_out = asyncio.run(sweep(settings, create_meter(settings), journal, screen.telling))
        except (NotAnswered, MeterUnavailable, Gone) as error:
            raise click.ClickException(f"{error}; {path} keeps the {len(journal.works())} runs that were made") from error
        except KeyboardInterrupt:
            screen.about(f"stopped; {path} keeps {len(journal.works())} runs, and the same command goes on")
            sys.exit(INTERRUPTED)
        if left_out:
            names = ", ".join(run.id for run in left_out if run.id.endswith("#1"))
            never = f": never made {names}" if names else ", all of them repeats"
            screen.about(f"no time was left for {len(left_out)} runs{never}; a larger --budget and this journal add them")


def _plot(done: Calibrated, hardware: str, out: Path) -> None:
    try:
        from bench.calibration.plot import plot_fit
    except ImportError as error:
        click.echo(f"no picture, {error.name} is missing: pip install 'paceline[plot]', then --refit", err=True)
        return
    plot_fit(done, hardware, out)
    click.echo(f"picture: {out}")


if __name__ == "__main__":
    command()
