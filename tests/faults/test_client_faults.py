"""Clients that leave, stall, lie and break HTTP: the server's work ends at once, and nobody else pays."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any

import pytest

from tests.faults.stage import (
    OK,
    STREAM,
    Handler,
    Peer,
    Silence,
    Stage,
    answers,
    ask,
    chunk,
    client,
    kept,
    open_files,
    plays,
    read,
    request,
    reset,
    rest,
    stage,
    until,
)

EVENT = b'data: {"token":{"id":1,"text":"a"}}\n\n'
LEFT_WITHIN_S = 1.0  # typically a few milliseconds; `pytest -rP` shows them


async def endless(peer: Peer) -> None:
    await peer.request()
    await peer.play(STREAM)
    while not peer.reader.at_eof():
        await peer.play(chunk(EVENT), 0.002)
        if peer.writer.transport.is_closing():
            return


async def half_a_body(peer: Peer) -> None:
    await peer.request()
    await peer.play(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{", Silence)


# what the server does, whether the request is a stream, and what the client has read when it leaves
STATES: dict[str, tuple[Handler, bool, bytes]] = {
    "before the head of a stream": (plays(Silence), True, b""),
    "before the head of an answer": (plays(Silence), False, b""),
    "after the head": (plays(STREAM, Silence), True, b"\r\n\r\n"),
    "in the stream": (endless, True, EVENT),
    "in the body of an answer": (half_a_body, False, b"{"),
}


async def leave(peer: Peer, how: str) -> None:
    if how == "reset":
        reset(peer.writer)
    elif how == "half-close":
        peer.writer.write_eof()  # which engines, too, take for leaving
    else:
        peer.writer.close()


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
@pytest.mark.parametrize("state", STATES)
async def test_a_client_that_leaves(state: str, how: str) -> None:
    handler, streamed, seen = STATES[state]
    async with stage(handler) as on:
        async with client(on.address) as peer:
            await peer.play(request(streamed=streamed, keep=True))
            await until(lambda: on.server.open == 1)
            if seen:
                await asyncio.wait_for(peer.reader.readuntil(seen), 2)
            else:
                await asyncio.sleep(0.03)
            await leave(peer, how)
            print(f"server's connection closed after {1000 * await until(lambda: not on.server.open, LEFT_WITHIN_S):.1f} ms")
        await on.rests()
        assert on.plane.forward.counts.failed == 1
        assert [entry.error for entry in on.plane.ledger._ended.values()] == ["client_gone"]


async def test_a_client_that_leaves_a_request_that_is_not_scheduled() -> None:
    async with stage(plays(Silence)) as on:
        async with client(on.address) as peer:
            await peer.play(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
            await until(lambda: on.server.open == 1)
        await until(lambda: not on.server.open, LEFT_WITHIN_S)


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
async def test_a_client_that_leaves_in_its_own_body_never_reaches_the_server(how: str) -> None:
    async with stage(answers(OK)) as on:
        async with client(on.address) as peer:
            await peer.play(request(body=b"x" * 100_000)[:50_000])
            await until(lambda: on.plane.forward.admission.total.bytes > 0)
            await leave(peer, how)
            await until(lambda: on.plane.forward.open == 0, LEFT_WITHIN_S)
        assert on.server.made == 0


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
async def test_a_client_that_leaves_while_it_is_held_never_reaches_the_server(how: str) -> None:
    async with stage(answers(OK)) as on:
        async with client(on.address) as peer:
            await peer.play(request("tgi", "x-paceline-max-hold: 2"))
            await until(lambda: on.plane.scheduler.room.held == 1)
            await leave(peer, how)
            await until(lambda: on.plane.forward.open == 0, LEFT_WITHIN_S)
        assert (on.server.made, on.plane.scheduler.outcomes["cancelled"]) == (0, 1)


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
async def test_a_client_that_leaves_while_it_waits_for_a_slot_gives_up_its_place(how: str) -> None:
    async with stage(plays(Silence), slots=1) as on:
        async with client(on.address) as first, client(on.address) as second:
            await first.play(request())
            await until(lambda: on.server.open == 1)
            await second.play(request())
            await until(lambda: on.plane.scheduler.room.ready == 1)
            await leave(second, how)
            await until(lambda: on.plane.scheduler.room.ready == 0, LEFT_WITHIN_S)
            assert on.plane.scheduler.room.in_flight == 1
        await on.rests()
        assert on.server.made == 1


async def test_slots_of_those_who_leave_are_for_those_who_wait() -> None:
    async def handle(peer: Peer) -> None:
        head, _ = await peer.request()
        await peer.play(Silence if b"x-slow" in head else OK)

    async with stage(handle, slots=1) as on:
        async with client(on.address) as slow:
            await slow.play(request("tgi", "x-slow: 1"))
            await until(lambda: on.server.open == 1)
            waiting = asyncio.create_task(ask(on.address, request()))
            await until(lambda: on.plane.scheduler.room.ready == 1)
        assert read(await waiting).status == 200


async def test_a_pipelining_client_that_leaves_ends_the_work_on_its_first_request() -> None:
    async with stage(plays(Silence)) as on:
        async with client(on.address) as peer:
            await peer.play(request(keep=True) * 3)
            await until(lambda: on.server.open == 1)
        await until(lambda: not on.server.open, LEFT_WITHIN_S)
        assert on.server.made == 1


# --- clients that do not read -----------------------------------------------------------------------------------------


async def narrow(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection whose kernel takes little for a client that does not read."""
    host, port = address.split(":")
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    return reader, writer


def buffered(on: Stage) -> tuple[int, int]:
    """Octets of answers that this process has read ahead, and that it has not got rid of."""
    connector: Any = on.plane.fleet.default.fixed.client._session.connector
    ahead = sum(protocol._payload._size for protocol in connector._acquired if protocol._payload is not None)
    sends: Any = [call.send for call in on.plane.forward._open]
    return ahead, sum(send.__self__.transport.get_write_buffer_size() for send in sends)


async def test_a_client_that_does_not_read_holds_its_server_back_and_is_let_go_in_the_end() -> None:
    window, sent = 65_536, 0

    async def flood(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.play(STREAM)
        while True:
            await peer.play(chunk(b"x" * 32_768))
            sent += 32_768

    async with stage(flood, **{"limits.stream_window_bytes": window, "limits.stall_timeout_s": 1.0}) as on:
        _, writer = await narrow(on.address)
        writer.write(request(streamed=True))
        before, most = -1, (0, 0)
        while before != sent:  # until the server is held back
            before = sent
            await asyncio.sleep(0.15)
            most = max(most, buffered(on))
        one_read = 256 * 1024  # by asyncio; uvloop's are of 64 KiB
        print(f"read ahead {most[0]}, to be written {most[1]}, taken from the server with what kernels hold {sent}")
        assert 0 < sum(most) <= 2 * (2 * window + one_read)
        await until(lambda: not on.server.open, 3)
        writer.close()


async def test_a_client_that_reads_slowly_is_not_let_go() -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 700000\r\n\r\n" + b"x" * 700_000
    async with stage(plays(answer), **{"limits.stall_timeout_s": 1.0}) as on:
        reader, writer = await narrow(on.address)
        writer.write(request())
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        got = 0
        async with asyncio.timeout(10):
            while some := await reader.read(100_000):
                got += len(some)
                await asyncio.sleep(0.01)
        writer.close()
        assert got > 700_000


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
async def test_a_client_that_never_takes_the_rest_of_an_answer_is_let_go_too(connection: str) -> None:
    """The answer is over for us, and waits as a whole in the socket's buffer."""
    size = 4_000_000
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size
    flags = {"limits.stream_window_bytes": 8_000_000, "limits.stall_timeout_s": 0.4}
    async with stage(plays(answer), **flags) as on:
        before = open_files()
        _, writer = await narrow(on.address)
        writer.write(request(keep=connection == "keep-alive"))
        await until(lambda: on.plane.forward.counts.completed == 1)
        await until(lambda: open_files() == before + 1, 2)  # the client's own end
        writer.close()


# --- many requests on one connection ----------------------------------------------------------------------------------


async def echo(peer: Peer) -> None:
    """Answers with the request's body."""
    while True:
        _, body = await peer.request()
        await peer.play(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    bodies = [b'{"inputs":"%d"}' % n for n in range(20)]
    async with stage(echo) as on:
        sent = b"".join(request(body=body, keep=body is not bodies[-1]) for body in bodies)
        answer = await ask(on.address, sent)
        for body in bodies:
            got = read(answer)
            assert got.body == body
            answer = got.after


async def test_a_pipelined_head_that_comes_in_two_parts_behind_a_long_body_is_no_long_head() -> None:
    long = b"x" * 150_000
    async with stage(echo) as on:
        two = request(body=long, keep=True) + request(body=b"{}")
        answer = await ask(on.address, two[:-40], 0.1, two[-40:])
        got = read(answer)
        assert (got.body, read(got.after).body) == (long, b"{}")


async def test_nobody_pipelines_without_end() -> None:
    async with stage(plays(Silence)) as on:
        await ask(on.address, request(keep=True) + b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n" * 5_000)
        await until(lambda: on.plane.forward.open == 0)


@pytest.mark.parametrize("junk", [b"\x00\x01junk\r\n\r\n", b"GET", b"GET /" + b"a" * 100_000])
async def test_what_is_no_request_does_not_stand_in_the_midst_of_an_answer(junk: bytes) -> None:
    async def slowly(peer: Peer) -> None:
        await peer.request()
        await peer.play(STREAM, chunk(EVENT), 0.5, chunk(EVENT), b"0\r\n\r\n")

    async with stage(slowly, **{"limits.header_timeout_s": 0.2}) as on:
        got = read(await ask(on.address, request(keep=True), 0.1, junk))
        assert (got.status, got.whole, got.body) == (200, False, EVENT)


# --- heads and bodies out of bounds -----------------------------------------------------------------------------------


async def test_a_head_too_long_is_a_431() -> None:
    async with stage(answers(OK)) as on:
        assert read(await ask(on.address, request("tgi", "x: " + "a" * 100_000))).status == 431
        assert read(await ask(on.address, b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n")).status in (400, 431)
        many = request("tgi", *(f"x-{n}: {n}" for n in range(10_000)))
        assert read(await ask(on.address, many[:60_000], 0.02, many[60_000:])).status == 431
        assert on.server.made == 0


async def test_a_head_too_slow_is_a_408_and_a_silent_connection_is_closed() -> None:
    async with stage(answers(OK), **{"limits.header_timeout_s": 0.2}) as on:
        assert read(await ask(on.address, b"POST /generate HTTP/1.1\r\nhost:")).status == 408
        dripped = [part for octet in b"POST /gen" for part in (bytes([octet]), 0.02)]
        assert read(await ask(on.address, *dripped)).status == 408
        assert await ask(on.address) == b""


async def test_a_body_too_slow_is_a_408_and_the_server_hears_nothing_of_it() -> None:
    async with stage(answers(OK), **{"limits.body_timeout_s": 0.2, "limits.idle_timeout_s": 1}) as on:
        got = read(await ask(on.address, request(body=b"x" * 100)[:-50]))
        assert (got.status, on.server.made) == (408, 0)


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
async def test_a_body_too_long_is_a_413(framing: str) -> None:
    async with stage(answers(OK), **{"limits.body_bytes": 1000, "limits.idle_timeout_s": 1}) as on:
        if framing == "content-length":
            parts = [request(body=b"x" * 2000)[:-1990]]  # it is told by its head alone
        else:
            head = b"POST /generate HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
            parts = [head, *[chunk(b"x" * 400)] * 4]
        async with client(on.address) as peer:
            await peer.play(*parts)
            head = await asyncio.wait_for(peer.reader.readuntil(b"\r\n\r\n"), 2)
            assert head.startswith(b"HTTP/1.1 413 ")
            await asyncio.wait_for(rest(peer), 3)  # it is let go, though it has not sent what it owes
        assert on.server.made == 0


async def test_a_body_of_10_mb_and_an_empty_one_are_carried() -> None:
    async with stage(echo) as on:
        for body in (b"x" * 10_000_000, b"", b"\x00" * 10):
            got = read(await ask(on.address, request(body=body)))
            assert (got.status, got.body) == (200, body)


async def test_a_connection_that_says_only_line_ends_is_closed_when_it_is_idle_for_long() -> None:
    async with stage(answers(OK), **{"limits.idle_timeout_s": 1}) as on:
        got = await ask(on.address, request(keep=True), 0.2, b"\r\n")
        assert read(got).status == 200


# --- odd and bad HTTP -------------------------------------------------------------------------------------------------

BODY = b'{"inputs":"a"}'
SNEAKED = b"GET /admin HTTP/1.1\r\nhost: x\r\n\r\n"
SMUGGLED: dict[str, bytes] = {
    "a length and chunks": b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + SNEAKED,
    "chunks and a length": b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n" + SNEAKED,
    "two lengths": b"content-length: 0\r\ncontent-length: 33\r\n\r\n" + SNEAKED,
    "two lengths in one": b"content-length: 0, 33\r\n\r\n" + SNEAKED,
    "a length with a sign": b"content-length: +0\r\n\r\n" + SNEAKED,
    "a length in hexadecimal": b"content-length: 0x0\r\n\r\n" + SNEAKED,
    "a folded line": b"transfer-encoding:\r\n chunked\r\ncontent-length: 0\r\n\r\n" + SNEAKED,
    "a folded header": b"x: a\r\n content-length: 33\r\n\r\n" + SNEAKED,
    "a space before the colon": b"content-length : 33\r\n\r\n" + SNEAKED,
    "line ends of one octet": b"x: y\ncontent-length: 33\n\n" + SNEAKED,
    "a lone carriage return": b"x: y\rcontent-length: 33\r\n\r\n" + SNEAKED,
    "chunks under another name": b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + SNEAKED,
    "chunks twice": b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n" + SNEAKED,
    "chunks in a quoted name": b'transfer-encoding: "chunked"\r\n\r\n0\r\n\r\n' + SNEAKED,
    "a tab before chunks": b"transfer-encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + SNEAKED,
    "a NUL in a name": b"content-length\x00: 33\r\n\r\n" + SNEAKED,
    "a chunk's extension with a line end": b"transfer-encoding: chunked\r\n\r\n0;a\n\r\n\r\n" + SNEAKED,
    "a chunk size of letters": b"transfer-encoding: chunked\r\n\r\nzz\r\n\r\n" + SNEAKED,
    "a length named as the connection's": b"connection: close, content-length\r\ncontent-length: 5\r\n\r\nabcde" + SNEAKED,
    "a length in a trailer": b"transfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\ncontent-length: 1\r\n\r\n" + SNEAKED,
    "chunks in a trailer": b"transfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\ntransfer-encoding: chunked\r\n\r\n" + SNEAKED,
}


@pytest.mark.parametrize("shape", SMUGGLED)
async def test_nobody_smuggles_with(shape: str) -> None:
    """The server sees no request, or one whose framing can be read in one way only."""
    async with stage(answers(OK), **{"limits.body_timeout_s": 0.3, "limits.header_timeout_s": 0.3}) as on:
        heads: list[bytes] = []

        async def remember(peer: Peer) -> None:
            while True:
                heads.append((await peer.request())[0])
                await peer.play(OK)

        on.server.handler = remember
        answer = await ask(on.address, b"POST /generate HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + SMUGGLED[shape])
        assert read(answer).status in (200, 400, 408)
        assert not any(head.startswith(b"GET /admin") for head in heads)
        assert len(heads) == (read(answer).status == 200)
        for head in heads:
            assert head.lower().count(b"content-length") <= 1
            assert b"transfer-encoding" not in head.lower()


async def test_trailers_are_not_taken_for_headers() -> None:
    seen: list[bytes] = []

    async def remember(peer: Peer) -> None:
        head, body = await peer.request()
        seen.extend((head, body))
        await peer.play(OK)

    async with stage(remember) as on:
        head = b"POST /generate HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        got = read(await ask(on.address, head + chunk(BODY) + b"0\r\nauthorization: Bearer x\r\nhost: y\r\n\r\n"))
        assert (got.status, seen[1]) == (200, BODY)
        assert b"authorization" not in seen[0]


BAD = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00",
    "an unknown method": b"BREW /pot HTTP/1.1\r\nhost: x\r\n\r\n",
    "an unknown version": b"GET / HTTP/7.3\r\nhost: x\r\n\r\n",
    "a preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a space in its target": b"GET /a b HTTP/1.1\r\nhost: x\r\n\r\n",
    "a tunnel": b"CONNECT example.org:443 HTTP/1.1\r\nhost: example.org\r\n\r\n",
    "no path at all": b"GET http://x HTTP/1.1\r\nhost: x\r\n\r\n",
    "a star": b"OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    "octets beyond ASCII in its target": b"GET /\xc3\xa9 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
}


@pytest.mark.parametrize("bad", BAD)
async def test_a_400_is_said_to(bad: str) -> None:
    async with stage(answers(OK)) as on:
        assert read(await ask(on.address, BAD[bad])).status == 400
        assert on.server.made == 0


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"http://example.org/a?b=c", b"/a?b=c"),
        (b"//example.org/a", b"//example.org/a"),
        (b"/a/../b/./c", b"/a/../b/./c"),
        (b"/a[b]{c}|d^\"'`", b"/a[b]{c}|d^\"'`"),
        (b"/@example.org:80/", b"/@example.org:80/"),
        (b"/%00%0d%0a%zz", b"/%00%0d%0a%zz"),
        (b"/a?b?c=[&&=;@:/", b"/a?b?c=[&&=;@:/"),
        (b"/\\example.org", b"/\\example.org"),
    ],
)
async def test_a_target_goes_to_our_server_as_it_came(target: bytes, path: bytes) -> None:
    async with stage(answers(OK)) as on:
        lines: list[bytes] = []

        async def remember(peer: Peer) -> None:
            head, _ = await peer.request()
            lines.append(head.partition(b"\r\n")[0])
            await peer.play(OK)

        on.server.handler = remember
        got = read(await ask(on.address, b"GET " + target + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
        assert got.status in (200, 400)
        assert lines == [b"GET " + path + b" HTTP/1.1"] * (got.status == 200)


async def test_a_client_that_waits_for_100_continue_is_told_to_go_on() -> None:
    async with stage(echo) as on, client(on.address) as peer:
        whole = request("tgi", "expect: 100-continue", body=BODY)
        await peer.play(whole[: -len(BODY)])
        assert await asyncio.wait_for(peer.reader.readuntil(b"\r\n\r\n"), 2) == b"HTTP/1.1 100 Continue\r\n\r\n"
        await peer.play(BODY)
        assert read(await rest(peer)).body == BODY


async def test_a_client_of_http_1_0_has_its_answer_and_the_end_of_the_connection() -> None:
    async with stage(echo) as on:
        got = read(await ask(on.address, b"POST /generate HTTP/1.0\r\ncontent-length: 2\r\n\r\n{}"))
        assert (got.status, got.body) == (200, b"{}")


async def test_head_on_a_generating_route_is_passed_on_and_not_scheduled() -> None:
    async with stage(plays(b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 9\r\n\r\n")) as on:
        answer = await ask(on.address, b"HEAD /generate HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 405 ")
        assert answer.endswith(b"\r\n\r\n")
        assert on.plane.scheduler.admitted == 0


async def test_an_offer_of_http_2_is_declined_by_going_on() -> None:
    """As Java's client makes it with its first request."""
    offer = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA")
    async with stage(echo) as on, client(on.address) as peer:
        for _ in range(2):
            await peer.play(request("tgi", *offer, body=BODY, keep=True))
            head = await asyncio.wait_for(peer.reader.readuntil(b"\r\n\r\n"), 2)
            assert head.startswith(b"HTTP/1.1 200")
            assert await asyncio.wait_for(peer.reader.readexactly(len(BODY)), 2) == BODY
        assert kept(on.plane.fleet.default.fixed.client) == 1


async def test_a_trailer_without_end_is_cut_off() -> None:
    async with stage(answers(OK), **{"limits.header_bytes": 4096}) as on:
        host, port = on.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /generate HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx: ")
        with suppress(ConnectionError):
            for _ in range(1000):
                writer.write(b"y" * 1000)
                await writer.drain()
                await asyncio.sleep(0)
                if reader.at_eof():
                    break
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        assert on.server.made == 0
