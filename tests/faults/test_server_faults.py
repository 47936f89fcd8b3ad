"""Servers that die, lie, stall and talk nonsense: the client is told, somebody else is not harmed, and nothing is left."""

from __future__ import annotations

import asyncio
import time

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
    answers,
    ask,
    chunk,
    client,
    plays,
    read,
    request,
    stage,
    until,
)

EVENT = b'data: {"token":{"id":1,"text":"a"},"choices":[{"delta":{"content":"a"}}]}\n\n'
SIZED = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n"

# what a server does after it has read the request, and what its client gets: a status, or None for an answer cut off
FAULTS: dict[str, tuple[tuple[Step, ...], int | None]] = {
    "closes": ((Fin,), 502),
    "resets": ((Rst,), 502),
    "says half a status line": ((b"HTTP/1.1 20", Fin), 502),
    "says half a head": ((b"HTTP/1.1 200 OK\r\ncontent-le", 0.02, Rst), 502),
    "is silent": ((Silence,), 504),
    "is silent in its head": ((b"HTTP/1.1 200 OK\r\nx: ", Silence), 504),
    "speaks no HTTP": ((b"SSH-2.0-OpenSSH_9.6\r\n", Silence), 502),
    "speaks HTTP/0.9": ((b"<html>hello</html>\n", Fin), 502),
    "speaks TLS": ((b"\x15\x03\x01\x00\x02\x02\x46", Fin), 502),
    "has a status of letters": ((b"HTTP/1.1 abc OK\r\n\r\n", Fin), 502),
    "has a status below 100": ((b"HTTP/1.1 099 Odd\r\ncontent-length: 0\r\n\r\n", Fin), 502),
    "has a status above 599": ((b"HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n", Fin), 502),
    "switches protocols unasked": ((b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", Fin), 502),
    "has two lengths": ((b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc", Fin), 502),
    "has chunks and a length": (
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"abcdef"), Fin),
        502,
    ),
    "has a length of letters": ((b"HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\nab", Fin), 502),
    "has a negative length": ((b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nab", Fin), 502),
    "has a header without a colon": ((b"HTTP/1.1 200 OK\r\nnonsense\r\ncontent-length: 0\r\n\r\n", Fin), 502),
    "has a NUL in a header": ((b"HTTP/1.1 200 OK\r\nx: a\x00b\r\ncontent-length: 0\r\n\r\n", Fin), 502),
    "has a control character in a header": ((b"HTTP/1.1 200 OK\r\nx: a\x07b\r\ncontent-length: 0\r\n\r\n", Fin), 502),
    "has a carriage return in a header": ((b"HTTP/1.1 200 OK\r\nx: a\rset-cookie: b\r\ncontent-length: 0\r\n\r\n", Fin), 502),
    "has a space in a header's name": ((b"HTTP/1.1 200 OK\r\nx y: a\r\ncontent-length: 0\r\n\r\n", Fin), 502),
    "has a head without end": ((b"HTTP/1.1 200 OK\r\nx: " + b"a" * 500_000, Silence), 502),
    "resets after its head": ((SIZED, 0.02, Rst), None),
    "closes after its head": ((SIZED, 0.02, Fin), None),
    "resets in its body": ((SIZED + b"{", 0.02, Rst), None),
    "closes in its body": ((SIZED + b"{", 0.02, Fin), None),
    "is silent in its body": ((SIZED + b"{", Silence), None),
    "resets in its stream": ((STREAM + chunk(EVENT), 0.02, Rst), None),
    "closes in its stream": ((STREAM + chunk(EVENT), 0.02, Fin), None),
    "closes within a chunk": ((STREAM + b"ff\r\n" + EVENT, 0.02, Fin), None),
    "is silent in its stream": ((STREAM + chunk(EVENT), Silence), None),
    "resets in a body without a length": ((b"HTTP/1.1 200 OK\r\n\r\nunti", 0.02, Rst), None),
    "has a chunk size of letters and closes": ((STREAM + chunk(EVENT), 0.02, b"xyz\r\nabc\r\n", Fin), None),
    "has a chunk size of letters": ((STREAM + chunk(EVENT), 0.02, b"xyz\r\nabc\r\n", Silence), None),
    "has a negative chunk size": ((STREAM + chunk(EVENT), 0.02, b"-5\r\nabc\r\n", Silence), None),
    "has a chunk longer than told": ((STREAM + chunk(EVENT), 0.02, b"2\r\nabcdef\r\n0\r\n\r\n", Silence), None),
    "has a chunk size beyond all bounds": ((STREAM + chunk(EVENT), 0.02, b"f" * 40 + b"\r\nabc", Silence), None),
}

EVERYWHERE = [(dialect, streamed) for dialect, streamed in ASKS]


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_server_that(fault: str) -> None:
    steps, status = FAULTS[fault]
    async with stage(plays(*steps), dialect="openai", answer_timeout_s=0.15) as on:
        asked = [request("openai", streamed=streamed) for streamed in (False, True)]
        for got in map(read, await asyncio.gather(*(ask(on.address, one) for one in asked))):
            assert (got.status, got.whole) == (status or 200, status is not None)
        await on.rests()
        assert on.plane.forward.counts.failed == on.server.made == 2


@pytest.mark.parametrize(("dialect", "streamed"), EVERYWHERE)
async def test_every_dialect_has_it_told(dialect: str, streamed: bool) -> None:
    faults = {number: FAULTS[name] for number, name in enumerate(("resets", "resets in its body", "closes in its stream"))}

    async def handle(peer: Peer) -> None:
        await plays(*faults[peer.number][0])(peer)

    async with stage(handle, dialect=dialect, **{"health.failures": 9}) as on:
        for _, status in faults.values():
            got = read(await ask(on.address, request(dialect, streamed=streamed)))
            assert (got.status, got.whole) == (status or 200, status is not None)
            assert (b"error" in got.body) == (status is not None)
        await on.rests()
        assert on.plane.forward.counts.failed == 3


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_request_that_is_not_scheduled_has_it_told_too(streamed: bool) -> None:
    head = STREAM + chunk(EVENT) if streamed else SIZED
    async with stage(plays(head, 0.02, Rst)) as on:
        got = read(await ask(on.address, b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n"))
        assert (got.status, got.whole) == (200, False)
    async with stage(plays(Fin)) as on:
        got = read(await ask(on.address, b"GET /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
        assert (got.status, on.server.made) == (502, 1)


async def test_a_server_that_refuses_connections() -> None:
    async with stage(plays(Rst)) as on:
        await on.server.stop()
        got = read(await ask(on.address, request()))
        assert got.status == 502
        assert on.plane.forward.counts.failed == 1


# --- answers that are odd, and yet whole ------------------------------------------------------------------------------

EMPTY = b"content-length: 0\r\n\r\n"
ODD: dict[str, tuple[bytes, int, bytes]] = {
    "interim answers": (b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK, 200, b"ok"),
    "an unknown status of success": (b"HTTP/1.1 299 Odd\r\n" + EMPTY, 299, b""),
    "an unknown status of failure": (b"HTTP/1.1 599 Odd\r\n" + EMPTY, 599, b""),
    "no reason": (b"HTTP/1.1 200\r\n" + EMPTY, 200, b""),
    "a reason in Latin-1": (b"HTTP/1.1 200 Tr\xe8s bien\r\n" + EMPTY, 200, b""),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    "no content and a length": (b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n", 204, b""),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\netag: a\r\n\r\n", 304, b""),
    "no length and a close": (b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil the end", 200, b"until the end"),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", 200, b"until the end"),
    "trailers": (
        b"HTTP/1.1 200 OK\r\ntrailer: x\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"a") + b"0\r\nx: y\r\n\r\n",
        200,
        b"a",
    ),
    "chunk extensions": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;a=b\r\na\r\n0\r\n\r\n", 200, b"a"),
    "huge headers": (b"HTTP/1.1 200 OK\r\nx: " + b"a" * 40_000 + b"\r\ncontent-length: 2\r\n\r\nok", 200, b"ok"),
}


@pytest.mark.parametrize("odd", ODD)
async def test_an_answer_is_passed_on_that_has(odd: str) -> None:
    answer, status, body = ODD[odd]
    async with stage(plays(answer, Fin)) as on:
        got = read(await ask(on.address, request()))
        assert (got.status, got.body, got.whole) == (status, body, True)
        assert not {"trailer"} & {name for name, _ in got.headers}
        lengths = [value for name, value in got.headers if name in ("content-length", "transfer-encoding")]
        assert len(lengths) <= 1


async def test_what_follows_an_answer_without_a_body_is_not_its_body() -> None:
    for status in (b"204 No Content", b"304 Not Modified"):
        async with stage(plays(b"HTTP/1.1 " + status + b"\r\n\r\n", 0.02, b"body", Fin)) as on:
            answer = await ask(on.address, request())
            assert answer.startswith(b"HTTP/1.1 " + status)
            assert answer.endswith(b"\r\n\r\n")


async def test_not_modified_keeps_the_length_that_the_whole_would_have() -> None:
    async with stage(answers(b"HTTP/1.1 304 Not Modified\r\ncontent-length: 99\r\n\r\n")) as on, client(on.address) as peer:
        for _ in range(2):  # the connection is good for another
            await peer.play(b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n")
            head = await asyncio.wait_for(peer.reader.readuntil(b"\r\n\r\n"), 2)
            assert b"content-length: 99" in head


async def test_duplicate_headers_pass_in_their_order() -> None:
    answer = b"HTTP/1.1 200 OK\r\nx: 1\r\nX: 2\r\nset-cookie: a\r\nx: 1\r\nset-cookie: b\r\ncontent-length: 0\r\n\r\n"
    async with stage(plays(answer, Fin)) as on:
        got = read(await ask(on.address, request()))
        assert [value for name, value in got.headers if name == "x"] == ["1", "2", "1"]
        assert [value for name, value in got.headers if name == "set-cookie"] == ["a", "b"]


@pytest.mark.parametrize("answer", [OK, STREAM + chunk(EVENT) + chunk(EVENT * 3) + b"0\r\n\r\n"])
async def test_an_answer_that_comes_octet_by_octet_comes_whole(answer: bytes) -> None:
    async def dribble(peer: Peer) -> None:
        await peer.request()
        for n in range(len(answer)):
            peer.writer.write(answer[n : n + 1])
            await asyncio.sleep(0.0005)

    async with stage(dribble, answer_timeout_s=0.3) as on:
        got = read(await ask(on.address, request()))
        assert (got.status, got.whole) == (200, True)
        assert got.body == read(answer).body


async def test_a_half_closed_server_that_answers_is_heard() -> None:
    async def handle(peer: Peer) -> None:
        await peer.request()
        peer.writer.write(SIZED + b"x" * 100)
        peer.writer.write_eof()
        await peer.gone()

    async with stage(handle) as on:
        got = read(await ask(on.address, request()))
        assert (got.status, len(got.body)) == (200, 100)


@pytest.mark.parametrize("said", [b"", SIZED])
async def test_a_half_closed_server_that_says_no_more_is_dead(said: bytes) -> None:
    async def handle(peer: Peer) -> None:
        await peer.request()
        peer.writer.write(said)
        peer.writer.write_eof()
        await peer.gone()  # it still listens

    async with stage(handle) as on:
        got = read(await ask(on.address, request()))
        assert (got.status, got.whole) == ((200, False) if said else (502, True))
        await until(lambda: not on.server.open)


# --- whose answer is it? ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay_s", [0.0, 0.03])
async def test_what_a_server_says_beyond_its_answer_is_nobodys(delay_s: float) -> None:
    lie = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret"

    async def handle(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.play(OK, delay_s, lie) if peer.number == 0 else await peer.play(OK)

    async with stage(handle) as on:
        first = await ask(on.address, request())
        await asyncio.sleep(0.1)
        second = await ask(on.address, request())
        assert read(first).body == read(second).body == b"ok"
        assert b"secret" not in first + second
        assert on.server.made == 2


async def test_more_than_was_told_in_one_piece_is_no_answer_at_all() -> None:
    """What is too much could be the beginning of another's answer, so nothing of it is believed."""
    async with stage(answers(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok and more")) as on:
        for _ in range(3):
            answer = await ask(on.address, request())
            assert (read(answer).status, b"more" in answer) == (502, False)
        assert on.server.made == 3


async def test_an_answer_to_head_with_a_body_harms_nobody() -> None:
    async with stage(answers(OK)) as on:
        head = await ask(on.address, b"HEAD /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert head.endswith(b"\r\n\r\n")
        await asyncio.sleep(0.05)
        assert read(await ask(on.address, request())).body == b"ok"


async def test_an_unasked_answer_on_an_idle_connection_is_nobodys() -> None:
    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.play(OK, 0.05, b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", Silence)

    async with stage(handle) as on:
        for _ in range(2):
            assert read(await ask(on.address, request())).status == 200
            await asyncio.sleep(0.1)


# --- kept connections -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [Fin, Rst])
@pytest.mark.parametrize("size", [100, 3_000_000])
async def test_a_kept_connection_that_dies_as_it_is_used_costs_nobody_anything(end: type[Fin] | type[Rst], size: int) -> None:
    async def handle(peer: Peer) -> None:
        while True:
            _, body = await peer.request()
            if peer.number == 0 and len(body) == size:
                await peer.play(end)
                return
            await peer.play(OK)

    async with stage(handle) as on:
        assert read(await ask(on.address, request())).status == 200
        assert read(await ask(on.address, request(body=b"x" * size))).status == 200
        assert on.server.made == 2
        assert on.plane.forward.counts.failed == 0


@pytest.mark.parametrize("end", [Fin, Rst])
async def test_a_kept_connection_that_died_while_idle_is_not_used(end: type[Fin] | type[Rst]) -> None:
    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.play(OK, 0.02, end)

    async with stage(handle) as on:
        for _ in range(4):
            assert read(await ask(on.address, request())).status == 200
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("end", [Fin, Rst])
async def test_a_kept_connection_that_dies_in_an_answer_is_not_used_again(end: type[Fin] | type[Rst]) -> None:
    """The server has begun to work on it, so it must not be asked twice."""
    asked = 0

    async def handle(peer: Peer) -> None:
        nonlocal asked
        while True:
            await peer.request()
            asked += 1
            if asked == 2:
                await peer.play(b"HTTP/1.1 200 OK\r\nx: ", 0.05, end)
                return
            await peer.play(OK)

    async with stage(handle) as on:
        assert read(await ask(on.address, request())).status == 200
        assert read(await ask(on.address, request())).status == 502
        assert asked == 2


async def test_a_new_connection_that_dies_without_an_answer_is_a_502_and_not_tried_again() -> None:
    async with stage(plays(Fin)) as on:
        assert read(await ask(on.address, request())).status == 502
        assert on.server.made == 1


async def test_a_restarted_server_is_served_as_before() -> None:
    async with stage(answers(OK)) as on:
        port = int(on.server.address.rsplit(":", 1)[1])
        for end in (Rst, Fin, Rst):
            answers_ = await asyncio.gather(*(ask(on.address, request()) for _ in range(8)))
            assert [read(answer).status for answer in answers_] == [200] * 8
            await on.server.stop(end)
            await on.server.start(port)


async def test_while_one_server_dies_its_requests_are_told_and_those_of_the_other_go_on() -> None:
    async def stream(peer: Peer) -> None:
        await peer.request()
        await peer.play(STREAM)
        for _ in range(20):
            await peer.play(chunk(EVENT), 0.02)
        await peer.play(b"0\r\n\r\n")

    async with stage(stream, stream) as on:
        asked = [asyncio.create_task(ask(on.address, request(streamed=True))) for _ in range(8)]
        await until(lambda: [server.open for server in on.servers] == [4, 4])
        await asyncio.sleep(0.1)  # the streams have begun, and are not over
        await on.servers[1].stop()
        got = [read(await one) for one in asked]
        assert sorted(one.whole for one in got) == [False] * 4 + [True] * 4
        assert {one.status for one in got} == {200}
        assert on.plane.forward.counts.failed == 4


# --- bodies that a server does not want -------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [Fin, Silence])
async def test_an_answer_that_comes_before_the_request_is_sent_is_passed_on(end: Step) -> None:
    async def handle(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.play(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig")
        await asyncio.sleep(0.05)
        await peer.play(end)

    async with stage(handle) as on:
        got = read(await ask(on.address, request(body=b"x" * 20_000_000)))
        assert (got.status, got.body) == (413, b"big")


async def test_a_server_that_does_not_take_the_body_is_let_go_in_time() -> None:
    async def handle(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(2)

    async with stage(handle, answer_timeout_s=0.5) as on:
        began = time.monotonic()
        got = read(await ask(on.address, request(body=b"x" * 30_000_000)))
        assert got.status == 504
        assert time.monotonic() - began < 1.5


async def test_a_server_that_is_taken_away_as_a_request_is_given_to_it() -> None:
    """By a new configuration, between the decision and the request's next step."""
    async with stage(answers(OK), answers(OK)) as on:
        pool, removed = on.plane.pool, []

        def take_away(_: int) -> None:
            if not removed:
                busy = next(view.name for view in pool.scheduler.room.server_views() if view.in_flight)
                removed.append(pool.remove(busy))

        on.plane.scheduler.on_group = take_away
        assert read(await ask(on.address, request())).status == 200
        assert len(removed) == 1
        on.plane.scheduler.on_group = lambda size: None
        await removed[0].close()
