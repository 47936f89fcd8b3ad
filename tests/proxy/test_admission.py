"""Who comes in: keys, tenants, and bounds on what waits and what is held."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from policies.base import Tier
from proxy.keys import hash_of
from tests.proxy.test_fleet import settled
from tests.proxy.test_forward import BODY, answer_plain, never_answer, post, split
from tests.serving import DataPlane, Seen, config_for, data_plane, exchange, upstream

RED, BLUE = "pl-red-0123456789", "pl-blue-0123456789"
TENANTS = [
    {"name": "red", "key_hashes": [hash_of(RED)], "weight": 2.0, "slack_s": 1.0, "priority": 5},
    {"name": "blue", "key_hashes": [hash_of(BLUE)], "limit": 2, "bytes": 500},
]


def bearer(key: str) -> str:
    return f"authorization: Bearer {key}"


async def status_of(plane: DataPlane, *headers: str, path: str = "/generate", body: bytes = BODY) -> bytes:
    status, _, _ = split(await exchange(plane.address, post(path, body, *headers)))
    return status.split()[1]


@pytest.mark.parametrize("header", [bearer(RED), f"x-api-key: {RED}", f"api-key: {RED}", f"Authorization: bearer   {RED}"])
async def test_a_key_opens_and_is_not_passed_on(header: str) -> None:
    async with upstream(answer_plain) as server:
        async with data_plane(server.address, tenants=TENANTS, **{"auth.required": True}) as plane:
            assert await status_of(plane, header) == b"200"
            assert [entry.tenant for entry in plane.ledger._ended.values()] == ["red"]
    assert RED.encode() not in server.seen[0].head
    assert b"authorization" not in server.seen[0].head.lower()


@pytest.mark.parametrize("headers", [(), (bearer("wrong"),), ("authorization: Basic eA==",), (bearer(hash_of(RED)),)])
async def test_without_a_good_key_nothing_goes_up(headers: tuple[str, ...]) -> None:
    async with upstream(answer_plain) as server:
        async with data_plane(server.address, tenants=TENANTS, **{"auth.required": True}) as plane:
            status, told, body = split(await exchange(plane.address, post("/generate", BODY, *headers)))
            assert status.startswith(b"HTTP/1.1 401")
            assert told["www-authenticate"] == ["Bearer"]
            assert "API key" in json.loads(body)["error"]
            plane.assert_at_rest()
        assert not server.seen


async def test_probes_and_preflights_need_no_key() -> None:
    async with upstream(answer_plain) as server:
        async with data_plane(server.address, tenants=TENANTS, **{"auth.required": True}) as plane:
            for request in (b"GET /health", b"OPTIONS /generate"):
                more = b"access-control-request-method: POST\r\n" if request.startswith(b"OPTIONS") else b""
                answer = await exchange(
                    plane.address, request + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + more + b"\r\n"
                )
                assert answer.startswith(b"HTTP/1.1 200")
            assert (await exchange(plane.address, b"OPTIONS /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))[
                9:12
            ] == b"401"


async def test_where_no_key_is_needed_the_clients_own_passes() -> None:
    async with upstream(answer_plain) as server, data_plane(server.address, tenants=TENANTS) as plane:
        assert await status_of(plane, "authorization: Bearer for-the-engine") == b"200"
    assert b"bearer for-the-engine" in server.seen[0].head.lower()


async def test_a_gateways_header_names_the_tenant_where_there_are_no_keys() -> None:
    tenants = [*TENANTS, {"name": "green"}]
    async with upstream(answer_plain) as server, data_plane(server.address, tenants=tenants) as plane:
        for name in ("green", "somebody", "blue"):  # the last has keys, and shows none
            await status_of(plane, f"x-gateway-inference-fairness-id: {name}")
        assert [entry.tenant for entry in plane.ledger._ended.values()] == ["green", "", ""]


async def waiting(plane: DataPlane, count: int) -> None:
    await settled(lambda: plane.scheduler.room.held + plane.scheduler.room.ready == count)


async def test_what_a_request_agreed_to_reaches_the_room() -> None:
    objectives = [{"name": "nightly", "tier": "batch", "priority": -1}]
    flags: dict[str, Any] = {
        "tenants": TENANTS,
        "objectives": objectives,
        "policy.name": "window",
        "policy.params.every_s": 60.0,
    }
    async with upstream(answer_plain) as server, data_plane(server.address, **flags) as plane:
        asks = [
            (f"authorization: Bearer {RED}",),
            ("x-gateway-inference-objective: nightly", "x-gateway-inference-fairness-id: x"),
        ]
        tasks = [asyncio.create_task(exchange(plane.address, post("/generate", BODY, *headers))) for headers in asks]
        await waiting(plane, 2)
        red, nightly = sorted(plane.scheduler.room._held, key=lambda one: -one.priority)
        assert (red.tenant, red.weight, red.priority, red.tier) == ("red", 2.0, 6, Tier.INTERACTIVE)
        assert red.deadline - red.arrived_at == pytest.approx(1.0)
        assert (nightly.tenant, nightly.priority, nightly.tier) == ("x", -2, Tier.BATCH)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_tenant_has_no_more_waiting_than_its_limit() -> None:
    async with upstream(never_answer) as server:
        one_slot = [{"url": f"http://{server.address}", "slots": 1}]
        async with data_plane(upstreams=one_slot, tenants=TENANTS, **{"auth.required": True}) as plane:
            asks = []
            for here in range(3):
                asks.append(asyncio.create_task(exchange(plane.address, post("/generate", BODY, bearer(BLUE)))))
                await settled(lambda: plane.scheduler.room.in_flight == 1 and plane.scheduler.room.ready == here)  # noqa: B023
            status, headers, body = split(await exchange(plane.address, post("/generate", BODY, bearer(BLUE))))
            assert status.startswith(b"HTTP/1.1 429")
            assert headers["retry-after"] == ["1"]
            assert json.loads(body)["error_type"] == "overloaded"
            other = asyncio.create_task(exchange(plane.address, post("/generate", BODY, bearer(RED))))  # is not touched by that
            await settled(lambda: plane.scheduler.room.ready == 3)
            for task in (*asks, other):
                task.cancel()
            await asyncio.gather(*asks, other, return_exceptions=True)
            await settled(lambda: plane.forward.open == 0)
            plane.assert_at_rest()
            assert plane.scheduler.outcomes["rejected"] == 1


async def test_bodies_are_held_within_bounds_of_all_and_of_a_tenant() -> None:
    flags: dict[str, Any] = {"tenants": TENANTS, "auth.required": True, "queue.bytes": 2000, "limits.body_bytes": 5000}
    async with upstream(answer_plain) as server, data_plane(server.address, **flags) as plane:
        assert await status_of(plane, bearer(BLUE), body=b"x" * 400) == b"200"
        assert await status_of(plane, bearer(BLUE), body=b"x" * 600) == b"429"
        assert await status_of(plane, bearer(RED), body=b"x" * 1900) == b"200"
        assert await status_of(plane, bearer(RED), body=b"x" * 2100) == b"429"
        plane.assert_at_rest()


async def test_a_body_is_no_longer_held_once_its_answer_begins() -> None:
    go_on = asyncio.Event()

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no")
        await writer.drain()
        await go_on.wait()
        writer.write(b"k")

    async with upstream(script) as server, data_plane(server.address) as plane:
        asked = asyncio.create_task(exchange(plane.address, post("/generate")))
        await settled(lambda: server.seen)
        await settled(lambda: plane.forward.admission.total.bytes == 0)
        go_on.set()
        assert (await asked).endswith(b"ok")


@pytest.mark.parametrize("path", ["/generate", "/anything"])
async def test_a_body_that_is_too_long_is_refused(path: str) -> None:
    chunked = f"POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    chunked += b"400\r\n" + b"x" * 1024 + b"\r\n400\r\n" + b"x" * 1024 + b"\r\n0\r\n\r\n"
    async with upstream(answer_plain) as server, data_plane(server.address, **{"limits.body_bytes": 1500}) as plane:
        for request in (post(path, b"x" * 1501), chunked):
            status, _, body = split(await exchange(plane.address, request))
            assert status.startswith(b"HTTP/1.1 413")
            assert "1500 bytes" in json.loads(body)["error"]
        assert await status_of(plane, path=path, body=b"x" * 1500) == b"200"
        plane.assert_at_rest()


async def test_a_burst_is_queued_in_front_of_few_slots_and_none_is_refused() -> None:
    most = now = 0

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        await answer_plain(seen, writer)

    async with upstream(script) as server, data_plane(upstreams=[{"url": f"http://{server.address}", "slots": 8}]) as plane:
        answers = await asyncio.gather(*(exchange(plane.address, post("/generate")) for _ in range(300)))
        assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
        assert most == 8
        plane.assert_at_rest()


async def test_who_comes_in_without_a_key_brings_no_body() -> None:
    async with upstream(answer_plain) as server:
        async with data_plane(server.address, tenants=TENANTS, **{"auth.required": True}) as plane:
            assert await status_of(plane, path="/health", body=b"x" * 1000) == b"401"
            assert plane.forward.admission.total.bytes == 0


async def test_only_the_paths_that_are_named_are_carried() -> None:
    async with upstream(answer_plain) as server, data_plane(server.address, paths=["/v1/chat/*", "/generate"]) as plane:
        assert [await status_of(plane, path=path) for path in ("/generate", "/v1/chat/completions")] == [b"200", b"200"]
        for path in ("/v1/files", "/v1/chat/../files", "/v1/chat/%2e%2e/files", "//v1/files"):
            assert await status_of(plane, path=path) == b"404", path
        assert plane.forward.counts.refused == 4


async def test_a_key_is_not_passed_on_by_a_configuration_that_came_while_it_waited() -> None:
    async with upstream(never_answer) as server:
        one_slot = [{"url": f"http://{server.address}", "slots": 1}]
        async with data_plane(upstreams=one_slot, tenants=TENANTS, **{"auth.required": True}) as plane:
            first = asyncio.create_task(exchange(plane.address, post("/generate", BODY, bearer(RED))))
            await settled(lambda: plane.scheduler.room.in_flight == 1)
            second = asyncio.create_task(exchange(plane.address, post("/generate", BODY, bearer(RED))))
            await settled(lambda: plane.scheduler.room.ready == 1)
            plane.forward.use(config_for(upstreams=one_slot, tenants=TENANTS), plane.forward.model)
            first.cancel()
            await settled(lambda: len(server.seen) == 2)
            second.cancel()
            await asyncio.gather(first, second, return_exceptions=True)
    assert not any(RED.encode() in seen.head for seen in server.seen)


async def test_nobody_uses_the_share_of_a_tenant_whose_key_he_does_not_show() -> None:
    flags: dict[str, Any] = {"tenants": TENANTS, "policy.name": "window", "policy.params.every_s": 60.0}
    async with upstream(answer_plain) as server, data_plane(server.address, **flags) as plane:
        headers = ("x-gateway-inference-fairness-id: red", "x-paceline-max-hold: 2")
        task = asyncio.create_task(exchange(plane.address, post("/generate", BODY, *headers)))
        await waiting(plane, 1)
        assert [one.tenant for one in plane.scheduler.room._held] == [""]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
