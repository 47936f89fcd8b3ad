"""Measures what a sleeping server saves, and what sleep and waking cost: `python -m bench.sleep_cost --url URL --out FILE`.

The server is a vLLM, started with --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1, that nobody else uses. Its GPU's counter is
read directly. Each repeat is in the file as soon as it is over: the same command adds those that are missing.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from bench.studies.counting import counting
from bench.studies.intervals import Interval
from bench.studies.journal import write
from bench.studies.provenance import provenance
from bench.studies.sleeping import FIELDS, LEVEL, CannotSleep, Pauses, Sleeper, intervals, repeat, step_model
from telemetry.meter import Meter, MeterUnavailable
from telemetry.nvml import NvmlMeter
from telemetry.simulated import SimulatedMeter

CHANGES_S = 8.0  # what a repeat takes besides its pauses: sleep, waking and three requests
IDENTITY = ("study", "url", "model", "meter", "level", "devices", "pauses")


@click.command()
@click.option("--url", help="The server itself, not a proxy.")
@click.option("--model", default="m", show_default=True, help="What the server calls its model.")
@click.option("--meter", type=click.Choice(["nvml", "simulated"]), default="nvml", show_default=True)
@click.option("--devices", default="", help="Of the server, by index or UUID, with commas. [all that the meter sees]")
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True, help="That the file shall hold.")
@click.option("--rest-s", type=click.FloatRange(min=0), default=3.0, show_default=True, help="Before power is measured.")
@click.option("--window-s", type=click.FloatRange(min=0.2), default=5.0, show_default=True, help="In which power is measured.")
@click.option("--budget-s", type=click.FloatRange(min=1), default=540.0, show_default=True, help="Most time to take.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="JSON; goes on where it ended.")
@click.option("--report", type=click.Path(path_type=Path), metavar="FILE", help="Measure nothing: tell what it holds.")
def main(out: Path | None, report: Path | None, url: str | None, rest_s: float, window_s: float, **given: Any) -> None:
    """Sleep and wake a server some times, and tell seconds, watts and joules."""
    try:
        if report is not None:
            click.echo(table(_read(report)))
            return
        if out is None or url is None:
            raise click.UsageError("--url says which server and --out where numbers go; or --report FILE tells what it holds")
        study = begun(out, url, Pauses(rest_s=rest_s, window_s=window_s), **given)
        asyncio.run(measure(study, out, given["repeats"], time.monotonic() + given["budget_s"]))
    except (CannotSleep, MeterUnavailable) as error:
        raise click.ClickException(str(error)) from error
    click.echo(table(study))


def begun(out: Path, url: str, pauses: Pauses, *, model: str, meter: str, devices: str, **other: Any) -> dict[str, Any]:
    """What is measured, with the repeats that the file already holds.

    Raises:
        CannotSleep: they are of something else.
    """
    named = [name.strip() for name in devices.split(",") if name.strip()]
    study = {"study": "sleep_cost", "url": url.rstrip("/"), "model": model, "meter": meter, "level": LEVEL, "devices": named}
    study |= {"pauses": asdict(pauses), "repeats": [], "provenance": []}
    if not out.exists():
        return study
    held = _read(out)
    if other_than := [f"{key} was {held.get(key)!r}, is {study[key]!r}" for key in IDENTITY if held.get(key) != study[key]]:
        raise CannotSleep(f"{out} holds another measurement ({'; '.join(other_than)}); name another with --out")
    return held


async def measure(study: dict[str, Any], out: Path, repeats: int, ends_at_s: float) -> None:
    """The repeats that are missing and that there is time for, each on the disk as soon as it is over.

    Raises:
        CannotSleep, MeterUnavailable: it cannot be measured; what is over is kept.
    """
    pauses = Pauses(**study["pauses"])
    missing = repeats - len(study["repeats"])
    each_s = pauses.whole_s + CHANGES_S
    click.echo(f"{missing} repeats of about {each_s:.0f} s each, {missing * each_s:.0f} s in all")
    async with Sleeper(study["url"], study["model"]) as server, counting(_meter(study)) as counters:
        if await server.asleep():
            await server.wake()
        for _ in range(2):
            await server.ttft_s()  # the first ones compile
        for number in range(missing):
            began_s = time.monotonic()
            if began_s + each_s > ends_at_s:
                click.echo(f"no time is left for {missing - number} repeats; the same command makes them")
                break
            done = asdict(await repeat(server, counters, pauses))
            each_s = max(each_s, time.monotonic() - began_s)
            if number == 0:
                devices = list(counters.found)
                about = await asyncio.to_thread(provenance, "bench.sleep_cost", [study["url"]], study["meter"], devices)
                study["provenance"].append(about)
            _add(study, done, {str(of[-1].source) for of in counters.found.values()})
            write(out, study)
            click.echo(f"{number + 1}/{missing}: {brief(done)}")


def _add(study: dict[str, Any], done: dict[str, float], sources: set[str]) -> None:
    study["repeats"].append(done)
    study["sources"] = sorted({*study.get("sources", []), *sources})
    means = intervals(study["repeats"])
    study["summary"] = {name: asdict(interval) for name, interval in means.items()}
    study["step_model"] = step_model(means)


def _meter(study: dict[str, Any]) -> Meter:
    if study["meter"] == "nvml":
        return NvmlMeter(study["devices"] or None)
    return SimulatedMeter(study["devices"] or (study["url"],))


def _read(path: Path) -> dict[str, Any]:
    try:
        study = json.loads(path.read_text())
        if study["study"] != "sleep_cost" or any(set(FIELDS) - set(of) for of in study["repeats"]):
            raise ValueError("another form")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotSleep(f"{path} holds no measurement of sleep ({type(error).__name__}: {error})") from error
    return dict(study)


def brief(done: dict[str, float]) -> str:
    """One line of progress."""
    return (
        f"{done['idle_power_w']:.0f} W awake, {done['sleep_power_w']:.0f} W asleep after {done['sleep_s']:.2f} s; "
        f"awake again after {done['wake_s']:.2f} s and {done['wake_j']:.0f} J; "
        f"first token {done['ttft_before_s'] * 1000:.0f} ms before, {done['ttft_after_s'] * 1000:.0f} ms after"
    )


UNITS = {"_w": "W", "_j": "J", "_s": "s"}


def table(study: dict[str, Any]) -> str:
    """Markdown: each number with its interval, and what comes of them."""
    if not study["repeats"]:
        return "no repeat is over yet"
    rows = ["| what | mean (95 %) | repeats |", "| --- | --- | --- |"]
    for name, of in study["summary"].items():
        interval = Interval(**of)
        rows.append(f"| {name} | {interval} {UNITS[name[-2:]]} | {interval.values} |")
    hardware = "; ".join(dict.fromkeys(about["hardware"] for about in study["provenance"]))
    head = f"Hardware: {hardware}. Joules are of source {', '.join(study['sources'])}. Sleep level {study['level']}."
    return "\n".join([head, "", *rows, "", f"step model: {json.dumps(study['step_model'])}"])


if __name__ == "__main__":
    main()
