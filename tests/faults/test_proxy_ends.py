"""The proxy is told to end, or to read its configuration again, in the midst of its work: real processes, real signals."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from bench.engine import SimulatedServer
from bench.processes import Child, running
from telemetry.cost import Linear, StepModel
from tests.faults.stage import STREAM, FaultyServer, chunk, plays, request
from tests.faults.test_client_faults import narrow

# a token in 20 ms
MODEL = StepModel("steady", Linear(0.02, 0.0, 0.0, 0.0), Linear(2.0, 0.01, 0.01, 0.0), idle_power_w=100.0)
HELD = {"x-paceline-max-hold": "30"}


@dataclass
class Proxy:
    """`paceline serve`, and where it listens."""

    child: Child
    data: str
    admin: httpx.AsyncClient
    client: httpx.AsyncClient
    file: Path

    def tell(self, name: signal.Signals) -> None:
        self.child.process.send_signal(name)

    async def stream(self, tokens: int) -> httpx.Response:
        body = {"inputs": "a", "parameters": {"max_new_tokens": tokens}}
        return await self.client.post("/generate_stream", json=body)

    async def hold(self, tokens: int = 5) -> httpx.Response:
        body = {"inputs": "a", "parameters": {"max_new_tokens": tokens}}
        return await self.client.post("/generate", json=body, headers=HELD)

    async def has(self, *, held: int, in_flight: int) -> None:
        async with asyncio.timeout(5):
            while True:
                room = (await self.admin.get("/status")).json()["room"]
                if (room["held"], room["in_flight"]) == (held, in_flight):
                    return
                await asyncio.sleep(0.02)


@asynccontextmanager
async def proxy(folder: Path, more: str = "", url: str = "") -> AsyncIterator[Proxy]:
    """In front of a simulated engine, or of what is at `url`."""
    file = folder / "paceline.toml"
    async with SimulatedServer("tgi", MODEL) as engine:
        file.write_text(
            f'upstreams = ["{url or engine.url}"]\nhost = "127.0.0.1"\nport = 0\nadmin_port = 0\nenergy.meter = "none"\n'
            "slack.interactive = { default_s = 0.0, max_s = 60.0 }\n"
            f'policy = {{ name = "window", params = {{ every_s = 60 }} }}\n{more}\n'
        )
        async with running("serve", "--config", str(file)) as child:
            ready = await child.ready(r"data (\S+) admin (\S+)")
            async with (
                httpx.AsyncClient(base_url=ready[1], trust_env=False, timeout=20) as client,
                httpx.AsyncClient(base_url=ready[2], trust_env=False, timeout=5) as admin,
            ):
                yield Proxy(child, ready[1].removeprefix("http://"), admin, client, file)


async def test_who_streams_ends_whole_and_who_waits_leaves_at_once(tmp_path: Path) -> None:
    async with proxy(tmp_path) as on:
        streams = [asyncio.create_task(on.stream(60)) for _ in range(6)]
        waiting = [asyncio.create_task(on.hold()) for _ in range(4)]
        await on.has(held=4, in_flight=6)
        on.tell(signal.SIGTERM)
        told_at = time.monotonic()
        await asyncio.gather(*waiting)
        assert time.monotonic() - told_at < 1
        assert (await on.admin.get("/readyz")).status_code == 503
        with pytest.raises(httpx.ConnectError):
            await httpx.AsyncClient(trust_env=False).get(f"http://{on.data}/health")
        answers = await asyncio.gather(*streams)
        assert {answer.status_code for answer in [*answers, *(task.result() for task in waiting)]} == {200}
        assert {answer.text.count("data:") for answer in answers} == {60}
        assert await on.child.finished(5) == 0


async def test_who_waits_is_refused_where_that_is_wanted_and_the_grace_is_bounded(tmp_path: Path) -> None:
    async with proxy(tmp_path, 'drain = { waiting = "refuse", linger_s = 0.5, grace_s = 0.7 }') as on:
        streams = [asyncio.create_task(on.stream(3000)) for _ in range(3)]
        waiting = [asyncio.create_task(on.hold()) for _ in range(4)]
        await on.has(held=4, in_flight=3)
        unanswered = asyncio.create_task(
            on.client.post("/generate", json={"inputs": "a", "parameters": {"max_new_tokens": 3000}})
        )
        await on.has(held=4, in_flight=4)
        on.tell(signal.SIGTERM)
        told_at = time.monotonic()
        for answer in await asyncio.gather(*waiting):
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert answer.json()["error_type"] == "overloaded"
        assert (await on.admin.get("/readyz")).status_code == 503
        assert (await on.client.get("/health")).status_code == 200  # it listens on for a while
        for stream in streams:
            with pytest.raises(httpx.RemoteProtocolError):
                await stream
        assert (await unanswered).status_code == 503
        assert await on.child.finished(5) == 0
        assert 1.0 < time.monotonic() - told_at < 3


async def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    async with proxy(tmp_path) as on:
        stream = asyncio.create_task(on.stream(3000))
        await on.has(held=0, in_flight=1)
        on.tell(signal.SIGTERM)
        await asyncio.sleep(0.3)
        assert not stream.done()
        on.tell(signal.SIGTERM)
        told_at = time.monotonic()
        with pytest.raises(httpx.RemoteProtocolError):
            await stream
        assert await on.child.finished(5) == 0
        assert time.monotonic() - told_at < 2


@pytest.mark.parametrize("octets", [None, 20_000_000])
async def test_a_client_that_takes_nothing_does_not_keep_the_process(tmp_path: Path, octets: int | None) -> None:
    """Of an answer without end, and of one that is over for us and stands in the socket's buffer."""
    flood = FaultyServer(plays(STREAM, *[chunk(b"x" * 65_536)] * 1000) if octets is None else plays(_answer(octets)))
    await flood.start()
    window = 65_536 if octets is None else 100_000_000
    more = f'dialect = "tgi"\nlimits.stream_window_bytes = {window}\ndrain.grace_s = 0.5'
    async with AsyncExitStack() as stack:
        stack.push_async_callback(flood.stop)
        on = await stack.enter_async_context(proxy(tmp_path, more, f"http://{flood.address}"))
        _, stuck = await narrow(on.data)
        stack.callback(stuck.close)
        stuck.write(request(streamed=True))
        await on.has(held=0, in_flight=0 if octets else 1)
        await asyncio.sleep(0.5)
        on.tell(signal.SIGTERM)
        told_at = time.monotonic()
        assert await on.child.finished(10) == 0
        assert time.monotonic() - told_at < 3


def _answer(octets: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % octets + b"x" * octets


async def test_a_proxy_that_reads_its_configuration_again_under_load_loses_nobody(tmp_path: Path) -> None:
    async with proxy(tmp_path) as on:
        waiting = [asyncio.create_task(on.hold()) for _ in range(5)]
        await on.has(held=5, in_flight=0)
        text = on.file.read_text()
        sending: list[asyncio.Task[httpx.Response]] = []
        for n in range(12):
            sending += [asyncio.create_task(on.stream(10)) for _ in range(3)]
            policy = ("passthrough", "window")[n % 2]
            changed = text.replace('name = "window"', f'name = "{policy}"').replace(
                "params = { every_s = 60 }", "params = {}" if policy == "passthrough" else "params = { every_s = 0.2 }"
            )
            on.file.write_text(changed if n % 5 else "nonsense = ")
            on.tell(signal.SIGHUP)
            await asyncio.sleep(0.08)
        answers = await asyncio.gather(*sending, *waiting)
        assert {answer.status_code for answer in answers} == {200}
        status = (await on.admin.get("/status")).json()
        assert status["config"]["generation"] == 1 + 12 - 3
        assert status["admitted"] == sum(status["outcomes"].values()) == 41
        assert (status["requests"]["completed"], status["requests"]["failed"], status["requests"]["open"]) == (41, 0, 0)


async def test_a_killed_proxy_frees_its_servers(tmp_path: Path) -> None:
    async with SimulatedServer("tgi", MODEL) as engine:
        options = ("--host", "127.0.0.1", "--port", "0", "--admin-port", "0", "--upstream", engine.url, "--meter", "none")
        async with running("serve", *options) as child:
            ready = await child.ready(r"data (\S+) admin")
            async with httpx.AsyncClient(base_url=ready[1], trust_env=False, timeout=20) as client:
                body = {"inputs": "a", "parameters": {"max_new_tokens": 3000}}
                asked = [asyncio.create_task(client.post("/generate_stream", json=body)) for _ in range(5)]
                async with asyncio.timeout(5):
                    while engine.driver.engine.in_flight < 5:
                        await asyncio.sleep(0.02)
                child.process.kill()
                for one in asked:
                    with pytest.raises(httpx.HTTPError):
                        await one
                async with asyncio.timeout(2):
                    while engine.driver.engine.in_flight:
                        await asyncio.sleep(0.02)
