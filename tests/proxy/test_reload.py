"""Another configuration in force while requests run: all of it or nothing, and nobody lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from policies.passthrough import Passthrough
from policies.span import Span
from policies.window import Window
from proxy.admin import create_admin
from proxy.app import App, create_app
from proxy.reload import reload
from proxy.sources import ConfigError, load
from tests.proxy.test_fleet import answers, settled
from tests.proxy.test_forward import BODY, post, split
from tests.serving import Seen, Upstream, exchange, served, upstream


@asynccontextmanager
async def proxy(**flags: Any) -> AsyncIterator[tuple[App, str]]:
    app = create_app(configured(**flags), {"KEY": "one"})
    async with served(app.forward, app.config.limits) as address:
        yield app, address
    await app.stop()


def configured(*servers: Upstream, **flags: Any) -> Any:
    if servers:
        flags["upstreams"] = [{"url": url_of(server)} for server in servers]
    return load(None, {"KEY": "one"}, {"energy.meter": "none", "dialect": "tgi", **flags})


def url_of(server: Upstream) -> str:
    return f"http://{server.address}"


async def ask(address: str, *headers: str) -> bytes:
    return split(await exchange(address, post("/generate", BODY, *headers)))[2]


class Gate:
    """A server's script that answers once it is opened."""

    def __init__(self, text: bytes) -> None:
        self.opened, self.text = asyncio.Event(), text

    async def __call__(self, seen: Seen, writer: asyncio.StreamWriter) -> None:
        await self.opened.wait()
        await answers(self.text)(seen, writer)


async def test_servers_come_and_go_and_who_is_in_flight_stays() -> None:
    gate = Gate(b"old")
    async with upstream(gate) as old, upstream(answers(b"new")) as new, proxy(upstreams=[url_of(old)]) as (app, address):
        running = asyncio.create_task(ask(address))
        await settled(lambda: old.seen)
        reload(app, configured(new))
        assert await ask(address) == b"new"
        assert not running.done()
        gate.opened.set()
        assert await running == b"old"
        assert [server.name for server in app.fleet.servers] == [url_of(new)]
        await settled(lambda: not app._background)  # the old server's connections are closed
        room = app.fleet.default.scheduler.room
        assert [view.name for view in room.server_views()] == [url_of(new)]
        assert room._servers.keys() == {url_of(new)}


async def test_a_group_that_goes_serves_who_waits_for_it() -> None:
    async with upstream(answers(b"old")) as old, upstream(answers(b"new")) as new:
        groups = [{"url": url_of(new), "group": "new"}, {"url": url_of(old), "group": "old"}]
        models = [{"name": "m", "group": "old"}]
        flags: dict[str, Any] = {"models": models, "dialect": "vllm", "policy.name": "window", "policy.params.every_s": 60.0}
        async with proxy(upstreams=groups, **flags) as (app, address):
            body = b'{"model":"m","prompt":"x","service_tier":"flex"}'
            held = asyncio.create_task(exchange(address, post("/v1/completions", body)))
            await settled(lambda: app.fleet.pools["old"].scheduler.room.held == 1)
            reload(app, configured(new, dialect="vllm", **{"policy.name": "window", "policy.params.every_s": 60.0}))
            assert split(await held)[2] == b"old"
            await settled(lambda: not app._background)


async def test_the_strategy_changes_only_if_the_configuration_of_it_does() -> None:
    async with upstream(answers(b"x")) as server, proxy(upstreams=[url_of(server)]) as (app, _):
        scheduler = app.fleet.default.scheduler
        assert isinstance(scheduler.room.policy, Span)
        scheduler.use(configured(server, **{"policy.name": "passthrough"}).strategy())  # by the admin port
        reload(app, configured(server, **{"queue.limit": 5}))
        assert isinstance(scheduler.room.policy, Passthrough)
        assert scheduler.room.queue_limit == 5
        reload(app, configured(server, **{"policy.name": "window"}))
        assert isinstance(scheduler.room.policy, Window)


async def test_limits_tenants_and_slots_hold_from_the_next_request_on() -> None:
    async with upstream(answers(b"x")) as server, proxy(upstreams=[url_of(server)]) as (app, address):
        assert await ask(address) == b"x"
        more = {"limits.body_bytes": 10, "upstreams": [{"url": url_of(server), "slots": 3}]}
        reload(app, configured(**more))
        assert (await exchange(address, post("/generate"))).startswith(b"HTTP/1.1 413")
        assert app.fleet.default.scheduler.room.server_views()[0].slots == 3
        assert app.generation == 2


async def test_a_key_can_be_changed_without_a_restart(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("first")
    async with upstream(answers(b"x")) as server:
        servers = [{"url": url_of(server), "key_file": str(key)}]
        async with proxy(upstreams=servers) as (app, address):
            await ask(address)
            key.write_text("second")
            reload(app, configured(upstreams=servers))
            await ask(address)
        assert [b"Bearer first" in seen.head for seen in server.seen] == [True, False]
        assert b"Bearer second" in server.seen[1].head


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"port": 1}, "port"),
        ({"limits.header_bytes": 1000}, "limits.header_bytes"),
        ({"energy.poll_s": 0.5}, "energy"),
        ({"log_requests": True}, "log_requests"),
    ],
)
async def test_what_needs_a_restart_is_refused_whole(flags: dict[str, Any], named: str) -> None:
    async with upstream(answers(b"x")) as server, proxy(upstreams=[url_of(server)]) as (app, _):
        before = app.config
        with pytest.raises(ConfigError, match=f"{named}.*without a restart"):
            reload(app, configured(server, **flags, **{"queue.limit": 1}))
        assert app.config is before
        assert app.fleet.default.scheduler.room.queue_limit == before.queue.limit
        assert app.generation == 1


async def test_a_server_with_other_timeouts_is_connected_to_anew() -> None:
    gate = Gate(b"slow")
    async with upstream(gate) as server, proxy(upstreams=[url_of(server)]) as (app, address):
        running = asyncio.create_task(ask(address))
        await settled(lambda: server.seen)
        former = next(app.fleet.servers)
        reload(app, configured(server, answer_timeout_s=5.0))
        assert next(app.fleet.servers).client is not former.client
        gate.opened.set()
        assert await running == b"slow"
        await settled(lambda: not app._background)


async def test_the_admin_port_reads_the_configuration_again(tmp_path: Path) -> None:
    async with upstream(answers(b"x")) as server:
        file = tmp_path / "paceline.toml"
        text = f'upstreams = ["{url_of(server)}"]\nenergy.meter = "none"\ndialect = "tgi"\n'
        file.write_text(text)
        async with proxy(upstreams=[url_of(server)]) as (app, _):
            async with served(create_admin(app, lambda: load(file, {}, {}))) as admin, httpx.AsyncClient() as client:
                file.write_text(text + "[queue]\nlimit = 7\n")
                answer = await client.post(f"http://{admin}/reload")
                assert (answer.status_code, answer.json()["generation"]) == (200, 2)
                assert app.config.queue.limit == 7
                file.write_text(text + "[queue]\nlimit = 'x'\n")
                answer = await client.post(f"http://{admin}/reload")
                assert answer.status_code == 422
                assert "queue.limit" in json.loads(answer.text)["detail"]
                status = (await client.get(f"http://{admin}/status")).json()
                assert status["config"] == {"generation": 2, "digest": app.config.digest()}
                metrics = (await client.get(f"http://{admin}/metrics")).text
                assert f'paceline_config_generation{{paceline_config_digest="{app.config.digest()}"}} 2' in metrics


async def test_a_certificate_that_is_none_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    async with upstream(answers(b"x")) as server, proxy(upstreams=[url_of(server)]) as (app, address):
        good = configured(upstreams=[{"url": "https://127.0.0.1:1"}])
        bad = good.model_copy(
            update={"upstreams": (good.upstreams[0].model_copy(update={"ca_file": str(tmp_path / "ca.pem")}),)}
        )
        with pytest.raises(ConfigError, match="nothing has been changed"):
            reload(app, bad)
        assert await ask(address) == b"x"


async def test_a_group_that_gets_another_name_strands_nobody() -> None:
    gate = Gate(b"x")
    async with upstream(gate) as server:
        before = [{"url": url_of(server), "slots": 1, "group": "old"}]
        async with proxy(upstreams=before) as (app, address):
            asks = [asyncio.create_task(ask(address)) for _ in range(3)]
            await settled(lambda: app.fleet.default.scheduler.room.ready == 2)
            reload(app, configured(upstreams=[{"url": url_of(server), "slots": 1, "group": "new"}]))
            gate.opened.set()
            assert await asyncio.wait_for(asyncio.gather(*asks), 5) == [b"x"] * 3


async def test_a_request_whose_body_is_still_coming_meets_the_new_configuration() -> None:
    async with upstream(answers(b"old")) as old, upstream(answers(b"new")) as new:
        async with proxy(upstreams=[url_of(old)]) as (app, address):
            host, port = address.split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            request = post("/generate")
            writer.write(request[:-5])
            await settled(lambda: app.forward.open == 1)
            reload(app, configured(new))
            await settled(lambda: not app._background)
            writer.write(request[-5:])
            assert split(await asyncio.wait_for(reader.read(), 5))[2] == b"new"
            writer.close()
            await writer.wait_closed()


async def test_a_server_with_another_key_is_asked_again_what_it_is(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("wrong")
    async with upstream(answers(b"x")) as server:
        servers = [{"url": url_of(server), "key_file": str(key)}]
        async with proxy(upstreams=servers) as (app, _):
            one = next(app.fleet.servers)
            one.ask_again = False
            key.write_text("right")
            reload(app, configured(upstreams=servers))
            assert one.ask_again
