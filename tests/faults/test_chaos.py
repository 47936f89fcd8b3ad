"""Everything at once: hundreds of requests, servers that fail at random, clients that leave at random; then rest."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from random import Random

import pytest

from tests.faults.stage import (
    ASKS,
    OK,
    STREAM,
    Fin,
    Peer,
    Rst,
    Silence,
    Step,
    chunk,
    client,
    read,
    request,
    reset,
    rest,
    stage,
    until,
)

EVENT = b'data: {"token":{"id":1,"text":"a"},"choices":[{"text":"a"}]}\n\n'
NO = b"HTTP/1.1 503 Service Unavailable\r\n\r\n"
REQUESTS = 200
SECONDS = 2.0


def whole_stream(random: Random) -> list[Step]:
    steps: list[Step] = [STREAM]
    for _ in range(random.randrange(1, 8)):
        steps += [chunk(EVENT), random.random() * 0.02]
    return [*steps, b"0\r\n\r\n"]


def misdeeds(random: Random) -> list[Step]:
    """What a server does with one request: well in three of four cases."""
    well = [OK] if random.random() < 0.5 else whole_stream(random)
    cut = [*well[: random.randrange(len(well))], random.choice([Fin, Rst])]
    return random.choices(
        [
            well,
            cut,
            [Rst],
            [Fin],
            [Silence],
            [b"\x00junk", Fin],
            [0.05, *well],
            [OK, b"more"],
            [NO, Fin],
        ],
        [16, 2, 1, 1, 0.5, 1, 2, 1, 1],
    )[0]


@pytest.mark.parametrize(("seed", "busy"), [(1, "pass"), (2, "wait")])
async def test_all_come_to_rest_and_the_sums_agree(seed: int, busy: str) -> None:
    random = Random(seed)
    told: list[str] = []

    async def serve(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.play(*misdeeds(random))

    async def ask_and_perhaps_leave(address: str, dialect: str) -> None:
        await asyncio.sleep(random.random() * SECONDS)
        streamed = random.random() < 0.5 if (dialect, False) in ASKS else True
        hold = ["x-paceline-max-hold: 0.3"] if random.random() < 0.3 else []
        octets = request(dialect, *hold, streamed=streamed)
        fate = random.random()
        async with client(address) as peer:
            with suppress(ConnectionError):
                if fate < 0.05:  # in its own body
                    await peer.play(octets[:-3], random.random() * 0.1)
                    told.append("left")
                elif fate < 0.3:
                    await peer.play(octets, random.random() * 0.2)
                    told.append("left")
                    if fate < 0.1:
                        reset(peer.writer)
                else:
                    await peer.play(octets)
                    got = read(await rest(peer))
                    told.append(str(got.status) if got.whole else "cut")

    flags = {"answer_timeout_s": 0.5, "busy": busy, "queue.timeout_s": 5.0, "health.open_s": 0.2, "dialect": "tgi"}
    async with stage(serve, serve, slots=4, **flags) as on:
        clients = [ask_and_perhaps_leave(on.address, random.choice(["tgi", "tgi", "openai"])) for _ in range(REQUESTS)]
        async with asyncio.timeout(15):
            await asyncio.gather(*clients)
        await until(lambda: on.plane.forward.open == 0)
        await on.rests()
        assert len(told) == REQUESTS
        assert set(told) <= {"200", "502", "503", "504", "cut", "left"}
        assert told.count("200") > REQUESTS / 4
