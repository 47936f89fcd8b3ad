"""The live gain of a proxy at work, its shadows, and the advice that is had from it."""

from __future__ import annotations

import asyncio
import json
from random import Random
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from bench.advise.command import command
from policies.base import Waiting
from policies.simulate import Arrival, simulate
from policies.strategy import Choice, build
from proxy.reload import reload
from proxy.sources import load
from tests.end_to_end.paceline import Running, paceline
from tests.end_to_end.test_running import generate

SHADOWS = [
    {"name": "every-half", "policy": {"name": "window", "params": {"every_s": 0.5}}},
    {"name": "packed", "placement": {"name": "pack", "params": {"knee": 32}}},
]


async def load_it(running: Running, count: int = 40, over_s: float = 3.0, slack: str = "1.0", **headers: str) -> list[str]:
    """Ids of requests that came at random instants."""
    random = Random(7)
    async with httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=30) as client:

        async def one(after_s: float) -> str:
            await asyncio.sleep(after_s)
            answer = await client.post("/generate", json=generate(30), headers={"x-paceline-max-hold": slack, **headers})
            assert answer.status_code == 200
            return answer.headers["x-paceline-request-id"]

        return list(await asyncio.gather(*(one(random.uniform(0, over_s)) for _ in range(count))))


async def compared(running: Running, requests: int) -> dict[str, Any]:
    """What shadows say once so many requests have been compared with straight through."""
    for _ in range(200):
        told = (await running.admin.get("/shadow")).json()
        if told["gain"] is not None and told["gain"]["requests"] >= requests:
            return dict(told)
        await asyncio.sleep(0.05)
    raise AssertionError(f"never compared: {told}")


def by_name(told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in told["strategies"]}


def saved_by_the_simulator(running: Running, ids: list[str]) -> float:
    """Of the same arrivals, straight through less span."""
    entries = [running.app.ledger.get(id) for id in ids]
    arrivals = [
        Arrival(
            Waiting(e.id, e.arrived_at, e.arrived_at + (e.slack_s or 0.0), e.prompt_tokens, e.max_new_tokens), e.output_tokens
        )
        for e in entries
        if e is not None
    ]
    model, spread = running.app.config.step_model(), Choice("spread", {})
    straight, span = (simulate(arrivals, build(Choice(name, {}), spread), model) for name in ("passthrough", "span"))
    return sum(one.energy_j for one in straight.served.values()) - sum(one.energy_j for one in span.served.values())


async def test_the_gain_of_span_is_what_the_simulator_says_and_metrics_tell_it() -> None:
    async with paceline(**{"policy.name": "span", "shadow.strategies": SHADOWS}) as running:
        ids = await load_it(running)
        told = await compared(running, len(ids))
        expected_j = saved_by_the_simulator(running, ids)
        text = (await running.admin.get("/metrics")).text
    assert told["gain"]["saved_j"] == pytest.approx(expected_j, rel=0.15)
    assert told["gain"]["saved_share_of_active"] > 0.3
    assert told["gain"]["by_policy"] == {"span": told["gain"]["saved_j"]}
    assert (told["energy_source"], told["profile"]["built_in"], told["left_out"]) == ("modelled", True, 0)
    shadows = by_name(told)
    assert 0 < shadows["every-half"]["saved_j"] < told["gain"]["saved_j"]
    assert shadows["packed"]["saved_j"] == pytest.approx(0, abs=1e-6)  # there is one server
    assert shadows["straight"]["wait_s"]["p99"] == 0 < shadows["every-half"]["wait_s"]["p99"] < 0.51
    assert all(one["late"] == one["faults"] == 0 for one in shadows.values())
    families = {family.name: family for family in text_string_to_metric_families(text)}
    [saved] = families["paceline_energy_saved_joules"].samples
    assert saved.labels == {"paceline_policy": "span", "energy_source": "modelled"}
    assert saved.value == pytest.approx(told["gain"]["saved_j"])
    assert families["paceline_energy_saved_joules"].type == "gauge"  # as Prometheus has a sum that can fall
    named = {sample.labels["paceline_strategy"] for sample in families["paceline_shadow_energy_joules"].samples}
    assert named == {"straight", "as_run", "every-half", "packed"}


async def test_straight_through_saves_nothing() -> None:
    async with paceline(**{"policy.name": "passthrough"}) as running:
        ids = await load_it(running, 20, 2.0)
        gain = (await compared(running, len(ids)))["gain"]
    assert abs(gain["saved_share_of_active"]) < 0.02
    assert gain["by_policy"] == {"passthrough": gain["saved_j"]}


async def test_a_reload_changes_shadows_and_nobody_is_lost() -> None:
    async with paceline(**{"shadow.strategies": SHADOWS}) as running:
        ids = await load_it(running, 10, 0.5)
        await compared(running, len(ids))
        flags = {"energy.meter": "simulated", "upstreams": [engine.url for engine in running.engines]}
        reload(running.app, load(None, {}, {**flags, "shadow.strategies": SHADOWS[:1]}))
        ids += await load_it(running, 10, 0.5)
        told = await compared(running, len(ids))
    assert set(by_name(told)) == {"straight", "as_run", "every-half"}


async def test_the_latest_requests_are_told_as_the_ledgers_files_have_them() -> None:
    async with paceline() as running:
        ids = await load_it(running, 12, 0.3, slack="0.2")
        answer = await running.admin.get("/ledger", params={"limit": 10})
        wrong = await running.admin.get("/ledger", params={"limit": 0})
    records = [json.loads(line) for line in answer.text.splitlines()]
    assert len(records) == 10
    assert {record["id"] for record in records} <= set(ids)
    assert all(record["slack_s"] == pytest.approx(0.2) and record["sequences"] == 1 for record in records)
    assert all(record["max_new_tokens"] == record["output_tokens"] == 30 for record in records)
    assert wrong.status_code == 422


async def test_advice_is_had_from_a_running_proxy() -> None:
    async with paceline(engines=2, **{"policy.name": "span"}) as running:
        ids = await load_it(running, 60, 4.0)
        await compared(running, len(ids))
        asked = ["--admin", running.admin_url, "--json"]
        answer = await asyncio.to_thread(CliRunner().invoke, command, asked)
        nobody = await asyncio.to_thread(CliRunner().invoke, command, ["--admin", running.admin_url, "--group", "x"])
    assert answer.exit_code == 0, answer.output
    told = json.loads(answer.stdout)
    assert (told["servers"], told["advice"], told["energy_source"]) == (2, "none", "simulated")
    assert told["reasons"][0].startswith("too little to say")
    assert told["facts"][0].startswith("Live gain so far (modelled): ")
    saving = {row["lever"]: row["saving"]["share"] for row in told["levers"] if row["saving"] is not None}
    assert saving["grouping"] > 0.05
    assert (nobody.exit_code, "no group 'x'; it has default" in nobody.output) == (1, True)
