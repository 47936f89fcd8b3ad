"""`paceline meter`: as a real process that a meter elsewhere reads, and who it lets in."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

import click
import httpx
import pytest

from bench.processes import Child, running
from proxy.meter import create_meter, read_key
from telemetry.feed import Feed
from telemetry.meter import MeterUnavailable
from telemetry.monitor import Steps
from telemetry.prometheus import PrometheusMeter
from telemetry.recording import as_json
from telemetry.remote import RemoteMeter
from telemetry.replay import ReplayMeter
from telemetry.snapshot import Hardware, Interval, Reading, Source
from tests.serving import served

STEPS, STEP_UJ = 100, 20_000_000


def recording(folder: Path) -> Path:
    """A GPU and a CPU that step every tenth of a second, as they were looked at ten times as often."""
    file = folder / "node.jsonl"
    with file.open("w") as lines:
        for n in range(STEPS * 10):
            at_s, energy_uj = 900.0 + n / 100, 10**12 + n // 10 * STEP_UJ
            for reading in (
                Reading("GPU-a", energy_uj, at_s, Source.COUNTER),
                Reading("cpu:package-0", energy_uj // 2, at_s, Source.COUNTER, Hardware.CPU, 0.001),
            ):
                lines.write(json.dumps(as_json(reading)) + "\n")
    return file


@asynccontextmanager
async def node(folder: Path, *options: str, key: str = "secret") -> AsyncIterator[tuple[Child, str]]:
    environ = os.environ | {"PACELINE_METER_KEY": key}
    meter = ("--meter", f"replay:{recording(folder)}", "--port", "0")
    async with running("meter", *meter, *options, environ=environ) as child:
        yield child, (await child.ready(r"paceline meter ready: (\S+)"))[1]


async def ended(*arguments: str) -> tuple[int, str]:
    child = await Child.start("meter", *arguments, environ={**os.environ, "PACELINE_METER_KEY": ""})
    return await child.finished(30), child.output


async def followed(meter: RemoteMeter) -> list[Interval]:
    """What a monitor makes of a meter that it looks at seldom: several steps come at once."""
    steps, found = Steps(10.0), list[Interval]()
    while len(found) < 10:
        found += steps.observe(await asyncio.to_thread(meter.read))
        await asyncio.sleep(0.3)
    return found


async def test_what_the_node_counted_arrives_whole_and_with_its_instants(tmp_path: Path) -> None:
    async with node(tmp_path) as (_, url):
        with closing(RemoteMeter(url, key="secret")) as meter:
            found = await followed(meter)
    gpu = [interval for interval in found if interval.device == "GPU-a"]
    assert {interval.source for interval in found} == {Source.REPLAYED}
    assert {interval.hardware for interval in found} == {Hardware.GPU, Hardware.CPU}
    assert gpu[-1].end_s - gpu[0].start_s == pytest.approx(0.1 * len(gpu), abs=0.02)
    assert sum(interval.energy_uj for interval in gpu) == STEP_UJ * len(gpu)


async def test_who_has_no_key_stays_out(tmp_path: Path) -> None:
    async with node(tmp_path) as (_, url):
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            for path in ("/readings", "/metrics"):
                for headers in ({}, {"authorization": "Bearer secre"}, {"authorization": "secret"}):
                    answer = await client.get(path, headers=headers)
                    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
                    assert "secret" not in answer.text
                assert (await client.get(path, headers={"authorization": "Bearer secret"})).status_code == 200
            assert (await client.get("/healthz")).json()["status"] == "ok"
        with closing(RemoteMeter(url, key="other")) as meter, pytest.raises(MeterUnavailable, match="wants another key"):
            await asyncio.to_thread(meter.read)


async def test_its_metrics_are_a_meter_as_well(tmp_path: Path) -> None:
    async with node(tmp_path, key="") as (_, url):
        readings: Sequence[Reading] = []
        with closing(PrometheusMeter(f"{url}/metrics")) as meter:
            while not readings:
                try:
                    readings = await asyncio.to_thread(meter.read)
                except MeterUnavailable:  # no step was seen yet
                    await asyncio.sleep(0.05)
    assert [(r.device, r.source, r.hardware) for r in readings] == [
        ("GPU-a", Source.REPLAYED, Hardware.GPU),
        ("cpu:package-0", Source.REPLAYED, Hardware.CPU),
    ]


async def test_a_term_signal_ends_it_and_what_it_read_is_on_the_disk(tmp_path: Path) -> None:
    async with node(tmp_path, "--record", str(tmp_path / "again.jsonl")) as (child, url):
        with closing(RemoteMeter(url, key="secret")) as meter:
            while not await asyncio.to_thread(meter.read):
                await asyncio.sleep(0.05)
        await child.stop()
        assert child.process.returncode == 0
    with closing(ReplayMeter(tmp_path / "again.jsonl")) as again:
        assert {r.device for r in again.read()} <= {"GPU-a", "cpu:package-0"}


async def test_what_it_refuses() -> None:
    status, text = await ended("--host", "0.0.0.0", "--port", "0")
    assert status == 2
    assert "give a key by --key-file or $PACELINE_METER_KEY, or say --open" in text
    status, text = await ended("--meter", "nvm")
    assert status == 2
    assert "there is no meter 'nvm': nvml, amd, rapl, auto or replay:FILE" in text
    status, text = await ended("--meter", "replay:/none")
    assert status == 1
    assert "the recording /none: No such file or directory" in text


async def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    async with node(tmp_path) as (_, url):
        status, text = await ended("--meter", f"replay:{recording(tmp_path)}", "--port", url.rpartition(":")[2])
    assert status == 1
    assert "cannot listen on 127.0.0.1:" in text


async def test_a_meter_that_cannot_be_read_is_told_by_its_health(tmp_path: Path) -> None:
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps(as_json(Reading("GPU-a", 1, 1.0, Source.COUNTER))) + "\n")
    feed = Feed([ReplayMeter(file)])
    async with (
        served(create_meter(feed)) as address,
        httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client,
    ):
        assert (await client.get("/healthz")).json() == {"status": "ok", "meters_read": True}
        feed.start()
        while (await client.get("/healthz")).json()["meters_read"]:
            await asyncio.sleep(0.01)
        assert (await client.get("/readings")).json()["readings"] == []
        await asyncio.to_thread(feed.stop)


def test_the_key_from_a_file_or_a_variable(tmp_path: Path) -> None:
    assert read_key(None, {}) == ""
    assert read_key(None, {"PACELINE_METER_KEY": "a\n"}) == "a"
    file = tmp_path / "key"
    file.write_text("b\n")
    assert read_key(file, {"PACELINE_METER_KEY": "a"}) == "b"
    file.write_text("\n")
    for bad in (file, tmp_path / "none"):
        with pytest.raises(click.UsageError, match=f"--key-file {bad}"):
            read_key(bad, {})
