"""A split in counterphase on two simulated engines: either arm at the same time, each side's joules only its own."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.ab.command import command
from bench.ab.folder import read
from bench.ab.page import page
from bench.engine import SimulatedServer
from policies.base import Waiting
from policies.sides import BOTH
from proxy.experiments.plan import Plan
from tests.end_to_end.paceline import Running, paceline
from tests.end_to_end.test_experiment import PASSTHROUGH, experiment, load, log_of, until
from tests.end_to_end.test_replicas import known
from tests.proxy.test_shared import Server

ARMS = ("control", "treatment")


def ab(*words: str) -> Any:
    """`paceline ab`, in this process."""
    return CliRunner().invoke(command, words, catch_exceptions=False)


async def start(running: Running, *words: str) -> Any:
    lengths = ("--block", "1.5", "--burn-in", "0.4", "--pairs", "2", "--seed", "1", "--no-forecast")
    guards = [f"--guardrail={name}=off" for name in ("ttft_p95", "tpot_p95", "errors", "late")]
    asked = (
        "start",
        "try",
        "--admin",
        running.admin_url,
        "--control",
        "passthrough",
        "--treatment",
        "span",
        *lengths,
        *guards,
        *words,
    )
    return await asyncio.to_thread(ab, *asked)


async def test_either_arm_at_the_same_time_each_on_its_own_side(tmp_path: Path) -> None:
    flags: dict[str, Any] = {"policy.name": "passthrough", "experiments.path": str(tmp_path)}
    async with paceline(engines=2, **flags) as running, load(running.url, per_s=24.0) as ids:
        await asyncio.sleep(0.3)
        began = await start(running, "--split")
        assert began.exit_code == 0, began.output
        offset_s = running.app.experiments.wall() - running.app.experiments.clock()
        told = await until(running.admin, "try", "finished")
        log = await log_of(running.admin, "try")
        windows = {block["start_unix_s"]: block["end_unix_s"] for block in told["blocks"]}
        first, last = min(windows) - offset_s, max(windows.values()) - offset_s
        assert running.app.energy is not None
        counted = {
            domain.upstreams[0]: part.counted_uj / 1e6
            for domain, _, account in running.app.energy.accounts()
            if (part := account.between(first, last)) is not None
        }
        entries = [entry for id in ids if (entry := running.app.ledger.get(id)) is not None and entry.experiment]
        in_force = (await running.admin.get("/policy")).json()["policy"]["name"]
    plan = Plan.of(told)
    assert plan.split is not None
    assert (plan.split.a, plan.split.b) == tuple((engine.url,) for engine in running.engines)
    assert in_force == "passthrough"
    blocks = told["blocks"]
    assert [block["index"] for block in blocks] == [0, 1, 2, 3]
    assert all(block["complete"] for block in blocks), ended(log)
    assert all(block["completed"] == block["requests"] > 0 for block in blocks), blocks
    for pair in (blocks[:2], blocks[2:]):
        assert len({block["start_unix_s"] for block in pair}) == 1, "at the same time"
        assert {block["arm"] for block in pair} == {0, 1}
    assert {(block["index"] % 2, block["arm"]) for block in blocks} == {(0, 0), (0, 1), (1, 0), (1, 1)}, "by turns"
    for side in BOTH:
        own = sum(b["energy_j"] + b["burn_in_j"] for b in blocks if b["index"] % 2 == side)
        theirs = counted[plan.split.servers(side)[0]]
        assert abs(own - theirs) < 0.01 * theirs, "what that side's meter counted, and nothing of the other's"
    for entry in entries:
        assert entry.server in plan.split.servers(side_of(plan, entry.id))
        block = plan.design.block_at(entry.arrived_unix_s, side_of(plan, entry.id))
        if entry.arm != "burn_in" and block is not None:
            assert entry.arm == ARMS[plan.design.arm_of(block)]
    policies = {(entry.arm, entry.policy) for entry in entries if entry.arm != "burn_in"}
    assert {("control", "passthrough"), ("treatment", "span")} <= policies
    assert (told["comparison"]["pairs"], told["comparison"]["lost"]) == (2, [])
    assert {check["name"]: check["holds"] for check in told["comparison"]["checks"]}["sides"] is True
    assert any("share one room" in note for note in told["notes"])
    assert {line["side"] for line in log if line["event"] == "block_began"} == {"A", "B"}
    document = await asyncio.to_thread(read, tmp_path, "try")
    assert document.sides == plan.split
    assert "Split in counterphase" in page(document)
    shown = (await asyncio.to_thread(ab, "report", "try", "--from", str(tmp_path))).output
    assert f"side A: {running.engines[0].url}" in shown
    assert "at the same time on separate servers" in shown


def ended(log: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """Of each block why it is not whole."""
    return [(line["block"]["index"], line.get("why", "")) for line in log if line["event"] == "block_ended"]


def side_of(plan: Plan, id: str) -> int:
    """Neither session nor tenant: by the request."""
    assert plan.split is not None
    return plan.split.side_of(Waiting(id, 0.0, 0.0, 1, 1))


async def test_where_the_sides_would_meet_no_split_begins() -> None:
    async with paceline(engines=2) as alone:
        urls = [engine.url for engine in alone.engines]
        one_server = [{"url": urls[0], "group": "g"}, urls[1]]
        together: dict[str, Any] = {"energy.domains": [{"devices": urls, "upstreams": urls}]}
        async with paceline(engines=0, upstreams=urls, **together) as running:
            shared = await start(running, "--split")
            listed = (await running.admin.get("/experiments")).json()
        async with paceline(engines=0, upstreams=one_server) as running:
            single = await start(running, "--split", "--group", "g")
        unknown = await start(alone, "--side", "http://nobody:1")
        everything = await start(alone, *(f"--side={url}" for url in urls))
    assert (shared.exit_code, single.exit_code, unknown.exit_code, everything.exit_code, listed) == (1, 1, 1, 1, [])
    assert "both sides are metered together" in shared.output
    assert "is the only server: a split needs two" in single.output
    assert f"there is no server http://nobody:1; there are {', '.join(urls)}" in unknown.output
    assert "leave some for the other side" in everything.output


async def test_who_goes_to_the_other_side_costs_the_block_and_nobody_a_request() -> None:
    """Side A's only server is gone for a while: its requests go to side B, and the window is left out."""
    asked = experiment("gone", split={"side": []}, pairs=2, treatment=PASSTHROUGH, block_s=1.5, burn_in_s=0.4)
    flags: dict[str, Any] = {"policy.name": "passthrough"}
    async with paceline(engines=2, **flags) as running, load(running.url, per_s=24.0) as ids:
        await asyncio.sleep(0.3)
        assert (await running.admin.post("/experiments", json=asked)).status_code == 201
        pool = running.app.fleet.default
        await asyncio.sleep(0.8)
        pool.pause(running.engines[0].url, 0.6)
        told = await until(running.admin, "gone", "finished")
        log = await log_of(running.admin, "gone")
    assert ids
    assert [block["energy_j"] is None for block in told["blocks"]] == [True, False, False, False]
    assert all(block["complete"] for block in told["blocks"]), "guardrails look at it all the same"
    assert [block["errors"] for block in told["blocks"]] == [0, 0, 0, 0]
    [why] = [why for _, why in ended(log) if why]
    assert "requests went to the other side's servers" in why
    assert [lost["pair"] for lost in told["comparison"]["lost"]] == [0]


@pytest.mark.long
async def test_two_proxies_have_the_same_sides_and_are_counted_together(tmp_path: Path) -> None:
    redis = Server(tmp_path)
    redis.start()
    try:
        async with AsyncExitStack() as stack:
            engines = [await stack.enter_async_context(SimulatedServer("tgi")) for _ in range(2)]
            flags: dict[str, Any] = {"upstreams": [engine.url for engine in engines], "policy.name": "passthrough"}
            flags |= {"shared.url": redis.url, "shared.every_s": 0.2, "shared.timeout_s": 0.3, "shared.lease_s": 1.5}
            a, b = [
                await stack.enter_async_context(paceline(engines=0, **(flags | {"shared.replica": name})))
                for name in ("a", "b")
            ]
            for one in (a, b):
                await stack.enter_async_context(load(one.url))
            began = await a.admin.post("/experiments", json=experiment(split={"side": [engines[1].url]}))
            assert began.status_code == 201, began.text
            await known(b.admin, "try")
            at_a, at_b = [await until(one.admin, "try", "finished") for one in (a, b)]
            async with asyncio.timeout(20):  # what one has told last the other hears a moment later
                while at_a["blocks"] != at_b["blocks"] or len(at_a["blocks"]) < 4:
                    await asyncio.sleep(0.2)
                    at_a, at_b = [(await one.admin.get("/experiments/try")).json() for one in (a, b)]
            log = await log_of(a.admin, "try")
    finally:
        redis.kill()
    assert at_a["split"] == at_b["split"] == {"a": [engines[1].url], "b": [engines[0].url]}
    assert all(block["complete"] and block["energy_j"] > 0 for block in at_a["blocks"]), ended(log)
    parts = [line["block"] for line in log if line["event"] == "block_ended"]
    assert len(parts) == 8
    for block in at_a["blocks"]:
        own = [part for part in parts if part["index"] == block["index"]]
        assert block["requests"] == sum(part["requests"] for part in own)
        assert block["energy_j"] in [part["energy_j"] for part in own], "once, not twice"
