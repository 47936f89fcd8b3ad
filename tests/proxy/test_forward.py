"""The data plane over real sockets: nothing changed, nothing reserved, nobody's slot leaked."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from tests.serving import DataPlane, Seen, data_plane, exchange, upstream

PLAIN = (
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: text/x-odd; a=b\r\n"
    b"X-Odd: Caf\xc3\xa9\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n\r\nok"
)
BODY = b'{"inputs": "what is it?",  "parameters": {"max_new_tokens": 3}}'


def post(path: str, body: bytes = BODY, *headers: str) -> bytes:
    extra = "".join(f"{header}\r\n" for header in headers)
    return f"POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{extra}content-length: {len(body)}\r\n\r\n".encode() + body


def split(answer: bytes) -> tuple[bytes, dict[str, list[str]], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    headers: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition(b":")
        headers.setdefault(name.decode().lower(), []).append(value.strip().decode("latin-1"))
    if "chunked" in headers.get("transfer-encoding", []):
        body = dechunked(body)
    return status, headers, body


def dechunked(body: bytes) -> bytes:
    out = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        out += body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]
    return out


async def answer_plain(seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(PLAIN)


async def never_answer(seen: Seen, writer: asyncio.StreamWriter) -> None:
    await seen.closed.wait()


def token(n: int) -> bytes:
    return b'data: {"index":%d,"token":{"id":1,"text":"a","special":false},"generated_text":null,"details":null}\n\n' % n


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def endless_stream(seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM_HEAD)
    n = 0
    while not seen.closed.is_set():
        n += 1
        writer.write(chunk(token(n)))
        await writer.drain()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/metrics"), ("GET", "/docs"), ("GET", "/health"), ("DELETE", "/v1/files/a%2Fb?x=%20y&&z"), ("PATCH", "/%7Ea//b")],
)
async def test_every_path_and_method_goes_upstream_as_encoded(method: str, path: str) -> None:
    async with upstream(answer_plain) as server, data_plane(server.address) as plane:
        request = f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nAuthorization: Bearer k\r\n\r\n".encode()
        status, headers, body = split(await exchange(plane.address, request))
    assert server.seen[0].head.startswith(f"{method} {path} HTTP/1.1\r\n".encode())
    assert b"authorization: bearer k" in server.seen[0].head.lower()
    assert (status, body) == (b"HTTP/1.1 200 OK", b"ok")
    assert headers["set-cookie"] == ["a=1", "b=2"]


async def test_only_one_header_is_added() -> None:
    async with upstream(answer_plain) as server, data_plane(server.address) as plane:
        _, direct, _ = split(await exchange(server.address, post("/generate")))
        _, through, _ = split(await exchange(plane.address, post("/generate")))
    assert len(through.pop("x-paceline-request-id")[0]) == 32
    through.pop("connection", None)  # the hop's own
    assert through == direct


async def test_request_bodies_go_up_unchanged() -> None:
    odd = b'{"inputs":"\\u00e9",  "inputs": "twice", "seed": 18446744073709551615, "parameters":null }'
    async with upstream(answer_plain) as server, data_plane(server.address) as plane:
        for body in (odd, b"not json at all", b"", b"\xff\x00" * 700_000):
            await exchange(plane.address, post("/generate", body))
        assert [seen.body for seen in server.seen] == [odd, b"not json at all", b"", b"\xff\x00" * 700_000]
    assert all(seen.head.lower().count(b"content-length") == 1 for seen in server.seen)


async def test_nothing_is_added_to_a_request() -> None:
    async with upstream(answer_plain) as server, data_plane(server.address) as plane:
        await exchange(plane.address, post("/generate", BODY, "X-A: 1", "x-a: 2", "TE: trailers", "Keep-Alive: 5"))
    names = [line.split(b":")[0].lower() for line in server.seen[0].head.split(b"\r\n")[1:] if line]
    assert sorted(names) == [b"content-length", b"host", b"x-a", b"x-a"]


async def test_head_and_no_content_have_no_body() -> None:
    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n"
            if seen.head.startswith(b"HEAD")
            else b"HTTP/1.1 204 No Content\r\n\r\n"
        )

    async with upstream(answer) as server, data_plane(server.address) as plane:
        request = b"%s / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        _, headers, body = split(await exchange(plane.address, request % b"HEAD"))
        status, _, none = split(await exchange(plane.address, request % b"OPTIONS"))
    assert (headers["content-length"], body) == (["99"], b"")
    assert (status, none) == (b"HTTP/1.1 204 No Content", b"")


async def test_encoded_bodies_pass_untouched() -> None:
    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x8b\x00\x01")

    async with upstream(answer) as server, data_plane(server.address) as plane:
        _, headers, body = split(await exchange(plane.address, post("/generate")))
    assert (headers["content-encoding"], body) == (["gzip"], b"\x1f\x8b\x00\x01")


async def test_events_are_relayed_as_they_come() -> None:
    gate = asyncio.Event()

    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(token(1)))
        await writer.drain()
        await gate.wait()
        writer.write(chunk(token(2)) + b"0\r\n\r\n")

    async with upstream(answer) as server, data_plane(server.address) as plane:
        host, port = plane.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(post("/generate_stream"))
        first = await asyncio.wait_for(reader.readuntil(token(1)), 5)
        gate.set()
        rest = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        entry = await ended(plane)
    assert dechunked((first + rest).partition(b"\r\n\r\n")[2]) == token(1) + token(2)
    assert (entry.output_tokens, entry.output_estimated, entry.error) == (2, True, "")
    assert entry.first_token_at is not None


async def ended(plane: DataPlane) -> Any:
    """The one request of the ledger, once it has ended."""
    for _ in range(500):
        if entries := list(plane.ledger._ended.values()):
            return entries[-1]
        await asyncio.sleep(0.01)
    raise AssertionError("it never ended")


async def leave(plane: DataPlane, request: bytes, *, after: asyncio.Event | None = None, read: int = 0) -> None:
    host, port = plane.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        await writer.drain()
        if read:
            await asyncio.wait_for(reader.readexactly(read), 5)
        if after is not None:
            await asyncio.wait_for(after.wait(), 5)
        else:
            await asyncio.sleep(0.1)
    finally:
        writer.close()


def empty(plane: DataPlane) -> bool:
    room = plane.scheduler.room
    return (room.held, room.ready, room.in_flight) == (0, 0, 0) and not plane.scheduler._turns


async def test_a_client_that_leaves_the_queue_never_reaches_the_server() -> None:
    async with upstream(answer_plain) as server, data_plane(server.address) as plane:
        await leave(plane, post("/generate", BODY, "x-paceline-max-hold: 2"))
        entry = await ended(plane)
        assert (entry.outcome, server.seen, empty(plane)) == ("cancelled", [], True)


@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/health"])
async def test_a_client_that_leaves_before_the_first_byte_closes_the_servers_connection(path: str) -> None:
    async with upstream(never_answer) as server, data_plane(server.address) as plane:
        await leave(plane, post(path))
        await asyncio.wait_for(server.seen[0].closed.wait(), 1)
        await asyncio.sleep(0.02)
        assert empty(plane)


async def test_a_client_that_leaves_mid_stream_closes_the_servers_connection() -> None:
    async with upstream(endless_stream) as server, data_plane(server.address) as plane:
        await leave(plane, post("/generate_stream"), read=600)
        await asyncio.wait_for(server.seen[0].closed.wait(), 1)
        entry = await ended(plane)
        assert entry.error == "client_gone"
        assert entry.output_tokens > 0
        assert empty(plane)


async def test_a_client_that_leaves_an_unstreamed_body_closes_the_servers_connection() -> None:
    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{")
        await writer.drain()
        await seen.closed.wait()

    async with upstream(answer) as server, data_plane(server.address) as plane:
        await leave(plane, post("/generate"), read=80)
        await asyncio.wait_for(server.seen[0].closed.wait(), 1)
        await asyncio.sleep(0.02)
        assert empty(plane)


@pytest.mark.parametrize(
    ("path", "shape"),
    [("/generate", {"error", "error_type"}), ("/health", {"error", "error_type"}), ("/v1/chat/completions", {"error"})],
)
async def test_an_unreachable_server_is_a_502_in_the_dialects_shape(
    path: str, shape: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    async with data_plane("127.0.0.1:9") as plane:
        status, headers, body = split(await exchange(plane.address, post(path, b'{"inputs": "a", "messages": []}')))
        assert empty(plane)
    error = json.loads(body)
    assert status == b"HTTP/1.1 502 Bad Gateway"
    assert set(error) == shape
    assert headers["content-type"] == ["application/json"]
    assert "127.0.0.1:9" in caplog.text


async def test_an_answer_that_breaks_off_is_seen_to_be_incomplete() -> None:
    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(token(1)))
        await writer.drain()
        writer.transport.abort()

    async with upstream(answer) as server, data_plane(server.address) as plane:
        got = await exchange(plane.address, post("/generate_stream"))
        entry = await ended(plane)
        assert empty(plane)
    assert token(1) in got
    assert not got.endswith(b"0\r\n\r\n")
    assert entry.error == "broken"


async def test_holds_end_by_the_header_and_groups_leave_together() -> None:
    async with upstream(answer_plain) as server, data_plane(server.address) as plane:
        started = time.monotonic()
        slack = "x-paceline-max-hold: 0.5"
        await asyncio.gather(*(exchange(plane.address, post("/generate", BODY, slack)) for _ in range(5)))
        waited = time.monotonic() - started
        entries = list(plane.ledger._ended.values())
    assert waited >= 0.5
    assert {entry.outcome for entry in entries} == {"policy"}
    assert max(e.released_at for e in entries) - min(e.released_at for e in entries) < 0.01  # type: ignore[operator, type-var]


async def test_without_slack_nobody_is_held() -> None:
    async with upstream(answer_plain) as server, data_plane(server.address) as plane:
        await exchange(plane.address, post("/generate"))
        entry = await ended(plane)
    assert entry.held_s < 0.05


async def test_slots_are_never_exceeded_and_nobody_is_lost() -> None:
    running = most = 0

    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1
        writer.write(PLAIN)

    async with upstream(answer) as server:
        upstreams = [{"url": f"http://{server.address}", "slots": 3}]
        async with data_plane(upstreams=upstreams) as plane:
            answers = await asyncio.gather(*(exchange(plane.address, post("/generate")) for _ in range(60)))
    assert all(split(answer)[0] == b"HTTP/1.1 200 OK" for answer in answers)
    assert most == 3


async def test_a_full_queue_and_a_late_slot_are_refused_in_the_dialects_shape() -> None:
    async with upstream(never_answer) as server:
        upstreams = [{"url": f"http://{server.address}", "slots": 1}]
        async with data_plane(upstreams=upstreams, **{"queue.limit": 1, "queue.timeout_s": 0.3}) as plane:
            held = asyncio.create_task(leave(plane, post("/generate"), after=asyncio.Event()))
            await asyncio.sleep(0.1)
            second = asyncio.create_task(exchange(plane.address, post("/generate")))
            await asyncio.sleep(0.1)
            status, headers, body = split(await exchange(plane.address, post("/generate")))
            assert (status, headers["retry-after"]) == (b"HTTP/1.1 429 Too Many Requests", ["1"])
            assert json.loads(body)["error_type"] == "overloaded"
            status, headers, _ = split(await second)
            assert (status, headers["retry-after"]) == (b"HTTP/1.1 503 Service Unavailable", ["1"])
            held.cancel()
            await asyncio.gather(held, return_exceptions=True)


async def test_engine_administration_is_closed_unless_opened() -> None:
    async with upstream(answer_plain) as server:
        async with data_plane(server.address) as plane:
            assert split(await exchange(plane.address, post("/sleep")))[0] == b"HTTP/1.1 403 Forbidden"
        async with data_plane(server.address, allow_engine_admin=True) as plane:
            assert split(await exchange(plane.address, post("/sleep")))[0] == b"HTTP/1.1 200 OK"


async def test_websockets_are_refused_clearly() -> None:
    request = (
        b"GET /x HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: eA==\r\n\r\n"
    )
    async with upstream(answer_plain) as server, data_plane(server.address) as plane:
        host, port = plane.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        writer.close()
    assert head.startswith(b"HTTP/1.1 501 ")


async def test_counts_told_in_every_event_are_not_added_up() -> None:
    def event(n: int) -> bytes:
        told = b'"usage":{"prompt_tokens":3,"completion_tokens":%d}' % n
        return b'data: {"choices":[{"index":0,"delta":{"content":"a"}}],%s}\n\n' % told

    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(event(1)) + chunk(event(2)) + chunk(event(3) + b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async with upstream(answer) as server, data_plane(server.address, dialect="openai") as plane:
        await exchange(plane.address, post("/v1/chat/completions", b'{"messages":[],"stream":true}'))
        entry = await ended(plane)
    assert (entry.prompt_tokens, entry.output_tokens, entry.output_estimated) == (3, 3, False)


async def test_a_server_that_refuses_connections_is_left_alone_while_there_is_another() -> None:
    async with upstream(answer_plain) as server, data_plane("127.0.0.1:9", server.address) as plane:
        answers = [await exchange(plane.address, post("/generate")) for _ in range(6)]
        entries = list(plane.ledger._ended.values())
        assert empty(plane)
    assert {split(answer)[0] for answer in answers} == {b"HTTP/1.1 200 OK"}
    assert {entry.server for entry in entries} == {f"http://{server.address}"}


@pytest.mark.parametrize("lie", [b'{"generated_tokens":"3","input_length":"x"}', b'{"generated_tokens":3,"input_length":null}'])
async def test_an_answer_that_lies_about_counts_is_forwarded_all_the_same(lie: bytes) -> None:
    event = b'data: {"index":1,"token":{"id":1},"generated_text":"a","details":%s}\n\n' % lie

    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(event) + b"0\r\n\r\n")

    async with upstream(answer) as server, data_plane(server.address) as plane:
        _, _, body = split(await exchange(plane.address, post("/generate_stream")))
    assert body == event


async def test_an_answer_too_deep_to_read_is_forwarded_all_the_same() -> None:
    deep = b"[" * 100_000

    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(deep) + deep)

    async with upstream(answer) as server, data_plane(server.address) as plane:
        _, _, body = split(await exchange(plane.address, post("/generate")))
    assert body == deep


async def test_a_target_that_is_no_path_is_refused_clearly() -> None:
    async with upstream(answer_plain) as server, data_plane(server.address) as plane:
        status, _, body = split(await exchange(plane.address, b"OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
    assert status == b"HTTP/1.1 400 Bad Request"
    assert json.loads(body)["error_type"] == "validation"
