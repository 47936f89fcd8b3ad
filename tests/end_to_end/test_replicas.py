"""Two proxies in front of one server run one experiment: the same arm at the same time, told together, whoever is killed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.processes import Child, engine, running
from tests.end_to_end.test_experiment import experiment, load, log_of, until
from tests.proxy.test_shared import Server

pytestmark = pytest.mark.slow  # blocks of an experiment between real processes, some seconds each
SHORT = {"block_s": 1.2, "burn_in_s": 0.4}


@asynccontextmanager
async def replica(
    name: str, redis: Server, url: str, folder: Path, more: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[Child, str, httpx.AsyncClient]]:
    own = ("--host", "127.0.0.1", "--port", "0", "--admin-port", "0", "--policy", "passthrough")
    shared = {"URL": redis.url, "REPLICA": name, "EVERY_S": "0.2", "TIMEOUT_S": "0.3", "LEASE_S": "1.5"}
    environ = {**os.environ, "PACELINE_EXPERIMENTS__PATH": str(folder / name)}
    environ |= {f"PACELINE_SHARED__{key}": value for key, value in shared.items()} | dict(more or {})
    async with running("serve", *own, "--upstream", url, "--meter", "simulated", environ=environ) as child:
        ready = await child.ready(r"paceline ready: data (\S+) admin (\S+)")
        async with httpx.AsyncClient(base_url=ready[2], trust_env=False, timeout=30) as admin:
            yield child, ready[1], admin


async def known(admin: httpx.AsyncClient, name: str) -> dict[str, Any]:
    """An experiment, once this replica has heard of it."""
    async with asyncio.timeout(20):
        while (answer := await admin.get(f"/experiments/{name}")).status_code != 200:
            await asyncio.sleep(0.05)
    return dict(answer.json())


@pytest.mark.long
async def test_two_proxies_rule_by_the_same_arms_and_are_counted_together(tmp_path: Path) -> None:
    redis = Server(tmp_path)
    redis.start()
    try:
        async with (
            engine("--dialect", "tgi") as url,
            replica("a", redis, url, tmp_path) as (_, a_url, a),
            replica("b", redis, url, tmp_path) as (_, b_url, b),
            load(a_url, 6.0) as a_ids,
            load(b_url, 6.0) as b_ids,
        ):
            began = await a.post("/experiments", json=experiment(pairs=2, **SHORT))
            assert began.status_code == 201, began.text
            assert (await known(b, "try"))["design"] == began.json()["design"]
            second = await b.post("/experiments", json=experiment("other"))
            at_a, at_b = await until(a, "try", "finished"), await until(b, "try", "finished")
            async with asyncio.timeout(20):  # what one has told last the other hears a moment later
                while at_a["blocks"] != at_b["blocks"] or len(at_a["blocks"]) < 4:
                    await asyncio.sleep(0.2)
                    at_a, at_b = [(await one.get("/experiments/try")).json() for one in (a, b)]
            log, status = await log_of(a, "try"), (await b.get("/status")).json()["shared"]
        answered = len(a_ids) + len(b_ids)
    finally:
        redis.kill()
    assert second.status_code == 409
    assert all(block["complete"] and block["energy_j"] > 0 for block in at_a["blocks"]), log
    ended = [line for line in log if line["event"] == "block_ended"]
    for block in at_a["blocks"]:
        parts = [line["block"] for line in ended if line["block"]["index"] == block["index"]]
        assert len(parts) == 2
        assert block["requests"] == sum(part["requests"] for part in parts)
        assert {part["arm"] for part in parts} == {block["arm"]}
        assert block["energy_j"] in [part["energy_j"] for part in parts], "once, not twice"
    assert 0 < sum(block["requests"] for block in at_a["blocks"]) < answered
    assert {line["replica"] for line in log} == {"a", "b"}
    assert (status["reachable"], status["replicas"], status["error"]) == (True, ["a", "b"], None)


async def test_redis_is_killed_and_the_experiment_goes_on_and_is_whole_in_the_end(tmp_path: Path) -> None:
    redis = Server(tmp_path)
    redis.start()
    try:
        async with (
            engine("--dialect", "tgi") as url,
            replica("a", redis, url, tmp_path) as (_, a_url, a),
            replica("b", redis, url, tmp_path) as (_, b_url, b),
            load(a_url, 6.0),
            load(b_url, 6.0),
        ):
            assert (await a.post("/experiments", json=experiment(pairs=3, **SHORT))).status_code == 201
            await known(b, "try")
            redis.kill()
            async with asyncio.timeout(30):  # two blocks later nobody has noticed anything
                while (now := (await b.get("/experiments/try")).json()["now"])["block"] != 3:
                    await asyncio.sleep(0.05)
            assert (await a.get("/experiments/try")).json()["now"]["arm"] == now["arm"]
            assert (await a.get("/status")).json()["shared"]["reachable"] is False
            redis.start()
            for one in (a, b):
                await until(one, "try", "finished")
            async with asyncio.timeout(20):
                while len({line["replica"] for line in await log_of(a, "try") if line["event"] == "finished"}) < 2:
                    await asyncio.sleep(0.2)
            told = (await a.get("/experiments/try")).json()
            whole = [block["index"] for block in told["blocks"] if block["complete"]]
    finally:
        redis.kill()
    assert whole == list(range(6))


@pytest.mark.long
async def test_a_replica_is_killed_and_the_other_ends_what_the_first_began(tmp_path: Path) -> None:
    redis = Server(tmp_path)
    redis.start()
    try:
        async with engine("--dialect", "tgi") as url, replica("b", redis, url, tmp_path) as (_, b_url, b), load(b_url, 8.0):
            async with replica("a", redis, url, tmp_path) as (child, _, a):
                assert (await a.post("/experiments", json=experiment(pairs=3, **SHORT))).status_code == 201
                await known(b, "try")
                async with asyncio.timeout(30):
                    while len((await b.get("/experiments/try")).json()["blocks"]) < 1:
                        await asyncio.sleep(0.05)
                child.process.kill()
                await child.process.wait()
            told = await until(b, "try", "finished")
            leads = (await b.get("/status")).json()["shared"]["leads"]
    finally:
        redis.kill()
    assert leads
    incomplete = [block["index"] for block in told["blocks"] if not block["complete"]]
    assert 1 <= len(incomplete) <= 2, "those in which it died, and no others"
    assert told["blocks"][-1]["complete"]


@pytest.mark.long
async def test_two_that_begin_the_same_by_configuration_begin_it_once(tmp_path: Path) -> None:
    redis = Server(tmp_path)
    redis.start()
    lengths = "block_s = 1.2, burn_in_s = 0.4, pairs = 1"
    begins = {"PACELINE_EXPERIMENT": f'{{ name = "conf", {lengths}, treatment = {{ policy = {{ name = "span" }} }} }}'}
    try:
        async with engine("--dialect", "tgi") as url, AsyncExitStack() as stack:
            both = [stack.enter_async_context(replica(name, redis, url, tmp_path, begins)) for name in "ab"]
            (_, _, a), (_, _, b) = await asyncio.gather(*both)
            async with asyncio.timeout(20):
                while (one := await known(a, "conf"))["design"] != (other := await known(b, "conf"))["design"]:
                    await asyncio.sleep(0.1)
            await until(a, "conf", "finished")
            await until(b, "conf", "finished")
    finally:
        redis.kill()
    assert one["state"] == other["state"] == "running", "its seed was drawn, by one of them, and both go by it from the start"
