"""`GET /usage`, carbon and price of a proxy at work: what they add up to is what the meters counted."""

from __future__ import annotations

import asyncio
from pathlib import Path
from threading import get_ident
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from proxy.reload import reload
from proxy.sources import ConfigError, load
from tests.end_to_end.paceline import Running, paceline
from tests.end_to_end.test_ledger_on_disk import lines
from tests.end_to_end.test_running import generate, send

CARBON = {"energy.carbon": {"grams_per_kwh": 360.0, "source": "the grid"}}
PRICE = {"energy.price": {"per_kwh": 0.36, "currency": "EUR", "source": "the contract"}}


async def usage(running: Running, by: str | None = None) -> dict[str, Any]:
    """Once nobody is open or settling."""
    for _ in range(300):
        told = (await running.admin.get("/usage", params={} if by is None else {"by": by})).json()
        if told["open"] == told["settling"] == 0:
            return dict(told)
        await asyncio.sleep(0.02)
    raise AssertionError(f"never settled: {told}")


async def test_all_groups_with_idle_and_unattributed_are_what_was_counted() -> None:
    async with paceline(**CARBON, **PRICE) as running:
        await asyncio.sleep(0.5)
        ids = await send(running, 5, generate(20))
        told = await usage(running)
        each = [await running.energy_of(id) for id in ids]
    [group], [domain] = told["groups"], told["energy"]
    [energy] = group["energy"]
    assert (group["requests"], group["completed"], group["output_tokens"], energy["requests"]) == (5, 5, 100, 5)
    assert energy["active_j"] == pytest.approx(sum(one["energy"]["active_j"] for one in each))
    total_j = energy["active_j"] + domain["idle"]["energy_j"] + domain["unattributed"]["energy_j"]
    assert total_j == pytest.approx(domain["counted_j"], abs=1e-6)
    assert energy["carbon"][0]["g"] == pytest.approx(sum(one["carbon"]["g"] for one in each))
    assert energy["carbon"][0]["g"] == pytest.approx(energy["active_j"] / 3.6e6 * 360)
    assert energy["price"][0]["amount"] == pytest.approx(energy["active_j"] / 3.6e6 * 0.36)
    assert each[0]["carbon"]["energy_source"] == energy["source"] == "simulated"
    # what is nobody's as well, but for what was counted before the first look
    assert domain["idle"]["carbon"][0]["of_j"] == pytest.approx(domain["idle"]["energy_j"])


async def test_totals_are_told_by_what_is_asked_for_and_nothing_else() -> None:
    async with paceline("openai", **{"energy.meter": "none"}) as running:
        async with httpx.AsyncClient(base_url=running.url, trust_env=False) as client:
            for model in ("x", "y", "x"):
                body = {"model": model, "prompt": "a b c", "max_tokens": 3}
                assert (await client.post("/v1/completions", json=body)).status_code == 200
        told = await usage(running, "model")
        assert [(g["model"], g["requests"], g["energy_unknown"], g["energy"]) for g in told["groups"]] == [
            ("x", 2, 2, []),
            ("y", 1, 1, []),
        ]
        assert (await usage(running))["by"] == ["tenant", "model", "policy", "tier"]
        assert len((await usage(running, ""))["groups"]) == 1
        wrong = await running.admin.get("/usage", params={"by": "model,prompt"})
    assert wrong.status_code == 422
    assert wrong.json() == {"detail": "by: prompt: no such key; they are tenant, model, policy, tier"}


async def test_the_last_requests_are_written_even_if_their_joules_cannot_be_waited_for(tmp_path: Path) -> None:
    """A meter that is looked at once a minute."""
    async with paceline(**{"ledger.path": str(tmp_path), "energy.poll_s": 60.0}) as running:
        [id] = await send(running, 1, generate(5))
        assert lines(tmp_path) == []
    [told] = lines(tmp_path)
    assert (told["id"], told["output_tokens"], told["energy_active_j"], told["energy_final"]) == (id, 5, None, None)


async def test_nobody_asked_for_files_and_there_are_none() -> None:
    async with paceline() as running:
        assert running.app.files is None
        assert "paceline_ledger" not in (await running.admin.get("/metrics")).text


async def test_without_factors_carbon_and_price_are_unknown() -> None:
    async with paceline() as running:
        await asyncio.sleep(0.5)
        [id] = await send(running, 1, generate(5))
        told = await running.energy_of(id)
        energy = (await usage(running))["groups"][0]["energy"][0]
    assert (told["carbon"], told["price"], energy["carbon"], energy["price"]) == (None, None, [], [])


async def test_a_reload_reads_factors_again_all_or_nothing(tmp_path: Path) -> None:
    file = tmp_path / "intensity.csv"
    file.write_text("0,100\n")
    carbon = {"energy.carbon": {"file": str(file), "source": "the grid", "step_s": 1e10}}
    async with paceline(**carbon) as running:
        app = running.app
        flags = {"energy.meter": "simulated", "upstreams": [engine.url for engine in running.engines]}
        before = app.factors.at(1.0)["carbon"].per_kwh
        file.write_text("0,200\n")
        reload(app, load(None, {}, {**flags, **carbon}))
        assert (before, app.factors.at(1.0)["carbon"].per_kwh) == (100, 200)
        changed = load(None, {}, {**flags, **CARBON})
        reload(app, changed)
        assert app.factors.at(1.0)["carbon"].per_kwh == 360
        broken = load(None, {}, {**flags, **carbon})
        file.write_text("0,-1\n")
        with pytest.raises(ConfigError, match=r"intensity.csv, line 1: -1 is less than 0; nothing has been changed"):
            reload(app, broken)
        assert (app.config, app.factors.at(1.0)["carbon"].per_kwh) == (changed, 360)
        with pytest.raises(ConfigError, match=r"^energy: cannot be changed without a restart"):
            reload(app, load(None, {}, {**flags, "energy.poll_s": 0.5}))
        with pytest.raises(ConfigError, match=r"^ledger: cannot be changed without a restart"):
            reload(app, load(None, {}, {**flags, "ledger.path": str(tmp_path)}))


async def test_metrics_are_written_beside_the_loop_that_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many series that takes a tenth of a second: tokens that come meanwhile would be seen late."""
    threads = []

    def written(registry: CollectorRegistry) -> bytes:
        threads.append(get_ident())
        return generate_latest(registry)

    monkeypatch.setattr("telemetry.otel.generate_latest", written)
    async with paceline() as running:
        answer = await running.admin.get("/metrics")
    assert "paceline_queue_depth" in answer.text
    assert threads
    assert get_ident() not in threads
