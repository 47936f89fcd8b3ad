"""A bound on watts, with a simulated engine's counter: who may wait leaves only while the reading leaves room."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.end_to_end.paceline import Running, paceline

REQUESTS = 5
BODY = {"inputs": "a b c", "parameters": {"max_new_tokens": 40}}
HELD = {"x-paceline-max-hold": "60"}


async def most_at_once(running: Running) -> int:
    room = running.app.fleet.default.scheduler.room
    most = 0
    async with httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=60) as client:
        asking = [asyncio.create_task(client.post("/generate", json=BODY, headers=HELD)) for _ in range(REQUESTS)]
        while not all(task.done() for task in asking):
            most = max(most, room.in_flight)
            await asyncio.sleep(0.005)
        assert [task.result().status_code for task in asking] == [200] * REQUESTS
    return most


@pytest.mark.parametrize(("power_w", "most"), [(300.0, {1}), (10_000.0, {REQUESTS - 1, REQUESTS})])
async def test_requests_wait_for_watts(power_w: float, most: set[int]) -> None:
    """One request alone draws some 400 W of the engine's device, and nobody 118 W."""
    flags = {"policy.params.policy": "passthrough", "policy.params.power_w": power_w, "slack.interactive.max_s": 60.0}
    async with paceline(**{"policy.name": "capped", **flags}) as running:
        for _ in range(200):  # until the counter has been read, which is idle yet
            if running.app.fleet.default.scheduler.room.telemetry.devices:
                break
            await asyncio.sleep(0.02)
        assert await most_at_once(running) in most
