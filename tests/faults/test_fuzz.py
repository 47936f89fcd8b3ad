"""Octets at random, from clients, from servers and to the admin port: no crash, no error of our own making, nothing left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.end_to_end.paceline import paceline
from tests.faults.stage import OK, STREAM, Fin, Peer, Rst, Stage, ask, chunk, client, read, request, stage

OURS = b"Internal Server Error"  # what the HTTP server says when the app raises

quick = settings(deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@contextmanager
def entered(context: Any) -> Iterator[tuple[Any, asyncio.Runner]]:
    """An asynchronous context around many runs of one loop, as hypothesis's examples are synchronous."""
    with asyncio.Runner() as runner:
        value = runner.run(context.__aenter__())
        try:
            yield value, runner
        finally:
            runner.run(context.__aexit__(None, None, None))


PARTS = [b"\r\n", b"\n", b" ", b":", b"\x00", b"0", b"-1", b"chunked", b"\xff", b",", b"content-length: 5\r\n"]


@st.composite
def mutated(draw: st.DrawFn, valid: list[bytes]) -> bytes:
    """Something valid, with some places cut out, doubled or overwritten."""
    octets = draw(st.sampled_from(valid))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(octets)))
        until = min(len(octets), at + draw(st.integers(0, 12)))
        put = draw(
            st.one_of(
                st.binary(max_size=6),
                st.just(octets[at:until] * 2),
                st.sampled_from(PARTS),
            )
        )
        octets = octets[:at] + put + octets[until:]
    return octets


CHUNKED = b'POST /generate HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5;a=b\r\n{"inp\r\n0\r\nx: y\r\n\r\n'
REQUESTS = [
    request(),
    request(streamed=True, keep=True),
    request("vllm") + request("llamacpp", streamed=True),
    request("tgi", "expect: 100-continue", "x-paceline-max-hold: 0.01", "x-slo-ttft-ms: 5"),
    CHUNKED,
    b"GET /v1/responses/resp_1?a=b%20c HTTP/1.1\r\nhost: x\r\nx-gateway-inference-fairness-id: a\r\n\r\n",
    b"OPTIONS * HTTP/1.0\r\n\r\n",
    b"GET /x HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\ncontent-length: 2\r\n\r\n{}",
    request("vllm", "traceparent: 00-0-0-0", body=b'{"messages":["a","b"],"n":9,"stream":true,"max_tokens":1e400}'),
]
ANSWERS = [
    OK,
    STREAM + chunk(b'data: {"token":{"id":1,"text":"a"}}\n\n') + chunk(b"data: [DONE]\n\n") + b"0\r\nx: y\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n" + OK,
    b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\nevent: x\ndata: {}\n\n",
    b"HTTP/1.1 429 Too Many\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n",
]


async def any_server(peer: Peer) -> None:
    while True:
        await peer.request()
        await peer.play(OK)


def test_any_octets_from_clients() -> None:
    with entered(stage(any_server)) as (on, runner):

        @settings(quick, max_examples=250)
        @given(mutated(REQUESTS) | st.binary(max_size=200), st.lists(st.integers(1, 60), max_size=3), st.booleans())
        def check(octets: bytes, cuts: list[int], shut: bool) -> None:
            runner.run(send(on, octets, cuts, shut))

        check()
        assert read(runner.run(ask(on.address, request()))).status == 200


async def send(on: Stage, octets: bytes, cuts: list[int], shut: bool) -> None:
    """In pieces, then leave, at once or after what was answered within a moment."""
    got = b""
    async with client(on.address) as peer:
        with suppress(OSError):
            for cut in cuts:
                await peer.play(octets[:cut], 0.001)
                octets = octets[cut:]
            await peer.play(octets)
            if shut:
                peer.writer.write_eof()
            async with asyncio.timeout(0.02):
                while some := await peer.reader.read(65_536):
                    got += some
    assert OURS not in got
    assert on.faults == []


def test_any_octets_from_servers() -> None:
    said: list[tuple[bytes, list[int], Any]] = []

    async def handle(peer: Peer) -> None:
        await peer.request()
        octets, cuts, end = said[-1]
        for cut in cuts:
            await peer.play(octets[:cut], 0.0)
            octets = octets[cut:]
        await peer.play(octets, end)

    with entered(stage(handle, answer_timeout_s=0.5, **{"health.failures": 1_000_000})) as (on, runner):

        @settings(quick, max_examples=300)
        @given(
            mutated(ANSWERS) | st.binary(max_size=200), st.lists(st.integers(1, 60), max_size=3), st.sampled_from([Fin, Rst])
        )
        def check(octets: bytes, cuts: list[int], end: Any) -> None:
            said.append((octets, cuts, end))
            answer = runner.run(ask(on.address, request(streamed=len(octets) % 2 == 0)))
            got = read(answer)
            assert got.status == 502 or 200 <= got.status < 600
            assert OURS not in answer or OURS in octets
            assert on.faults == []
            assert not got.after

        check()
        said.append((OK, [], Fin))
        assert read(runner.run(ask(on.address, request()))).status == 200


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
named = st.fixed_dictionaries(
    {"name": st.sampled_from(["span", "window", "size", "pace", "spread", "pack", "nobody", "x:y", ":", "a.b:C"]) | anything},
    optional={
        "params": st.dictionaries(st.sampled_from(["every_s", "n", "knee", "wait_s", "x"]), anything, max_size=2) | anything
    },
)
changes = st.fixed_dictionaries({}, optional={"policy": named | anything, "placement": named | anything}) | anything
queries = st.sampled_from(["", *(f"?since_s={a}&until_s={b}" for a, b in [(0, 1), ("nan", "inf"), (-1e308, 1e308), ("x", "")])])
ids = st.text(max_size=12).map(quote) | st.sampled_from(["..", "%00", "a/b", ""])


def test_anything_to_the_admin_port() -> None:
    with entered(paceline(**{"energy.meter": "simulated"})) as (on, runner):
        document = runner.run(on.admin.get("/openapi.json")).json()
        endless = ("/live",)  # tests/proxy/test_live.py asks it for this and that
        paths = {path: methods for path, methods in document["paths"].items() if path not in endless}
        routes = [(path, method) for path, methods in paths.items() for method in methods]
        assert len(routes) >= 9

        @settings(quick, max_examples=200)
        @given(st.sampled_from(routes), changes, queries, ids, st.text(max_size=20).map(str.encode) | st.none())
        def check(route: tuple[str, str], change: Any, query: str, id: str, raw: bytes | None) -> None:
            path, method = route
            content = raw if raw is not None else json.dumps(change).encode()
            url = path.replace("{id}", id) + query
            answer = runner.run(
                on.admin.request(method.upper(), url, content=content if method in ("put", "post") else None, timeout=5)
            )
            assert answer.status_code < 500 or (path, answer.status_code) == ("/readyz", 503), answer.text

        check()
        assert runner.run(on.admin.get("/status")).json()["room"]["held"] == 0


async def test_octets_that_are_no_text_to_the_admin_port() -> None:
    async with paceline() as on:
        assert (await on.admin.put("/policy", content=b"\x80")).status_code == 422
