"""The ledger's files of a real proxy process: whole after a drain, whole lines after a kill, and no word of a prompt."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bench.processes import Child, engine, running
from telemetry.records import COLUMNS

OWN = ("--host", "127.0.0.1", "--port", "0", "--admin-port", "0")
SECRET = "a-prompt-that-nobody-may-keep"


@asynccontextmanager
async def proxy(directory: Path, **settings: Any) -> AsyncIterator[tuple[Child, str, str]]:
    """`paceline serve` that keeps a ledger; the process, and the URLs of its ports."""
    told = {"path": directory, **settings}
    environ = {**os.environ, **{f"PACELINE_LEDGER__{key.upper()}": str(value) for key, value in told.items()}}
    environ |= {"PACELINE_ENERGY__CARBON__GRAMS_PER_KWH": "56.0", "PACELINE_ENERGY__CARBON__SOURCE": "the grid"}
    async with engine("--dialect", "tgi") as url:
        async with running("serve", *OWN, "--upstream", url, "--meter", "simulated", environ=environ) as child:
            ready = await child.ready(r"paceline ready: data (\S+) admin (\S+)")
            yield child, ready[1], ready[2]


async def ask(url: str, count: int = 1) -> list[str]:
    """Ids of finished requests."""
    body = {"inputs": SECRET, "parameters": {"max_new_tokens": 5}}
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        headers = {"authorization": f"Bearer {SECRET}", "x-secret": SECRET}
        answers = await asyncio.gather(*(client.post(f"{url}/generate", json=body, headers=headers) for _ in range(count)))
    assert {answer.status_code for answer in answers} == {200}
    return [answer.headers["x-paceline-request-id"] for answer in answers]


def files(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


def lines(directory: Path) -> list[dict[str, Any]]:
    """All that is in the files; a line that is no JSON is an error."""
    return [json.loads(line) for file in files(directory) for line in file.read_text().splitlines()]


async def until_written(directory: Path, count: int) -> list[dict[str, Any]]:
    for _ in range(500):
        if len(found := lines(directory)) >= count:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError("never written")


async def test_all_that_was_answered_is_on_the_disk_after_a_drain(tmp_path: Path) -> None:
    async with proxy(tmp_path) as (child, url, _):
        await asyncio.sleep(0.5)  # two steps of the counter
        ids = await ask(url, 20)
        child.process.send_signal(signal.SIGTERM)
        assert await child.finished(15) == 0
    found = lines(tmp_path)
    assert sorted(one["id"] for one in found) == sorted(ids)
    assert all(list(one) == [column.name for column in COLUMNS] for one in found)
    assert all(one["energy_final"] and one["energy_source"] == "simulated" and one["energy_active_j"] > 0 for one in found)
    assert all(one["carbon_g"] == pytest.approx(one["energy_active_j"] / 3.6e6 * 56) for one in found)
    assert SECRET not in "".join(file.read_text() for file in files(tmp_path))


async def test_after_a_kill_whole_lines_are_left_and_the_next_process_begins_anew(tmp_path: Path) -> None:
    async with proxy(tmp_path) as (child, url, _):
        ids = await ask(url, 5)
        await until_written(tmp_path, 5)
        os.kill(child.process.pid, signal.SIGKILL)
    [first] = files(tmp_path)
    with first.open("a") as torn:
        torn.write('{"id":"half a li')  # what a kill in the midst of a write may leave
    before = first.read_bytes()
    async with proxy(tmp_path) as (child, url, _):
        more = await ask(url, 2)
        child.process.send_signal(signal.SIGTERM)
        assert await child.finished(15) == 0
    assert first.read_bytes() == before
    [second] = set(files(tmp_path)) - {first}
    assert sorted(json.loads(line)["id"] for line in second.read_text().splitlines()) == sorted(more)
    assert sorted(json.loads(line)["id"] for line in before.splitlines()[:-1]) == sorted(ids)


async def test_a_lost_directory_stops_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    async with proxy(directory) as (child, url, admin):
        await ask(url)
        await until_written(directory, 1)
        shutil.rmtree(directory)
        directory.write_text("a file is in the way")
        lost = await ask(url, 3)
        await child.ready("the ledger cannot be written, and is tried again")
        directory.unlink()
        found = await until_written(directory, 3)
        assert sorted(one["id"] for one in found) == sorted(lost)
        async with httpx.AsyncClient(trust_env=False) as client:
            text = (await client.get(f"{admin}/metrics")).text
    [dropped] = [f for f in text_string_to_metric_families(text) if f.name.startswith("paceline_ledger_dropped")]
    assert [sample.value for sample in dropped.samples] == [0]


async def test_parquet_is_whole_after_a_drain(tmp_path: Path) -> None:
    async with proxy(tmp_path, format="parquet") as (child, url, _):
        ids = await ask(url, 4)
        child.process.send_signal(signal.SIGTERM)
        assert await child.finished(15) == 0
    [file] = files(tmp_path)
    rows = pq.read_table(file).to_pylist()
    assert sorted(row["id"] for row in rows) == sorted(ids)
    assert all(row["tenant"] == "" and row["output_tokens"] == 5 for row in rows)
