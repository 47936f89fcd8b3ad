"""Several servers: which one is used, what happens when one fails, and every way in which one may be reached."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from proxy.breaker import Circuit
from proxy.checks import Checks
from proxy.fleet import Pool
from tests.proxy.test_forward import BODY, answer_plain, never_answer, post, split
from tests.serving import DataPlane, Seen, Upstream, data_plane, exchange, upstream

CHAT = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":4}'


def answers(text: bytes, status: bytes = b"200 OK") -> Callable[[Seen, asyncio.StreamWriter], Awaitable[None]]:
    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status, len(text), text))

    return script


async def body_of(plane: DataPlane, request: bytes | None = None) -> bytes:
    return split(await exchange(plane.address, request or post("/generate")))[2]


async def settled(condition: Callable[[], Any], within_s: float = 5.0) -> None:
    for _ in range(int(within_s / 0.01)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to be")


@asynccontextmanager
async def checked(plane: DataPlane) -> AsyncIterator[Checks]:
    checks = Checks(plane.forward.config, plane.fleet)
    await checks.start()
    try:
        yield checks
    finally:
        await checks.stop()


def circuits(pool: Pool) -> list[str]:
    return [server.breaker.circuit.value for server in pool.servers.values()]


# --- who is used -------------------------------------------------------------------------------------------------------


async def test_what_is_not_scheduled_goes_to_one_server() -> None:
    async with upstream(answers(b"a")) as one, upstream(answers(b"b")) as two, data_plane(one.address, two.address) as plane:
        got = {await body_of(plane, b"GET /info HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n") for _ in range(4)}
    assert got == {b"a"}


async def test_a_dead_server_is_left_alone_and_the_request_goes_elsewhere() -> None:
    async with upstream(answers(b"b")) as two, data_plane("127.0.0.1:9", two.address) as plane:
        assert [await body_of(plane) for _ in range(4)] == [b"b"] * 4
        assert circuits(plane.pool) == ["open", "closed"]
        assert plane.forward.counts.retried == 1
        # what is not scheduled, too
        assert await body_of(plane, b"GET /info HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n") == b"b"
        plane.assert_at_rest()


async def test_all_dead_is_an_error_at_once_and_nobody_waits_for_ever() -> None:
    async with data_plane("127.0.0.1:9", "127.0.0.1:19") as plane:
        for _ in range(3):
            status, _, body = split(await asyncio.wait_for(exchange(plane.address, post("/generate")), 3))
            assert status.startswith(b"HTTP/1.1 502")
            assert "did not answer" in json.loads(body)["error"]
        plane.assert_at_rest()


async def test_a_server_that_works_again_is_tried_with_one_request_and_then_used() -> None:
    limits = {"health.open_s": 0.1, "health.every_s": 0.0}
    async with upstream(answers(b"b")) as two:
        servers = [{"url": "http://127.0.0.1:9", "slots": 8}, {"url": f"http://{two.address}", "slots": 8}]
        async with data_plane(upstreams=servers, **limits) as plane:
            await body_of(plane)
            name = next(iter(plane.pool.servers))
            assert not plane.scheduler.room.server_views()[0].healthy
            async with checked(plane):
                await settled(lambda: plane.pool.servers[name].breaker.circuit is Circuit.HALF_OPEN)
            assert plane.scheduler.room.server_views()[0].slots == 1
            plane.pool.succeeded(name)
            assert (circuits(plane.pool)[0], plane.scheduler.room.server_views()[0].slots) == ("closed", 8)


async def test_a_trial_that_fails_opens_the_circuit_again_for_twice_as_long() -> None:
    limits = {"health.open_s": 0.2, "health.every_s": 0.05}
    async with upstream(answers(b"b")) as two, data_plane("127.0.0.1:9", two.address, dialect="tgi", **limits) as plane:
        await body_of(plane)
        breaker = next(iter(plane.pool.servers.values())).breaker
        first = breaker.until
        async with checked(plane):
            await settled(lambda: breaker.until > first)
        assert breaker.circuit is Circuit.OPEN
        assert breaker.until - first >= 0.4


async def test_a_server_that_is_not_well_is_left_alone_by_its_health_route() -> None:
    well = True

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await (answers(b"", b"200 OK") if well or b"/health" not in seen.head else answers(b"", b"503 No"))(seen, writer)

    limits = {"health.every_s": 0.05, "health.failures": 2, "health.open_s": 0.1}
    async with upstream(script) as one, upstream(answers(b"b")) as two:
        async with data_plane(one.address, two.address, dialect="vllm", **limits) as plane, checked(plane):
            await asyncio.sleep(0.2)
            assert circuits(plane.pool) == ["closed", "closed"]
            well = False
            await settled(lambda: circuits(plane.pool) == ["open", "closed"])
            assert [await body_of(plane, post("/v1/completions", CHAT)) for _ in range(3)] == [b"b"] * 3
            well = True
            await settled(lambda: circuits(plane.pool)[0] == "half_open")
            await settled_by_requests(plane)


async def settled_by_requests(plane: DataPlane) -> None:
    for _ in range(20):
        await body_of(plane, post("/v1/completions", CHAT))
        if circuits(plane.pool)[0] == "closed":
            return
    raise AssertionError("its trial never came")


@pytest.mark.parametrize("status", [b"502 Bad Gateway", b"504 Gateway Timeout"])
async def test_a_gateway_without_a_server_behind_it_opens_the_circuit(status: bytes) -> None:
    async with upstream(answers(b"x", status)) as one, data_plane(one.address, **{"health.failures": 2}) as plane:
        for _ in range(2):
            assert await body_of(plane) == b"x"  # passed on as it is
        assert circuits(plane.pool) == ["open"]
        assert await body_of(plane) == b"x"  # the only one there is goes on being used


async def test_what_an_engine_answers_to_bad_requests_says_nothing_of_its_health() -> None:
    async with upstream(answers(b"x", b"500 Oops")) as one, data_plane(one.address) as plane:
        for _ in range(5):
            await body_of(plane)
        assert circuits(plane.pool) == ["closed"]


# --- busy servers ------------------------------------------------------------------------------------------------------


async def test_a_busy_server_is_passed_on_unless_it_is_to_be_waited_for() -> None:
    async with upstream(answers(b"full", b"429 Too Many Requests")) as one, data_plane(one.address) as plane:
        status, _, body = split(await exchange(plane.address, post("/generate")))
        assert (status, body) == (b"HTTP/1.1 429 Too Many Requests", b"full")


async def test_a_busy_server_is_waited_for() -> None:
    asked = 0

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await (answers(b"full", b"429 Too Many Requests") if asked <= 2 else answers(b"done"))(seen, writer)

    async with upstream(script) as one, data_plane(one.address, busy="wait") as plane:
        assert await body_of(plane) == b"done"
        assert (asked, plane.forward.counts.retried, plane.forward.counts.completed) == (3, 2, 1)
        plane.assert_at_rest()


async def test_a_server_that_stays_busy_is_waited_for_no_longer_than_the_queue_allows() -> None:
    flags: dict[str, Any] = {"busy": "wait", "queue.timeout_s": 0.6}
    async with upstream(answers(b"full", b"503 Busy")) as one, data_plane(one.address, **flags) as plane:
        status, _, body = split(await asyncio.wait_for(exchange(plane.address, post("/generate")), 5))
        assert status.startswith(b"HTTP/1.1 503")
        assert body == b"full" or json.loads(body)["error_type"] == "overloaded"
        plane.assert_at_rest()


@pytest.mark.parametrize("size", [2, 300, 200_000])
async def test_a_connection_is_kept_for_the_next_request(size: int) -> None:
    async with upstream(answers(b"x" * size)) as server, data_plane(server.address) as plane:
        for _ in range(5):
            assert await body_of(plane) == b"x" * size
    assert server.connections == 1


# --- stored things -----------------------------------------------------------------------------------------------------


def keeper(name: str) -> Callable[[Seen, asyncio.StreamWriter], Awaitable[None]]:
    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        body = json.dumps({"id": f"resp_{name}", "object": "response", "output": [], "model": name}).encode()
        await answers(body)(seen, writer)

    return script


async def test_a_stored_answer_is_asked_for_where_it_is_and_continued_there() -> None:
    ask = b'{"model":"m","input":"hi"}'
    async with upstream(keeper("a")) as one, upstream(keeper("b")) as two:
        async with data_plane(one.address, two.address, dialect="vllm") as plane:
            made = [json.loads(await body_of(plane, post("/v1/responses", ask)))["id"] for _ in range(4)]
            for id in dict.fromkeys(made):
                get = f"GET /v1/responses/{id} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode()
                assert json.loads(await body_of(plane, get))["id"] == id
                more = b'{"model":"m","input":"go on","previous_response_id":"%s"}' % id.encode()
                for _ in range(3):
                    assert json.loads(await body_of(plane, post("/v1/responses", more)))["id"] == id


# --- models ------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def two_models() -> AsyncIterator[tuple[DataPlane, Upstream, Upstream]]:
    async with upstream(answers(b"small")) as small, upstream(answers(b"large")) as large:
        servers = [
            {"url": f"http://{small.address}", "group": "small"},
            {"url": f"http://{large.address}", "group": "large"},
        ]
        models = [
            {"name": "llama-8b", "group": "small"},
            {"name": "gpt-*", "group": "large", "rewrite": "meta/llama-70b"},
        ]
        async with data_plane(upstreams=servers, models=models, dialect="vllm") as plane:
            yield plane, small, large


async def test_a_model_is_served_by_its_group_under_the_name_that_it_has_there() -> None:
    async with two_models() as (plane, small, large):
        ask = b'{ "model" : "%s","messages":[],  "seed":1e5 }'
        assert await body_of(plane, post("/v1/chat/completions", ask % b"llama-8b")) == b"small"
        assert await body_of(plane, post("/v1/chat/completions", ask % b"gpt-4")) == b"large"
        assert await body_of(plane, post("/tokenize", ask % b"gpt-4")) == b"large"
        assert small.seen[0].body == ask % b"llama-8b"
        assert large.seen[0].body == ask % b"meta/llama-70b"
        assert b"content-length: %d" % len(large.seen[0].body) in large.seen[0].head.lower()
        assert await body_of(plane, post("/v1/chat/completions", b'{"messages":[]}')) == b"small"  # names none


async def test_a_model_that_nobody_serves_is_said_so() -> None:
    async with two_models() as (plane, small, large):
        status, _, body = split(await exchange(plane.address, post("/v1/chat/completions", b'{"model":"?","messages":[]}')))
        assert status.startswith(b"HTTP/1.1 404")
        assert "serves the model '?'" in json.loads(body)["error"]["message"]
        listing = json.loads(await body_of(plane, b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
        assert [model["id"] for model in listing["data"]] == ["llama-8b"]
        assert not small.seen
        assert not large.seen


# --- how a server is reached -------------------------------------------------------------------------------------------


async def test_a_server_behind_a_unix_socket(tmp_path: Path) -> None:
    scripted = Upstream(answer_plain)
    server = await asyncio.start_unix_server(scripted.handle, tmp_path / "engine.sock")
    async with data_plane(f"unix://{tmp_path}/engine.sock") as plane:
        assert await body_of(plane) == b"ok"
        assert scripted.seen[0].head.startswith(b"POST /generate HTTP/1.1\r\n")
    server.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@asynccontextmanager
async def tls_server(authority: trustme.CA) -> AsyncIterator[Upstream]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    scripted = Upstream(answer_plain)
    server = await asyncio.start_server(scripted.handle, "127.0.0.1", 0, ssl=context)
    scripted.address = "{}:{}".format(*server.sockets[0].getsockname()[:2])
    yield scripted
    server.close()


async def test_certificates_are_checked_against_the_configured_authority(authority: trustme.CA, tmp_path: Path) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with tls_server(authority) as server:
        url = f"https://{server.address}"
        for more, status in (
            ({"ca_file": str(tmp_path / "ca.pem")}, b"200"),
            ({}, b"502"),
            ({"verify": False}, b"200"),
        ):
            async with data_plane(upstreams=[{"url": url, **more}]) as plane:
                assert (await exchange(plane.address, post("/generate"))).startswith(b"HTTP/1.1 " + status)


async def test_an_http_proxy_is_used_only_where_it_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with upstream(answer_plain) as server, upstream(answers(b"by proxy")) as proxy:
        async with data_plane(server.address) as plane:
            assert await body_of(plane) == b"ok"
        through = [{"url": f"http://{server.address}", "http_proxy": f"http://{proxy.address}"}]
        async with data_plane(upstreams=through) as plane:
            assert await body_of(plane) == b"by proxy"
        assert proxy.seen[0].head.startswith(f"POST http://{server.address}/generate HTTP/1.1\r\n".encode())


async def test_a_servers_own_key_takes_the_place_of_the_clients(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-file\n")
    for more in ({"key_file": str(tmp_path / "key")}, {"key_env": "ENGINE_KEY"}):
        async with upstream(answer_plain) as server:
            url = f"http://{server.address}"
            async with data_plane(upstreams=[{"url": url, **more}], environ={"ENGINE_KEY": "from-env"}) as plane:
                await exchange(plane.address, post("/generate", BODY, "authorization: Bearer client", "x-api-key: client"))
            head = server.seen[0].head.lower()
            assert head.count(b"authorization: bearer from-") == 1
            assert b"client" not in head


# --- what a reviewer broke ---------------------------------------------------------------------------------------------


async def test_pauses_end_whatever_the_loops_clock_says() -> None:
    asked = 0

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await (answers(b"full", b"429 Too Many Requests") if asked % 2 else answers(b"done"))(seen, writer)

    async with upstream(script) as one, data_plane(one.address, busy="wait", **{"queue.timeout_s": 3.0}) as plane:
        for _ in range(8):
            assert await body_of(plane) == b"done"
        plane.assert_at_rest()


async def test_what_was_begun_is_not_sent_again() -> None:
    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        if len(server.seen) == 1:
            await answers(b"ok")(seen, writer)
        else:  # on a kept connection: it works for a while, and dies of it
            await asyncio.sleep(1.2)
            writer.close()

    async with upstream(script) as server, data_plane(server.address) as plane:
        await body_of(plane)
        status, _, _ = split(await exchange(plane.address, post("/generate")))
        assert status.startswith(b"HTTP/1.1 502")
        assert len(server.seen) == 2


async def test_a_server_that_works_is_found_when_every_circuit_is_open() -> None:
    async with upstream(answers(b"b")) as two, data_plane("127.0.0.1:9", two.address) as plane:
        for name in list(plane.pool.servers):
            plane.pool.failed(name, surely=True)
        assert circuits(plane.pool) == ["open", "open"]
        assert [await body_of(plane) for _ in range(3)] == [b"b"] * 3
        plane.assert_at_rest()


async def test_a_trial_is_one_request_more_than_the_server_has() -> None:
    gate = asyncio.Event()

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        await answers(b"a")(seen, writer)

    async with upstream(script) as one, upstream(answers(b"b")) as two:
        servers = [{"url": f"http://{one.address}", "slots": 4}, {"url": f"http://{two.address}", "slots": 4}]
        async with data_plane(upstreams=servers) as plane:
            running = asyncio.create_task(body_of(plane))
            await settled(lambda: one.seen)
            server = next(iter(plane.pool.servers.values()))
            plane.pool.failed(server.name, surely=True)
            plane.pool.try_again(server)
            assert plane.scheduler.room.server_views()[0].free == 1
            gate.set()
            await running


async def test_a_server_that_has_told_nothing_is_not_given_the_whole_queue() -> None:
    async with upstream(never_answer) as one, upstream(never_answer) as two:
        servers = [{"url": f"http://{one.address}", "slots": 2}, {"url": f"http://{two.address}"}]
        async with data_plane(upstreams=servers) as plane:
            asks = [asyncio.create_task(exchange(plane.address, post("/generate"))) for _ in range(6)]
            await settled(lambda: plane.scheduler.room.ready == 4)
            assert not two.seen
            for ask in asks:
                ask.cancel()
            await asyncio.gather(*asks, return_exceptions=True)


async def test_administration_of_any_engine_of_a_group_is_closed_however_it_is_written() -> None:
    async with upstream(answers(b"done")) as one, upstream(answers(b"done")) as two:
        servers = [
            {"url": f"http://{one.address}", "dialect": "vllm"},
            {"url": f"http://{two.address}", "dialect": "sglang"},
        ]
        async with data_plane(upstreams=servers) as plane:
            for path in ("/flush_cache", "/sleep", "//sleep", "/./sleep", "/v1/../sleep"):
                assert (await exchange(plane.address, post(path))).startswith(b"HTTP/1.1 403"), path


async def test_good_checks_do_not_hide_requests_that_fail() -> None:
    async with upstream(answers(b"x", b"502 Bad")) as one, upstream(answers(b"b")) as two:
        async with data_plane(one.address, two.address, **{"health.failures": 3}) as plane:
            breaker = next(iter(plane.pool.servers.values())).breaker
            for _ in range(2):
                breaker.failed(0.0)
            breaker.bad_checks = 0  # a good check
            assert breaker.failed(0.0)


async def test_what_names_no_model_is_asked_of_another_group_when_the_first_is_down() -> None:
    async with upstream(answers(b"large")) as large:
        servers = [{"url": "http://127.0.0.1:9", "group": "small"}, {"url": f"http://{large.address}", "group": "large"}]
        models = [{"name": "s", "group": "small"}, {"name": "l", "group": "large"}]
        async with data_plane(upstreams=servers, models=models) as plane:
            assert await body_of(plane, b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n") == b"large"


async def test_errors_tell_clients_no_address_and_logs_no_query(caplog: pytest.LogCaptureFixture) -> None:
    async with data_plane("127.0.0.1:9") as plane:
        answer = await exchange(plane.address, post("/generate?key=secret"))
        assert b"127.0.0.1" not in answer
        assert "secret" not in caplog.text


async def test_a_health_route_that_drips_is_no_health_and_holds_up_nobody() -> None:
    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        if b"/health" not in seen.head:
            return await answers(b"{}", b"404 No")(seen, writer)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        while not seen.closed.is_set():
            writer.write(b"x")
            await asyncio.sleep(0.05)
        return None

    limits = {"health.every_s": 0.1, "health.timeout_s": 0.2, "health.failures": 1, "health.open_s": 0.1}
    async with upstream(script) as one, upstream(answers(b"b")) as two:
        async with data_plane(one.address, two.address, dialect="vllm", **limits) as plane, checked(plane):
            await settled(lambda: circuits(plane.pool)[0] == "open")


async def test_requests_that_go_well_clear_checks_that_did_not() -> None:
    async with upstream(answers(b"x")) as one, data_plane(one.address, **{"health.failures": 2}) as plane:
        for _ in range(4):
            plane.pool.failed(next(iter(plane.pool.servers)), by_check=True)
            await body_of(plane)
        assert circuits(plane.pool) == ["closed"]


async def test_while_one_server_is_busy_another_is_asked() -> None:
    async def busy(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 429 Busy\r\nretry-after: 5\r\ncontent-length: 0\r\n\r\n")

    async with upstream(busy) as one, upstream(answers(b"b")) as two:
        async with data_plane(one.address, two.address, busy="wait", **{"queue.timeout_s": 3.0}) as plane:
            assert [await body_of(plane) for _ in range(3)] == [b"b"] * 3
            assert len(one.seen) == 1
            entry = next(iter(plane.ledger._ended.values()))
            assert entry.held_s + entry.queued_s < 1


async def test_an_unknown_server_that_works_goes_on_while_a_told_one_is_tried() -> None:
    async with upstream(answers(b"a")) as one, upstream(answers(b"b")) as two:
        servers = [{"url": f"http://{one.address}", "slots": 4}, {"url": f"http://{two.address}"}]
        async with data_plane(upstreams=servers) as plane:
            told = next(iter(plane.pool.servers.values()))
            plane.pool.failed(told.name, surely=True)
            plane.pool.try_again(told)
            assert [view.healthy for view in plane.scheduler.room.server_views()] == [True, True]
            assert plane.scheduler.room.server_views()[0].slots == 1
