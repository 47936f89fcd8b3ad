"""`x-paceline-energy: wait`: joules come with the answer, and nothing else of it changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import http_sf
import pytest

from proxy.watch import LONGEST_ANSWER
from telemetry.ledger import Entry
from telemetry.snapshot import Source
from tests.proxy.test_forward import BODY, STREAM_HEAD, answer_plain, chunk, dechunked, ended, post, split, token
from tests.serving import DataPlane, Script, Seen, Upstream, data_plane, exchange, upstream

WAIT = "x-paceline-energy: wait"
CHAT = b'{"messages":[],"stream":true}'
TEXT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
COUNTS = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\n'
DONE = b"data: [DONE]\n\n"


def streams(*parts: bytes, head: bytes = STREAM_HEAD) -> Script:
    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(head + b"".join(map(chunk, parts)) + b"0\r\n\r\n")

    return answer


@dataclass
class Metered:
    """A data plane whose joules are settled by hand."""

    plane: DataPlane
    server: Upstream

    async def settle(self, joules: float | None = 12.3456) -> Entry:
        """Once its client waits; None: the meter told nothing."""
        entry: Entry = await ended(self.plane)
        assert (self.plane.scheduler.room.in_flight, self.server.seen[0].closed.is_set()) == (0, False)
        if joules is not None:
            entry.energy.active_uj, entry.energy.source = round(joules * 1e6), Source.POWER_INTEGRAL
        entry.energy.final = True
        self.plane.forward.generation.delivery.settled(entry)
        return entry


@asynccontextmanager
async def metered(script: Script, **flags: Any) -> AsyncIterator[Metered]:
    async with upstream(script) as server, data_plane(server.address, **flags) as plane:
        plane.forward.generation.delivery.covers = lambda entry: entry.released_at is not None
        yield Metered(plane, server)
        for _ in range(200):
            if not plane.forward.open:
                break
            await asyncio.sleep(0.01)
        plane.assert_at_rest()
        assert not plane.forward.generation.delivery._waiting


async def started(plane: DataPlane, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = plane.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    return reader, writer


def told(headers: dict[str, list[str]]) -> dict[str, Any]:
    """What the header says, read as RFC 9651 has it."""
    (value,) = headers["x-paceline-energy"]
    return dict(http_sf.parse(value.encode(), tltype="dictionary"))


def reason(headers: dict[str, list[str]]) -> str:
    (name, (value, parameters)), *others = told(headers).items()
    assert (name, value, others) == ("unknown", True, [])
    return str(parameters["reason"])


def comment(joules: float | None, **more: object) -> bytes:
    known = {"uncertainty_joules": 0.0, "source": "power_integral", "method": "shapley", "scope": "gpu", "final": True}
    object = {"joules": joules, **(known if joules is not None else {**more, "final": False})}
    return b": energy " + json.dumps(object, separators=(",", ":")).encode() + b"\n\n"


# answers that are not streamed


async def test_an_answer_waits_for_its_joules() -> None:
    async with metered(answer_plain) as on:
        reader, writer = await started(on.plane, post("/generate", BODY, WAIT))
        entry = await ended(on.plane)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)
        await on.settle()
        status, headers, body = split(await asyncio.wait_for(reader.read(), 5))
        writer.close()
        _, direct, _ = split(await exchange(on.server.address, post("/generate")))
    assert told(headers) == {
        "j": (Decimal("12.346"), {}),
        "u": (Decimal("0.0"), {}),
        "source": (http_sf.Token("power_integral"), {}),
        "method": (http_sf.Token("shapley"), {}),
        "scope": (http_sf.Token("gpu"), {}),
        "final": (True, {}),
    }
    del headers["x-paceline-energy"], headers["x-paceline-request-id"], headers["connection"]
    assert (status, headers, body) == (b"HTTP/1.1 200 OK", direct, b"ok")
    assert (entry.status, entry.error, on.plane.forward.counts.completed) == (200, "", 1)
    assert entry.duration_s < 0.1  # the wait is no part of it


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
async def test_what_is_asked_and_answered_under_our_name_stays_between_us_and_the_client(path: str) -> None:
    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nx-paceline-energy: j=1\r\ncontent-length: 2\r\n\r\nok")

    encoding = "accept-encoding: gzip"
    async with upstream(answer) as server, data_plane(server.address) as plane:
        _, waited, _ = split(await exchange(plane.address, post(path, BODY, "X-Paceline-Energy: Wait", encoding)))
        _, other, _ = split(await exchange(plane.address, post(path, BODY, "x-paceline-energy: yes", encoding)))
        _, none, _ = split(await exchange(plane.address, post(path, BODY, encoding)))
        _, passing, _ = split(await exchange(plane.address, post("/tokenize", BODY, WAIT, encoding)))
    assert all(b"x-paceline-energy" not in seen.head.lower() for seen in server.seen)
    assert [b"accept-encoding" in seen.head.lower() for seen in server.seen] == [False, True, True, True]
    assert reason(waited) == ("unreadable" if path == "/generate_stream" else "no-meter")
    assert not any("x-paceline-energy" in headers for headers in (other, none, passing))


async def test_without_a_meter_nobody_waits_and_no_zero_is_told() -> None:
    async with upstream(answer_plain) as server, data_plane(server.address, **{"energy.wait_s": 60.0}) as plane:
        _, headers, body = split(await exchange(plane.address, post("/generate", BODY, WAIT)))
        plane.assert_at_rest()
    assert (reason(headers), body) == ("no-meter", b"ok")


async def test_the_wait_is_bounded() -> None:
    async with metered(answer_plain, **{"energy.wait_s": 0.05}) as on:
        _, headers, body = split(await exchange(on.plane.address, post("/generate", BODY, WAIT)))
    assert (reason(headers), body) == ("not-yet", b"ok")


async def test_a_meter_that_told_nothing_leaves_it_unknown() -> None:
    async with metered(answer_plain) as on:
        answer = asyncio.create_task(exchange(on.plane.address, post("/generate", BODY, WAIT)))
        await on.settle(None)
        assert reason(split(await answer)[1]) == "no-reading"


async def test_errors_pass_at_once() -> None:
    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 422 Unprocessable Entity\r\ncontent-length: 2\r\n\r\nno")

    async with metered(answer, **{"energy.wait_s": 60.0}) as on:
        status, headers, body = split(await exchange(on.plane.address, post("/generate", BODY, WAIT)))
    assert (status[9:12], body, "x-paceline-energy" in headers) == (b"422", b"no", False)


async def test_an_answer_that_is_too_long_is_not_held() -> None:
    long = b"x" * (LONGEST_ANSWER + 100_000)

    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(long) + long)

    async with metered(answer, **{"energy.wait_s": 60.0}) as on:
        _, headers, body = split(await exchange(on.plane.address, post("/generate", BODY, WAIT)))
    assert (reason(headers), body == long) == ("too-long", True)


async def test_an_answer_that_breaks_off_while_it_is_held_is_a_502() -> None:
    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")
        await writer.drain()
        writer.transport.abort()

    async with metered(answer) as on:
        status, headers, _ = split(await exchange(on.plane.address, post("/generate", BODY, WAIT)))
        entry = await ended(on.plane)
    assert (status[9:12], entry.error, "x-paceline-energy" in headers) == (b"502", "broken", False)


# streams


async def test_events_pass_at_once_and_the_end_waits() -> None:
    gate = asyncio.Event()

    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(TEXT))
        await writer.drain()
        await gate.wait()
        writer.write(chunk(COUNTS + DONE) + b"0\r\n\r\n")

    async with metered(answer, dialect="vllm") as on:
        reader, writer = await started(on.plane, post("/v1/chat/completions", CHAT, WAIT))
        first = await asyncio.wait_for(reader.readuntil(TEXT), 5)
        gate.set()
        await on.settle(1.5)
        _, headers, body = split(first + await asyncio.wait_for(reader.read(), 5))
        writer.close()
    said = comment(1.5)
    assert body == TEXT + COUNTS[:-3] + b',"energy":' + said[9:-2] + COUNTS[-3:] + said + DONE
    assert "x-paceline-energy" not in headers  # it went out before anything was known


@pytest.mark.parametrize("flags", [{}, {"energy.wait_s": 0.05}])
async def test_a_stream_whose_joules_are_unknown_says_why(flags: dict[str, float]) -> None:
    script, request = streams(TEXT, COUNTS + DONE), post("/v1/chat/completions", CHAT, WAIT)
    if flags:
        async with metered(script, dialect="vllm", **flags) as on:
            _, _, body = split(await exchange(on.plane.address, request))
    else:
        async with upstream(script) as server, data_plane(server.address, dialect="vllm") as plane:
            _, _, body = split(await exchange(plane.address, request))
    assert body == TEXT + COUNTS + comment(None, reason="not-yet" if flags else "no-meter") + DONE


async def test_where_counts_are_injected_only_the_comment_comes() -> None:
    async with metered(streams(TEXT, COUNTS, DONE), dialect="vllm", usage="inject") as on:
        answer = asyncio.create_task(exchange(on.plane.address, post("/v1/chat/completions", CHAT, WAIT)))
        entry = await on.settle(1.5)
        _, _, body = split(await answer)
        assert b"include_usage" in on.server.seen[0].body
    assert body == TEXT + comment(1.5) + DONE
    assert (entry.output_tokens, entry.output_estimated) == (1, False)


async def test_a_stream_without_an_end_of_its_own() -> None:
    async with metered(streams(token(1) + token(2))) as on:
        answer = asyncio.create_task(exchange(on.plane.address, post("/generate_stream", BODY, WAIT)))
        await on.settle(1.5)
        assert split(await answer)[2] == token(1) + token(2) + comment(1.5)


@pytest.mark.parametrize("sent", [TEXT + COUNTS, TEXT + COUNTS[:30]])
async def test_a_stream_that_its_server_cuts_is_not_made_whole(sent: bytes) -> None:
    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(sent))
        await writer.drain()
        writer.transport.abort()

    async with metered(answer, dialect="vllm") as on:
        got = await exchange(on.plane.address, post("/v1/chat/completions", CHAT, WAIT))
        entry = await ended(on.plane)
    assert dechunked(got.partition(b"\r\n\r\n")[2]) == sent
    assert not got.endswith(b"0\r\n\r\n")
    assert entry.error == "broken"


@pytest.mark.parametrize("header", [b"content-encoding: gzip\r\ntransfer-encoding: chunked", b"content-length: %d"])
async def test_a_stream_that_cannot_be_written_into_passes_as_it_is(header: bytes) -> None:
    body = TEXT + DONE
    content = chunk(body) + b"0\r\n\r\n" if b"gzip" in header else body
    header = header.replace(b"%d", b"%d" % len(body))

    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n" + header + b"\r\n\r\n" + content)

    async with metered(answer, dialect="vllm", **{"energy.wait_s": 60.0}) as on:
        _, headers, got = split(await exchange(on.plane.address, post("/v1/chat/completions", CHAT, WAIT)))
    assert (reason(headers), got) == ("unreadable", body)


# ends


@pytest.mark.parametrize(("path", "script"), [("/generate", answer_plain), ("/generate_stream", streams(token(1)))])
async def test_a_client_that_leaves_while_it_waits(path: str, script: Script) -> None:
    async with metered(script, **{"energy.wait_s": 60.0}) as on:
        _, writer = await started(on.plane, post(path, BODY, WAIT))
        entry = await ended(on.plane)
        assert on.plane.forward.open == 1
        writer.close()
    assert (entry.error, on.plane.forward.counts.completed) == ("", 1)  # the server's part was done


@pytest.mark.parametrize(("path", "script"), [("/generate", answer_plain), ("/generate_stream", streams(token(1)))])
async def test_a_proxy_that_closes_lets_go_of_who_waits(path: str, script: Script) -> None:
    async with metered(script, **{"energy.wait_s": 60.0}) as on:
        first = asyncio.create_task(exchange(on.plane.address, post(path, BODY, WAIT)))
        await ended(on.plane)
        on.plane.forward.generation.delivery.close()
        for answer in (await first, await exchange(on.plane.address, post(path, BODY, WAIT))):
            _, headers, body = split(answer)
            if path == "/generate":
                assert (reason(headers), body) == ("shutting-down", b"ok")
            else:
                assert body == token(1) + comment(None, reason="shutting-down")


async def test_a_proxy_that_cuts_answers_who_has_no_answer_yet() -> None:
    async with metered(answer_plain, **{"energy.wait_s": 60.0}) as on:
        answer = asyncio.create_task(exchange(on.plane.address, post("/generate", BODY, WAIT)))
        await ended(on.plane)
        on.plane.forward.cut()
        assert split(await answer)[0].startswith(b"HTTP/1.1 503 ")
