"""Servers that are told to sleep and to wake over real sockets: those that do, and those that do not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from policies.base import Action, ServerState
from proxy.breaker import Circuit
from proxy.checks import Checks
from proxy.config import Sleep
from proxy.fleet import Server
from proxy.reload import reload
from proxy.sleeping import Sleeping
from tests.proxy.test_reload import configured, proxy, url_of
from tests.serving import DataPlane, Seen, Upstream, data_plane, exchange, upstream

AWAKE, ASLEEP, FALLING, WAKING = ServerState.AWAKE, ServerState.ASLEEP, ServerState.FALLING_ASLEEP, ServerState.WAKING
SOON = Sleep(timeout_s=0.3, again_s=60.0)


@dataclass
class Engine:
    """A vLLM as far as its sleep goes: what it answers to each path, and what it was asked."""

    asleep: bool = False
    answers: dict[str, int] = field(default_factory=dict)  # by path, where it is not 200
    silent: set[str] = field(default_factory=set)  # paths that it does not answer
    asked: list[str] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)

    async def __call__(self, seen: Seen, writer: asyncio.StreamWriter) -> None:
        method, target, _ = seen.head.decode().split(" ", 2)
        path = target.partition("?")[0]
        self.asked.append(f"{method} {target}")
        self.seen.append(seen)
        if path in self.silent:
            await seen.closed.wait()
            return
        status = self.answers.get(path, 200)
        if status == 200 and method == "POST":
            self.asleep = {"/sleep": True, "/wake_up": False}.get(path, self.asleep)
        body = b'{"is_sleeping": %s}' % (b"true" if self.asleep else b"false") if path == "/is_sleeping" else b"{}"
        head = b"HTTP/1.1 %d Told\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % (status, len(body)) + body)


@dataclass
class Stage:
    """A proxy in front of such engines, with nobody but the test who acts."""

    plane: DataPlane
    sleeping: Sleeping
    engines: list[Engine]
    settings: Sleep

    def server(self, index: int = 0) -> Server:
        return list(self.plane.pool.servers.values())[index]

    def state(self, index: int = 0) -> ServerState:
        return self.plane.pool.state(self.server(index).name)

    def act(self, action: Action, index: int = 0, **options: Any) -> None:
        """As a room does, which changes the state before it asks."""
        name = self.server(index).name
        self.plane.scheduler.room.set_state(name, FALLING if action is Action.SLEEP else WAKING)
        self.sleeping.act(self.plane.pool, name, action, self.settings, **options)

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not true():
                await asyncio.sleep(0.005)


@asynccontextmanager
async def stage(*engines: Engine, dialect: str = "vllm", settings: Sleep = SOON, **flags: Any) -> AsyncIterator[Stage]:
    async with upstream(engines[0]) as first, upstream(engines[-1]) as last:
        addresses = [first.address, last.address][: len(engines)]
        async with data_plane(*addresses, dialect=dialect, **flags) as plane:
            sleeping = Sleeping()
            plane.scheduler.on_action = lambda server, action: sleeping.act(plane.pool, server, action, settings)
            try:
                yield Stage(plane, sleeping, list(engines), settings)
            finally:
                await sleeping.stop(plane.fleet)


async def test_vllm_is_told_to_wait_for_its_requests_and_confirms() -> None:
    async with stage(Engine(), Engine()) as on:
        on.act(Action.SLEEP)
        # spread tends nobody, so the room has it woken as soon as it sleeps
        await on.until(lambda: len(on.engines[0].asked) == 4 and on.state() is AWAKE)
        asked = ["POST /sleep?level=1&mode=wait", "GET /is_sleeping", "POST /wake_up", "GET /is_sleeping"]
        assert on.engines[0].asked == asked


async def test_sglang_gets_json() -> None:
    async with stage(Engine(), Engine(), dialect="sglang") as on:
        on.act(Action.SLEEP)
        await on.until(lambda: len(on.engines[0].asked) == 2 and on.state() is AWAKE)
        assert on.engines[0].asked == ["POST /release_memory_occupation", "POST /resume_memory_occupation"]
        for seen in on.engines[0].seen:
            assert (b"content-type: application/json" in seen.head, seen.body) == (True, b"{}")


async def test_a_server_is_shown_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stage(Engine()) as on:
        on.server().use_key("secret")
        on.act(Action.WAKE)
        await on.until(lambda: on.state() is AWAKE)
        assert all(b"authorization: Bearer secret" in seen.head for seen in on.engines[0].seen)


@pytest.mark.parametrize(
    ("dialect", "engine", "said"),
    [
        ("tgi", Engine(), "speaks tgi has no route"),
        ("llamacpp", Engine(), "speaks llamacpp has no route"),
        ("vllm", Engine(answers={"/sleep": 404}), "needs --enable-sleep-mode, and VLLM_SERVER_DEV_MODE=1"),
        ("vllm", Engine(answers={"/sleep": 500}), "/sleep?level=1&mode=wait answers 500"),
        ("sglang", Engine(answers={"/release_memory_occupation": 403}), "needs --enable-memory-saver"),
    ],
)
async def test_one_that_cannot_stays_awake_and_that_is_said_once(
    dialect: str, engine: Engine, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with stage(engine, dialect=dialect) as on:
        with caplog.at_level(logging.INFO):
            for _ in range(3):
                on.act(Action.SLEEP)
                await on.until(lambda: on.state() is AWAKE)
        warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(warnings) == 1
        assert said in warnings[0]
        # it was asked once, and is left alone for a while
        assert sum("/sleep" in asked or "release" in asked for asked in engine.asked) == (dialect in ("vllm", "sglang"))


async def test_after_a_while_it_is_asked_again() -> None:
    engine = Engine(answers={"/sleep": 404})
    async with stage(engine, settings=Sleep(timeout_s=0.3, again_s=0.0001)) as on:
        on.act(Action.SLEEP)
        await on.until(lambda: on.state() is AWAKE)
        engine.answers.clear()
        on.act(Action.SLEEP)
        await on.until(lambda: "GET /is_sleeping" in engine.asked)
        assert sum("/sleep" in asked for asked in engine.asked) == 2


@pytest.mark.parametrize("liar", [Engine(answers={"/sleep": 202}), Engine(silent={"/sleep"})])
async def test_one_that_may_yet_fall_asleep_is_woken_before_it_gets_requests(liar: Engine) -> None:
    async with stage(liar) as on:
        on.act(Action.SLEEP)
        await on.until(lambda: on.state() is AWAKE)
        # where it says that it is awake, it need not be told to wake
        assert "GET /is_sleeping" in liar.asked
        assert liar.asleep is False
    unsure = Engine(silent={"/sleep"}, asleep=True)
    async with stage(unsure) as on:
        on.act(Action.SLEEP)
        await on.until(lambda: on.state() is AWAKE)
        assert unsure.asked[-1] == "POST /wake_up"
        assert unsure.asleep is False


@pytest.mark.parametrize("trouble", [{"answers": {"/wake_up": 500}}, {"silent": {"/wake_up"}}])
async def test_one_that_does_not_wake_fails_and_another_is_woken(
    trouble: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    broken, well = Engine(asleep=True, **trouble), Engine(asleep=True)
    async with stage(broken, well, **{"health.open_s": 0.2}) as on:
        for index in (0, 1):
            on.plane.scheduler.room.set_state(on.server(index).name, ASLEEP)
        answer = asyncio.create_task(exchange(on.plane.address, _chat()))
        await on.until(lambda: on.server(0).breaker.circuit is Circuit.OPEN)
        assert (await answer).startswith(b"HTTP/1.1 200")
        assert on.state(1) is AWAKE
        assert "does not wake" in caplog.text
        # its circuit's time is over and it is well again
        broken.answers.clear()
        broken.silent.clear()
        await on.until(lambda: on.state(0) is ASLEEP or on.state(0) is AWAKE)
        on.plane.pool.try_again(on.server(0))
        await on.until(lambda: on.state(0) is AWAKE)
        assert on.server(0).breaker.circuit is Circuit.CLOSED


async def test_a_server_that_is_asleep_when_we_come_is_known_as_asleep() -> None:
    engines = Engine(asleep=True), Engine()
    async with stage(*engines) as on:
        on.plane.scheduler.on_action = lambda server, action: None  # nobody wakes it
        checks = Checks(on.plane.forward.config, on.plane.fleet)
        await checks.discover()
        assert (on.state(0), on.state(1)) == (WAKING, AWAKE)  # spread tends nobody, so the room wants it awake
        assert on.plane.pool.fixed is on.server(1)
        on.plane.scheduler.room.set_state(on.server(0).name, ASLEEP)
        engines[0].asked.clear()
        await checks._check(on.plane.pool, on.server(0))
        assert engines[0].asked == ["GET /is_sleeping"]  # and not its health
        # somebody else wakes it
        engines[0].asleep = False
        on.plane.scheduler.room.set_state(on.server(0).name, ASLEEP)
        await checks._check(on.plane.pool, on.server(0))
        assert on.state(0) is AWAKE


async def test_one_without_the_route_is_not_asked_for_ever() -> None:
    engine = Engine(answers={"/is_sleeping": 404})
    async with stage(engine) as on:
        checks = Checks(on.plane.forward.config, on.plane.fleet)
        await checks.discover()
        for _ in range(3):
            await checks._check(on.plane.pool, on.server())
        assert engine.asked.count("GET /is_sleeping") == 1
        assert engine.asked.count("GET /health") == 3


async def test_what_is_not_scheduled_goes_to_who_is_awake() -> None:
    asleep, awake = Engine(asleep=True), Engine()
    async with stage(asleep, awake) as on:
        on.plane.scheduler.on_action = lambda server, action: None
        on.plane.scheduler.room.set_state(on.server(0).name, ASLEEP)
        await exchange(on.plane.address, b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert (asleep.asked, awake.asked) == ([], ["GET /v1/models"])


async def test_who_closes_sends_nobody_to_sleep_and_says_who_sleeps(caplog: pytest.LogCaptureFixture) -> None:
    engines = Engine(), Engine(asleep=True)
    async with stage(*engines) as on:
        on.act(Action.SLEEP, closing=True)
        assert on.state(0) is AWAKE
        on.plane.scheduler.room.set_state(on.server(1).name, ASLEEP)
        await on.sleeping.stop(on.plane.fleet)
        assert engines[0].asked == []
        assert f"not awake at the end: {on.server(1).name} (asleep)" in caplog.text
        on.plane.scheduler.room.set_state(on.server(1).name, AWAKE)


async def test_a_server_that_has_gone_is_nobodys_to_wake() -> None:
    async with stage(Engine()) as on:
        on.sleeping.act(on.plane.pool, "http://gone", Action.WAKE, SOON)
        assert not on.sleeping._tasks


async def test_what_a_client_library_raises_leaves_no_server_between_awake_and_asleep(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stage(Engine(), Engine(asleep=True)) as on:

        async def post(*args: object, **options: object) -> None:
            raise ValueError("nobody thought of this")

        for index in (0, 1):
            monkeypatch.setattr(on.server(index).control, "post", post)
        on.act(Action.SLEEP, 0)
        await on.until(lambda: on.state(0) is AWAKE)
        on.act(Action.WAKE, 1)
        await on.until(lambda: on.server(1).breaker.circuit is Circuit.OPEN)


def _sleepy(group: str, *servers: Upstream) -> dict[str, Any]:
    return {
        "upstreams": [{"url": url_of(server), "group": group} for server in servers],
        "dialect": "vllm",
        "placement": {"name": "sleepy", "params": {"after_s": 0.3}},
    }


async def test_a_group_that_has_gone_puts_no_server_of_another_to_sleep() -> None:
    engines = Engine(), Engine()
    async with upstream(engines[0]) as first, upstream(engines[1]) as last:
        async with proxy(**_sleepy("old", first, last)) as (app, _):
            app.fleet.default.scheduler._touch()
            await asyncio.sleep(0.05)  # both are known to be empty, and the second is to sleep soon
            reload(app, configured(**{**_sleepy("new", first, last), "placement": {"name": "spread"}}))
            await asyncio.sleep(0.5)
            assert not any(asked.startswith("POST /sleep") for engine in engines for asked in engine.asked)


async def test_a_sleeper_that_comes_to_another_group_is_known_as_asleep_there() -> None:
    engines = Engine(), Engine(asleep=True)
    async with upstream(engines[0]) as first, upstream(engines[1]) as last:
        async with proxy(**_sleepy("old", first, last)) as (app, _):
            app.fleet.default.scheduler.room.set_state(url_of(last), ASLEEP)
            reload(app, configured(**_sleepy("new", first, last)))
            states = [app.fleet.pools["new"].state(url_of(server)) for server in (first, last)]
            assert states == [AWAKE, ASLEEP]


def _chat() -> bytes:
    body = b'{"messages": [{"role": "user", "content": "hello"}]}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
    return head + b"content-length: %d\r\n\r\n" % len(body) + body
