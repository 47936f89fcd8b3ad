"""A whole proxy at work: joules for every request, groups that save them, and what operators see."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bench.engine import SimulatedServer
from proxy.app import create_app, of_loop
from proxy.sources import load
from telemetry.gauges import Gauges
from telemetry.otel import Telemetry
from tests.end_to_end.paceline import Running, paceline
from tests.serving import exchange


def generate(tokens: int, **more: Any) -> dict[str, Any]:
    return {"inputs": "word " * 200, "parameters": {"max_new_tokens": tokens}, **more}


async def send(running: Running, count: int, body: dict[str, Any], **headers: str) -> list[str]:
    """Ids of requests sent together."""
    async with httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=30) as client:
        answers = await asyncio.gather(*(client.post("/generate", json=body, headers=headers) for _ in range(count)))
    assert {answer.status_code for answer in answers} == {200}
    return [answer.headers["x-paceline-request-id"] for answer in answers]


async def test_every_request_has_its_joules_and_the_books_balance() -> None:
    async with paceline() as running:
        await asyncio.sleep(0.5)  # two steps of the counter, before which nobody can be charged
        ids = await send(running, 6, generate(40))
        told = [await running.energy_of(id) for id in ids]
        status = (await running.admin.get("/status")).json()["energy"]
        truth = [job for engine in running.engines for job in engine.driver.truth.values()]
    assert all(t["energy"]["source"] == "simulated" and t["energy"]["active_j"] > 0 for t in told)
    assert all(t["output_tokens"] == 40 and not t["output_tokens_estimated"] for t in told)
    total = sum(t["energy"]["active_j"] for t in told)
    assert total == pytest.approx(status["requests_j"])
    assert status["counted_j"] == pytest.approx(status["requests_j"] + status["idle_j"] + status["unattributed_j"])
    assert status["source"] == "simulated"
    if truth:
        assert total == pytest.approx(sum(truth), rel=0.25)


async def test_a_group_costs_fewer_joules_than_its_members_alone() -> None:
    async with paceline() as running:
        await asyncio.sleep(0.5)
        alone = [(await send(running, 1, generate(30)))[0] for _ in range(4)]
        together = await send(running, 4, generate(30), **{"x-paceline-max-hold": "0.5"})
        alone_j = sum([(await running.energy_of(id))["energy"]["active_j"] for id in alone])
        told = [await running.energy_of(id) for id in together]
    assert sum(t["energy"]["active_j"] for t in told) < alone_j / 2
    assert all(t["outcome"] == "policy" and 0.3 < t["held_s"] < 0.7 for t in told)


async def test_metrics_tell_what_happened() -> None:
    async with paceline("openai") as running:
        await asyncio.sleep(0.5)
        async with httpx.AsyncClient(base_url=running.url, trust_env=False) as client:
            body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9, "stream": True}
            answer = await client.post("/v1/chat/completions", json=body)
        await running.energy_of(answer.headers["x-paceline-request-id"])
        text = (await running.admin.get("/metrics")).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for name in ("gen_ai_server_time_to_first_token_seconds", "paceline_request_energy_joules", "paceline_release_count"):
        assert any(name.startswith(known) or known.startswith(name) for known in families), (name, sorted(families))
    energy = next(family for name, family in families.items() if name.startswith("paceline_request_energy"))
    assert all(sample.labels["energy_source"] == "simulated" for sample in energy.samples)


async def test_without_a_meter_energy_is_unknown_and_never_zero(caplog: pytest.LogCaptureFixture) -> None:
    async with paceline(**{"energy.meter": "nvml"}) as running:
        [id] = await send(running, 1, generate(3))
        told = (await running.admin.get(f"/requests/{id}")).json()
        status = (await running.admin.get("/status")).json()
        window = await running.admin.get("/energy", params={"since_s": 0, "until_s": 1})
        text = (await running.admin.get("/metrics")).text
        assert not running.app.ledger.get(id).tokens  # type: ignore[union-attr]
    assert (told["energy"], status["energy"], window.status_code) == (None, None, 404)
    assert not [line for line in text.splitlines() if "energy" in line and not line.startswith("#")]
    assert sum("energy is unknown" in record.message for record in caplog.records) == 1


async def test_the_strategy_can_be_changed_while_requests_wait() -> None:
    async with paceline(**{"policy.name": "window", "policy.params.every_s": 60.0, "slack.interactive.max_s": 60.0}) as running:
        held = asyncio.create_task(send(running, 3, generate(2), **{"x-paceline-max-hold": "60"}))
        await asyncio.sleep(0.3)
        assert (await running.admin.get("/status")).json()["room"]["held"] == 3
        wrong = await running.admin.put("/policy", json={"policy": {"name": "windows"}})
        assert (wrong.status_code, "built in are" in wrong.text) == (422, True)
        changed = await running.admin.put("/policy", json={"policy": {"name": "passthrough"}})
        assert changed.json()["policy"]["name"] == "passthrough"
        assert changed.json()["placement"]["name"] == "spread"
        await asyncio.wait_for(held, 5)


async def test_probes_and_unknown_requests() -> None:
    async with paceline() as running:
        assert (await running.admin.get("/healthz")).status_code == 200
        assert (await running.admin.get("/readyz")).json() == {
            "ready": True,
            "upstream_answered": True,
            "upstream_works": True,
            "draining": False,
        }
        running.app.drain()
        assert (await running.admin.get("/readyz")).status_code == 503
        assert (await running.admin.get("/requests/nobody")).status_code == 404


async def test_a_proxy_starts_without_its_server_and_finds_it_later() -> None:
    app = create_app(load(None, {}, {"upstreams": ["http://127.0.0.1:9"], "energy.meter": "none"}), {})
    await app.start()
    assert not any(server.found for server in app.fleet.servers)
    await app.stop()


async def test_what_a_pushing_thread_asks_is_read_on_the_loop() -> None:
    seen: list[int] = []

    def read() -> Gauges:
        seen.append(threading.get_ident())
        return Gauges(now_s=time.monotonic())

    ask = of_loop(read)
    told = await asyncio.to_thread(lambda: [ask() for _ in range(40)])
    assert seen == [threading.get_ident()], "once for a whole push"
    assert all(one is told[0] for one in told)


async def test_a_collector_that_never_answers_does_not_keep_the_proxy_from_ending(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    silent = socket.create_server(("127.0.0.1", 0))  # connections are made, and nobody takes them up
    endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_TIMEOUT": "3600"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)  # the SDK reads the process's own
    monkeypatch.setattr("proxy.app.PUSH_WITHIN_S", 0.2)
    async with paceline(environ=environ) as running:
        await send(running, 1, generate(2))
    assert "did not take the last metrics and traces" in caplog.text
    silent.close()


async def test_a_last_push_that_fails_is_over(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    app = create_app(load(None, {}, {"upstreams": ["http://127.0.0.1:9"], "energy.meter": "none"}), {})
    monkeypatch.setattr(Telemetry, "shutdown", lambda telemetry: 1 / 0)
    monkeypatch.setattr("proxy.app.PUSH_WITHIN_S", 30.0)
    async with asyncio.timeout(10):
        await app.stop()
    assert "could not be pushed" in caplog.text


async def test_slots_are_asked_of_tgi_so_that_a_burst_is_queued_and_not_refused() -> None:
    async with paceline() as running:
        assert running.app.fleet.default.scheduler.room.server_views()[0].slots == 128
        ids = await send(running, 200, generate(2))
    assert len(set(ids)) == 200


@pytest.mark.parametrize(
    "request_line",
    [b"GET /nowhere", b"PUT /generate", b"HEAD /health", b"OPTIONS /generate", b"GET /info", b"GET /v1/models", b"DELETE /"],
)
async def test_raw_exchanges_are_alike(request_line: bytes) -> None:
    request = request_line + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    async with paceline() as running:
        direct = await exchange(running.engines[0].url.removeprefix("http://"), request)
        through = await exchange(running.url.removeprefix("http://"), request)
    assert comparable(through) == comparable(direct)


@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/v1/chat/completions"])
@pytest.mark.parametrize("body", [b"{", b"[]", b'{"inputs": "a", "parameters": null}', b'{"inputs": 5}', b""])
async def test_raw_errors_are_alike(path: str, body: bytes) -> None:
    lines = (
        f"POST {path} HTTP/1.1",
        "host: x",
        "connection: close",
        "content-type: application/json",
        f"content-length: {len(body)}",
    )
    head = "\r\n".join((*lines, "", ""))
    async with paceline() as running:
        direct = await exchange(running.engines[0].url.removeprefix("http://"), head.encode() + body)
        through = await exchange(running.url.removeprefix("http://"), head.encode() + body)
    assert comparable(through) == comparable(direct)


def comparable(answer: bytes) -> tuple[bytes, list[tuple[str, str]], bytes]:
    """Status code, end-to-end headers without ours and without dates, body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = sorted((name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines))
    dropped = ("connection", "transfer-encoding", "date", "x-paceline-request-id")
    kept = [(name, value) for name, value in headers if name not in dropped]
    return status.split()[1].encode(), kept, body


async def test_a_server_that_comes_late_is_asked_for_its_slots() -> None:
    async with SimulatedServer("tgi") as first, SimulatedServer("tgi") as late:
        url = late.url
        await late.stop()
        app = create_app(load(None, {}, {"upstreams": [first.url, url], "energy.meter": "none"}), {})
        await app.start()
        assert [view.slots for view in app.fleet.default.scheduler.room.server_views()] == [128, None]
        async with SimulatedServer("tgi", port=int(url.rsplit(":", 1)[1])):
            while not all(server.found for server in app.fleet.servers):
                await asyncio.sleep(0.05)
        assert [view.slots for view in app.fleet.default.scheduler.room.server_views()] == [128, 128]
        await app.stop()
