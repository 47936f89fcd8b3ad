"""The load generator: arrival instants that no server moves, latencies from them, and joules or the reason for none."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from bench.arrivals import Load
from bench.bodies import Options
from bench.engine import SimulatedServer
from bench.open_loop import perform
from bench.processes import Child
from policies.base import Tier
from tests.end_to_end.paceline import paceline
from tests.serving import Seen, upstream

TINY = {"prompt_tokens": "8", "output_tokens": "4"}


async def test_a_server_that_stalls_does_not_move_the_arrivals() -> None:
    """Coordinated omission: one answer at a time, each 0.2 s, to arrivals every 0.05 s."""
    turn = asyncio.Lock()

    async def slow(seen: Seen, writer: asyncio.StreamWriter) -> None:
        async with turn:
            await asyncio.sleep(0.2)
        body = b'{"generated_text":"a"}'
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    plan = Load(arrivals="fixed", rate=20.0, requests=8, **TINY).plan()
    async with upstream(slow) as server:
        report = await perform(plan, Options(url=f"http://{server.address}", stream=False))
    assert report.completed == 8
    assert report.start_lag_s is not None
    assert report.start_lag_s.max < 0.1
    # the last came at 0.35 s and was answered at 1.6 s, though its answer took 0.2 s
    latency = report.latency["all"].e2e_s
    assert latency is not None
    assert latency.max > 1.1


@pytest.mark.parametrize("client", ["raw", "text-generation"])
@pytest.mark.parametrize("stream", [True, False])
async def test_joules_by_tier_from_the_admin_port(client: str, stream: bool) -> None:
    load = Load(rate=20.0, requests=12, tiers={Tier.FLEX: 0.5, Tier.INTERACTIVE: 0.5}, seed=3, **TINY)
    async with paceline() as running:
        await asyncio.sleep(0.5)
        options = Options(url=running.url, admin=running.admin_url, stream=stream, client=client, max_hold_s={Tier.FLEX: 0.3})
        report = await perform(load.plan(), options)
    assert (report.completed, report.failed) == (12, 0)
    assert report.output_tokens == 48
    energy = report.energy
    assert energy is not None
    assert energy.source == "simulated"
    assert energy.counted_j == pytest.approx(energy.requests_j + energy.idle_j + energy.unattributed_j)
    assert energy.j_per_request == pytest.approx(energy.counted_j / 12)
    assert report.strategy is not None
    assert report.strategy["policy"]["name"] == "span"
    assert (report.latency["all"].ttft_s is not None) == stream


async def test_failures_are_counted_by_kind_and_give_no_joules() -> None:
    async with SimulatedServer("tgi", max_concurrent=1) as server:
        plan = Load(arrivals="burst", requests=5, prompt_tokens="8", output_tokens="50").plan()
        report = await perform(plan, Options(url=server.url, stream=False))
    assert (report.completed, report.failed) == (1, 4)
    assert sum(report.errors.values()) == 4
    assert report.energy is None


async def test_the_command_writes_its_report_and_names_what_is_wrong(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    async with SimulatedServer("openai") as server:
        lengths = ("--prompt-tokens", "8", "--output-tokens", "4", "--requests", "3", "--rate", "30")
        load = await Child.start("load", "--url", server.url, "--dialect", "openai", "--out", str(out), *lengths)
        assert await load.finished(30) == 0
    assert json.loads(out.read_text())["completed"] == 3
    wrong = await Child.start("load", "--url", "http://127.0.0.1:9", "--prompt-tokens", "many", "--requests", "1")
    assert await wrong.finished(30) == 2
    assert "many" in wrong.output
