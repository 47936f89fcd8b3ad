"""A whole experiment on simulated engines: span against straight through, a guardrail that trips, a proxy that is killed."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bench.processes import Child, engine, running
from tests.end_to_end.paceline import Running, paceline
from tests.end_to_end.test_running import generate

PASSTHROUGH = {"policy": {"name": "passthrough"}}
SPAN = {"policy": {"name": "span"}}
NO_GUARDRAILS = {"ttft_p95": None, "tpot_p95": None, "wait_p99_s": None, "errors": None, "late": None}


def experiment(name: str = "try", **changes: Any) -> dict[str, Any]:
    """Short blocks, so that a test is over soon."""
    lengths = {"block_s": 2.0, "burn_in_s": 0.6, "pairs": 2, "seed": 1}
    return {"name": name, "control": PASSTHROUGH, "treatment": SPAN, **lengths, "guardrails": NO_GUARDRAILS, **changes}


@asynccontextmanager
async def load(url: str, per_s: float = 12.0, slack: str = "0.5") -> AsyncIterator[list[str]]:
    """Requests at random instants for as long as the block runs; yields the ids of those that were answered."""
    random, ids = Random(3), list[str]()
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:

        async def one() -> None:
            answer = await client.post("/generate", json=generate(24), headers={"x-paceline-max-hold": slack})
            assert answer.status_code == 200
            ids.append(answer.headers["x-paceline-request-id"])

        async def many() -> None:
            async with asyncio.TaskGroup() as group:
                while not enough.is_set():
                    group.create_task(one())
                    await asyncio.sleep(random.expovariate(per_s))

        enough = asyncio.Event()
        sending = asyncio.create_task(many())
        try:
            yield ids
        finally:
            enough.set()
            await sending


async def until(admin: httpx.AsyncClient, name: str, state: str, within_s: float = 30.0) -> dict[str, Any]:
    async with asyncio.timeout(within_s):
        while True:
            told = (await admin.get(f"/experiments/{name}")).json()
            if told["state"] == state:
                return dict(told)
            assert told["state"] == "running", told
            await asyncio.sleep(0.1)


async def log_of(admin: httpx.AsyncClient, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (await admin.get(f"/experiments/{name}/log")).text.splitlines()]


def sums(running: Running, name: str, ids: list[str]) -> dict[str, int]:
    """Requests by arm, as the ledger has them."""
    entries = [running.app.ledger.get(id) for id in ids]
    arms = [entry.arm for entry in entries if entry is not None and entry.experiment == name]
    return {arm: arms.count(arm) for arm in set(arms)}


async def test_span_against_straight_through_is_told_block_by_block(tmp_path: Path) -> None:
    flags = {"policy.name": "passthrough", "experiments.path": str(tmp_path)}
    async with paceline(**flags) as running, load(running.url) as ids:
        await asyncio.sleep(0.5)
        began = await running.admin.post("/experiments", json=experiment())
        assert began.status_code == 201, began.text
        assert (began.json()["state"], began.json()["now"]["arm"]) == ("running", "control")  # until the first block begins
        refused = await running.admin.put("/policy", json={"policy": {"name": "size", "params": {"n": 2}}})
        second = await running.admin.post("/experiments", json=experiment("other"))
        told = await until(running.admin, "try", "finished")
        metrics = (await running.admin.get("/metrics")).text
        log = await log_of(running.admin, "try")
        in_force = (await running.admin.get("/policy")).json()["policy"]["name"]
        await asyncio.sleep(0.3)
        arms = sums(running, "try", ids)
        policies = {(e.arm, e.policy) for id in ids if (e := running.app.ledger.get(id)) is not None and e.experiment}
    assert (refused.status_code, second.status_code) == (409, 409)
    assert "paceline ab stop try" in refused.json()["detail"]
    assert "experiment try runs on" in second.json()["detail"]
    assert in_force == "passthrough"  # control
    blocks = told["blocks"]
    assert [block["index"] for block in blocks] == [0, 1, 2, 3]
    assert all(block["complete"] for block in blocks), log
    assert [block["arm"] for block in blocks] in ([0, 1, 1, 0], [1, 0, 0, 1])
    assert all(block["source"] == "simulated" and block["energy_j"] > 0 and block["burn_in_j"] > 0 for block in blocks)
    assert all(block["errors"] == 0 and block["completed"] == block["requests"] > 5 for block in blocks)
    assert all(block["wait_p99_s"] is not None and block["ttft_p95_s"] is None for block in blocks)  # none streamed
    counted = {name: sum(b["requests"] for b in blocks if b["arm"] == arm) for arm, name in enumerate(("control", "treatment"))}
    assert counted == {arm: arms[arm] for arm in counted}
    assert sum(block["burn_in_requests"] for block in blocks) == arms["burn_in"]
    comparison = told["comparison"]
    assert comparison["effect"]["middle"] < -0.1
    assert {("control", "passthrough"), ("treatment", "span")} <= policies
    events = [line["event"] for line in log]
    assert events[0] == "started"
    assert events[-1] == "finished"
    assert len(log) == told["log_lines"]
    assert events.count("block_began") == events.count("block_ended") == 4
    families = {family.name: family for family in text_string_to_metric_families(metrics)}
    releases = families["paceline_release_count"].samples
    assert {sample.labels["paceline_policy"] for sample in releases} == {"passthrough", "span"}
    labels = [sample.labels for sample in families["paceline_queue_wait_seconds"].samples]
    assert {label.get("paceline_arm") for label in labels} >= {"control", "treatment", "burn_in"}
    assert {label.get("paceline_experiment") for label in labels if label.get("paceline_arm")} == {"try"}


async def test_joules_of_blocks_and_burn_ins_are_all_that_the_meter_counted() -> None:
    async with paceline(**{"policy.name": "passthrough"}) as running, load(running.url):
        await asyncio.sleep(0.5)
        asked = experiment("whole", pairs=1, treatment=PASSTHROUGH)
        began = (await running.admin.post("/experiments", json=asked)).json()
        offset_s = running.app.experiments.wall() - running.app.experiments.clock()
        told = await until(running.admin, "whole", "finished")
        since, until_s = told["design"]["began_unix_s"] - offset_s, told["blocks"][-1]["end_unix_s"] - offset_s
        counted = (await running.admin.get("/energy", params={"since_s": since, "until_s": until_s})).json()
    assert began["same_arms"]
    assert any(note.startswith("A/A") for note in began["notes"])
    assert any("ends with the process" in note for note in began["notes"])
    parts = sum(block["energy_j"] + block["burn_in_j"] for block in told["blocks"])
    assert parts == pytest.approx(counted["counted_j"], rel=1e-3)
    # who arrived in a block and ran on after it is charged in the next one's burn-in or part: never more than was counted
    assert all(0 <= block["carried_j"] < block["energy_j"] and block["boundary_j"] >= 0 for block in told["blocks"])


async def test_a_guardrail_trips_and_control_is_in_force(tmp_path: Path) -> None:
    flags = {"policy.name": "passthrough", "experiments.path": str(tmp_path)}
    asked = experiment("slow", pairs=20, guardrails={**NO_GUARDRAILS, "wait_p99_s": 0.02})
    async with paceline(**flags) as running, load(running.url):
        await asyncio.sleep(0.3)
        assert (await running.admin.post("/experiments", json=asked)).status_code == 201
        told = await until(running.admin, "slow", "tripped")
        in_force = (await running.admin.get("/policy")).json()["policy"]["name"]
        log = await log_of(running.admin, "slow")
        free = await running.admin.put("/policy", json={"policy": {"name": "span"}})
    assert in_force == "passthrough"
    assert free.status_code == 200
    assert told["comparison"]["tripped"] == ["wait_p99_s"]
    assert "control is in force" in told["why"]
    events = [line["event"] for line in log]
    assert events.index("guardrail_tripped") > events.index("block_began")
    assert events[-1] == "tripped"
    first = next(block["index"] for block in told["blocks"] if block["arm"] == 1)
    assert len(told["blocks"]) == first + 1, "at the end of the treatment's first block"


@asynccontextmanager
async def proxy(directory: Path, engine_url: str, *more: str) -> AsyncIterator[tuple[Child, str, httpx.AsyncClient]]:
    own = ("--host", "127.0.0.1", "--port", "0", "--admin-port", "0", "--policy", "passthrough")
    environ = {**os.environ, "PACELINE_EXPERIMENTS__PATH": str(directory)}
    async with running("serve", *own, "--upstream", engine_url, "--meter", "simulated", *more, environ=environ) as child:
        ready = await child.ready(r"paceline ready: data (\S+) admin (\S+)")
        async with httpx.AsyncClient(base_url=ready[2], trust_env=False, timeout=30) as admin:
            yield child, ready[1], admin


async def test_after_a_kill_the_experiment_goes_on_with_the_next_whole_block(tmp_path: Path) -> None:
    async with engine("--dialect", "tgi") as url:
        async with proxy(tmp_path, url) as (child, _, admin):
            assert (await admin.post("/experiments", json=experiment("long", pairs=4))).status_code == 201
            async with asyncio.timeout(20):
                while not (told := (await admin.get("/experiments/long")).json())["blocks"]:
                    await asyncio.sleep(0.05)
            child.process.kill()
            await child.process.wait()
        first = told["blocks"][0]
        async with proxy(tmp_path, url) as (_, data, admin), load(data):
            again = (await admin.get("/experiments/long")).json()
            assert (again["state"], again["restarts"], again["design"]) == ("running", 1, told["design"])
            finished = await until(admin, "long", "finished")
            log = await log_of(admin, "long")
    blocks = finished["blocks"]
    assert [block["index"] for block in blocks] == list(range(8))
    assert blocks[0] == first
    lost = [block["index"] for block in blocks if not block["complete"]]
    events = [line["event"] for line in log]
    assert lost
    assert lost == [line["block"] for line in log if line["event"] == "block_lost"]
    assert lost == list(range(lost[0], lost[-1] + 1))
    assert lost[-1] < 7
    assert events.count("restart_seen") == 1
    assert events[-1] == "finished"
    assert {line["pair"] for line in finished["comparison"]["lost"]} >= {index // 2 for index in lost}
