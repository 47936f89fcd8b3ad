"""The meter of simulated engines, over real sockets; it blocks, so it runs in a thread as in the monitor."""

from __future__ import annotations

import asyncio
import time

import pytest

from bench.engine import SimulatedServer
from telemetry.cost import Linear, StepModel
from telemetry.meter import Meter, MeterUnavailable
from telemetry.simulated import SimulatedMeter
from telemetry.snapshot import Source

MODEL = StepModel("quick", Linear(0.001, 0.0, 0.0, 0.0), Linear(2.0, 0.01, 0.01, 0.0), idle_power_w=100.0)


def port(server: SimulatedServer) -> int:
    return int(server.url.rpartition(":")[2])


async def test_it_reads_each_engines_counter() -> None:
    async with SimulatedServer("tgi", MODEL, speed=20) as one, SimulatedServer("openai", MODEL) as other:
        meter: Meter = SimulatedMeter([one.url, other.url])
        await asyncio.sleep(0.05)
        before = time.monotonic()
        first, second = await asyncio.to_thread(meter.read)
        after = time.monotonic()
        assert (first.device, second.device) == (f"sim:127.0.0.1:{port(one)}", f"sim:127.0.0.1:{port(other)}")
        assert first.source is Source.SIMULATED
        assert before < first.at_s < second.at_s < after
        assert isinstance(first.energy_uj, int)
        assert first.energy_uj >= 100_000_000  # at least a second of the engine's
        assert first.energy_uj % 10_000_000 == 0
        assert second.energy_uj == 0
        meter.close()


async def test_it_keeps_its_connection_and_makes_a_new_one_when_it_is_gone() -> None:
    async with SimulatedServer("tgi", MODEL) as server:
        meter = SimulatedMeter([server.url])
        for _ in range(5):
            await asyncio.to_thread(meter.read)
        assert len(connections(server)) == 1
        connections(server).pop().transport.abort()
        await asyncio.sleep(0.01)
        assert len(await asyncio.to_thread(meter.read)) == 1
        meter.close()


def connections(server: SimulatedServer) -> set[object]:
    """The server's open connections."""
    return server._listener._server.server_state.connections  # type: ignore[union-attr,return-value]


async def test_an_engine_that_is_gone_and_comes_back() -> None:
    server = SimulatedServer("tgi", MODEL)
    await server.start()
    meter = SimulatedMeter([server.url])
    await asyncio.to_thread(meter.read)
    await server.stop()
    for _ in range(2):
        with pytest.raises(MeterUnavailable, match=rf"no answer from {server.url}/simulator/energy: ConnectionRefused"):
            await asyncio.to_thread(meter.read)
    async with SimulatedServer("tgi", MODEL, port=port(server)):
        assert len(await asyncio.to_thread(meter.read)) == 1
    meter.close()


async def test_one_that_is_gone_does_not_hide_the_others() -> None:
    async with SimulatedServer("tgi", MODEL) as server:
        meter = SimulatedMeter(["http://127.0.0.1:9", server.url])
        assert [reading.device for reading in await asyncio.to_thread(meter.read)] == [f"sim:127.0.0.1:{port(server)}"]
        meter.close()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "status 404, so no simulated engine"),
        (b'HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"mj": 1}', "it answers b'{\"mj\": 1}'"),
        (b"SSH-2.0-OpenSSH\r\n", "BadStatusLine"),
        (b"", "no answer"),
    ],
)
async def test_what_is_no_engine_is_told(answer: bytes, message: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    meter = SimulatedMeter([f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"])
    with pytest.raises(MeterUnavailable, match=message):
        await asyncio.to_thread(meter.read)
    meter.close()
    server.close()
    await server.wait_closed()


def test_no_engine_at_all() -> None:
    with pytest.raises(MeterUnavailable, match="no simulated engine is named"):
        SimulatedMeter([]).read()
