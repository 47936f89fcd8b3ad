"""Counts that nobody asked for are asked for, and the client sees the bytes that it would have seen without."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.engine.server import SimulatedServer
from proxy.dialects import DIALECTS, LLAMACPP, OPENAI, SGLANG, TGI, TRANSFORMERS, VLLM, Dialect
from proxy.dialects.base import Usage
from proxy.dialects.events import LONGEST_EVENT, EventReader, EventSplitter
from proxy.dialects.injection import without_details, without_usage
from tests.serving import data_plane

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"

# bodies


def injected(dialect: Dialect, path: str, body: bytes) -> bytes | None:
    found = dialect.inject(path, body)
    return None if found is None else found.body


ASKED = b'"stream_options":{"include_usage":true}'
WITH_OPTIONS = b'{"stream":true,"stream_options":%s,"n":1}'


@pytest.mark.parametrize("path", [CHAT, COMPLETION, "/chat/completions", "/completions"])
@pytest.mark.parametrize("dialect", [VLLM, SGLANG, OPENAI])
def test_a_stream_is_asked_for_its_counts(dialect: Dialect, path: str) -> None:
    assert injected(dialect, path, b'{"stream":true}') == b'{"stream":true,' + ASKED + b"}"
    assert (
        injected(dialect, path, b'{ "a" : [1,{}],\n"stream" : true }\n')
        == b'{ "a" : [1,{}],\n"stream" : true,' + ASKED + b" }\n"
    )


NOT_STREAMED = [
    b'{"messages":[]}',
    b'{"stream":false}',
    b'{"stream":null}',
    b'{"stream":1}',
    b'{"stream":"true"}',
    b'{"stream":true,"stream":false}',  # the last one counts
    b'{"x":{"stream":true}}',
    b"[]",
    b"{",
    b"",
    b'{"stream":true}}',
    b"\xff",
]


@pytest.mark.parametrize("body", NOT_STREAMED)
@pytest.mark.parametrize("dialect", list(DIALECTS.values()))
def test_what_does_not_stream_is_left_alone(dialect: Dialect, body: bytes) -> None:
    """Options without a stream are an error to vLLM."""
    for path in (CHAT, COMPLETION, "/", "/invocations"):
        assert injected(dialect, path, body) is None


@pytest.mark.parametrize(
    ("options", "vllm", "sglang", "openai"),
    [
        (b"null", b'{"include_usage":true}', b'{"include_usage":true}', b'{"include_usage":true}'),
        # vLLM's include_usage is true where it is left out, SGLang's is not, and of others nobody knows
        (b"{}", None, b'{"include_usage":true}', None),
        (b'{ "x":1 }', None, b'{ "x":1,"include_usage":true }', None),
        (b'{"include_usage": false}', *[b'{"include_usage": true}'] * 3),
        (b'{"include_usage":null}', *[b'{"include_usage":true}'] * 3),
        (b'{"x":{"include_usage":false},"include_usage":false}', *[b'{"x":{"include_usage":false},"include_usage":true}'] * 3),
        (b'{"include_usage":false,"include_usage":false}', *[b'{"include_usage":true,"include_usage":true}'] * 3),
        (
            b'{"include_usage":false,"continuous_usage_stats":false}',
            *[b'{"include_usage":true,"continuous_usage_stats":false}'] * 3,
        ),
        (b'{"include_usage":true}', None, None, None),
        (b'{"include_usage":false,"include_usage":true}', None, None, None),
        (b'{"include_usage":0}', None, None, None),
        (b'{"include_usage":"false"}', None, None, None),
        (b'{"include_usage":false,"continuous_usage_stats":true}', None, None, None),
        (b'{"include_usage":false,"continuous_usage_stats":1}', None, None, None),
        (b"[]", None, None, None),
        (b"true", None, None, None),
        (b'"x"', None, None, None),
    ],
)
def test_options_that_are_there(options: bytes, vllm: bytes | None, sglang: bytes | None, openai: bytes | None) -> None:
    for dialect, expected in ((VLLM, vllm), (SGLANG, sglang), (OPENAI, openai)):
        assert injected(dialect, CHAT, WITH_OPTIONS % options) == (None if expected is None else WITH_OPTIONS % expected)


def test_of_options_that_stand_twice_the_last_count() -> None:
    body = b'{"stream":true,"stream_options":null,"stream_options":{"include_usage":false}}'
    assert injected(VLLM, CHAT, body) == b'{"stream":true,"stream_options":null,"stream_options":{"include_usage":true}}'


def test_sagemakers_route() -> None:
    assert injected(VLLM, "/invocations", b'{"messages":[],"stream":true}') == b'{"messages":[],"stream":true,' + ASKED + b"}"
    assert injected(VLLM, "/invocations", b'{"input":"a","stream":true}') is None
    assert injected(SGLANG, "/invocations", b'{"messages":[],"stream":true}') is not None
    assert injected(TGI, "/invocations", b'{"messages":[],"stream":true}') == b'{"messages":[],"stream":true,' + ASKED + b"}"
    assert injected(TGI, "/invocations", b'{"inputs":"a","stream":true,"parameters":{}}') == (
        b'{"inputs":"a","stream":true,"parameters":{"details":true}}'
    )
    assert injected(TGI, "/invocations", b'{"prompt":"a","stream":true}') is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (b'{"include_usage":false}', b'{"include_usage":true}'),
        (b'{"include_usage":true}', None),
        (b"null", None),  # TGI refuses it, and shall go on refusing it
        (b"{}", None),
        (b'{"include_usage":null}', None),
        (b'{"include_usage":false,"include_usage":false}', None),
    ],
)
def test_tgis_chats(options: bytes, expected: bytes | None) -> None:
    assert injected(TGI, CHAT, WITH_OPTIONS % options) == (None if expected is None else WITH_OPTIONS % expected)


def test_tgi_refuses_what_stands_twice() -> None:
    assert injected(TGI, CHAT, b'{"stream":true,"n":1,"n":1}') is None
    assert injected(TGI, "/generate_stream", b'{"inputs":"a","inputs":"b"}') is None
    assert injected(TGI, "/generate_stream", b'{"inputs":"a","parameters":{"seed":1,"seed":2}}') is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # without parameters TGI samples, with empty ones it does not
        (b'{"inputs":"a"}', b'{"inputs":"a","parameters":{"details":true,"do_sample":true}}'),
        (b'{"inputs":"a","parameters":{}}', b'{"inputs":"a","parameters":{"details":true}}'),
        (
            b'{"parameters":{"seed":18446744073709551615},"inputs":"a"}',
            b'{"parameters":{"seed":18446744073709551615,"details":true},"inputs":"a"}',
        ),
        (b'{"parameters":{ "details" : false }}', b'{"parameters":{ "details" : true }}'),
        (b'{"parameters":{"details":true}}', None),
        (b'{"parameters":{"details":null}}', None),
        (b'{"parameters":{"details":0}}', None),
        (b'{"parameters":null}', None),
        (b'{"parameters":[]}', None),
        (b'{"parameters":"x"}', None),
    ],
)
def test_tgis_details(before: bytes, after: bytes | None) -> None:
    assert injected(TGI, "/generate_stream", before) == after
    streamed = before[:-1] + b',"stream":true}'
    assert injected(TGI, "/", before) is None
    if after is None:
        assert injected(TGI, "/", streamed) is None
    else:
        parsed = json.loads(injected(TGI, "/", streamed) or b"")
        assert parsed == {**json.loads(after), "stream": True}


@pytest.mark.parametrize("path", [CHAT, COMPLETION, "/completion", "/infill", "/v1/responses", "/v1/messages"])
@pytest.mark.parametrize("dialect", [LLAMACPP, TRANSFORMERS])
def test_who_tells_counts_anyway_is_not_asked(dialect: Dialect, path: str) -> None:
    assert injected(dialect, path, b'{"stream":true}') is None


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages", "/v1/embeddings", "/health", "/generate"])
@pytest.mark.parametrize("dialect", [VLLM, SGLANG, OPENAI, TGI])
def test_other_routes_are_not_changed(dialect: Dialect, path: str) -> None:
    assert injected(dialect, path, b'{"inputs":"a","stream":true}') is None


def test_tgis_completions_tell_counts_anyway() -> None:
    assert injected(TGI, COMPLETION, b'{"prompt":"a","stream":true}') is None


# streams, as engines write them with and without the option

Stream = Callable[[list[str], bool], bytes]


def line(chunk: object, *, spaced: bool = False, end: bytes = b"\n\n") -> bytes:
    separators = (", ", ": ") if spaced else (",", ":")
    return b"data: " + json.dumps(chunk, ensure_ascii=False, separators=separators).encode("utf-8", "surrogatepass") + end


def vllm_chat(texts: list[str], told: bool) -> bytes:
    start = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    deltas: list[Any] = [{"role": "assistant", "content": ""}, *({"content": text} for text in texts)]
    events = [line({**start, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}) for delta in deltas]
    events.append(line({**start, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": None}]}))
    usage = {"prompt_tokens": 7, "total_tokens": 7 + len(texts), "completion_tokens": len(texts)}
    events += [line({**start, "choices": [], "usage": usage})] if told else []
    return b"".join(events) + b"data: [DONE]\n\n"


def vllm_completion(texts: list[str], told: bool) -> bytes:
    start = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}
    events = [line({**start, "choices": [{"index": 0, "text": text, "logprobs": None}]}) for text in texts]
    usage = {"prompt_tokens": 7, "total_tokens": 7 + len(texts), "completion_tokens": len(texts)}
    events += [line({**start, "choices": [], "usage": usage})] if told else []
    return b"".join(events) + b": keep-alive\n\n" + b"data: [DONE]\n\n"


def sglang_chat(texts: list[str], told: bool) -> bytes:
    start = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    choices = [[{"index": 0, "delta": {"role": None, "content": text}, "finish_reason": None}] for text in texts]
    events = [line({**start, "choices": choice, "usage": None}) for choice in choices]
    usage = {
        "prompt_tokens": 7,
        "total_tokens": 9,
        "completion_tokens": len(texts),
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    events += [line({**start, "choices": [], "usage": usage})] if told else []
    return b"".join(events) + b"data: [DONE]\n\n"


def spaced(texts: list[str], told: bool) -> bytes:
    """Somebody else's: spaces in the JSON, carriage returns between lines, an event with nothing in it."""
    events = [line({"choices": [{"delta": {"content": text}}]}, spaced=True, end=b"\r\n\r\n") for text in texts]
    events.append(line({"choices": [], "prompt_filter_results": []}, spaced=True, end=b"\r\n\r\n"))
    usage = {"prompt_tokens": 7, "completion_tokens": len(texts)}
    events += [line({"choices": [], "usage": usage}, spaced=True, end=b"\r\n\r\n")] if told else []
    return b"".join(events) + b"data: [DONE]\r\n\r\n"


def tgi_generate(texts: list[str], told: bool) -> bytes:
    events = []
    for index, text in enumerate(texts, 1):
        last = index == len(texts)
        details = {"finish_reason": "length", "generated_tokens": index, "seed": None, "input_length": 7}
        event = {"index": index, "token": {"id": 5, "text": text, "logprob": -1.5, "special": False}}
        event |= {"top_tokens": [{"id": 5, "text": text, "logprob": None, "special": False}]} if index % 2 else {}
        event |= {"generated_text": "".join(texts) if last else None, "details": details if last and told else None}
        events.append(line(event) + (b":\n\n" if index % 3 == 0 else b""))
    return b"".join(events)


def tgi_chat(texts: list[str], told: bool) -> bytes:
    start = {"object": "chat.completion.chunk", "id": "", "created": 1, "model": "m", "system_fingerprint": "3.3.6-dev0-native"}
    deltas = [{"role": "assistant", "content": text} for text in texts]
    events = [line({**start, "choices": [{"index": 0, "delta": delta, "logprobs": None}], "usage": None}) for delta in deltas]
    usage = {"prompt_tokens": 7, "completion_tokens": len(texts), "total_tokens": 9}
    events += [line({**start, "choices": [], "usage": usage})] if told else []
    return b"".join(events) + b"data: [DONE]\n\n"


def failing(texts: list[str], told: bool) -> bytes:
    """An engine that breaks down: the error and the end are what they are."""
    events = [line({"choices": [{"delta": {"content": text}}]}) for text in texts]
    return b"".join(events) + line({"error": {"message": "no", "type": "x", "choices": []}}) + b"data: [DONE]"


STREAMS: list[tuple[Dialect, str, Stream]] = [
    (VLLM, CHAT, vllm_chat),
    (VLLM, COMPLETION, vllm_completion),
    (VLLM, CHAT, failing),
    (SGLANG, CHAT, sglang_chat),
    (OPENAI, CHAT, spaced),
    (TGI, "/generate_stream", tgi_generate),
    (TGI, "/", tgi_generate),
    (TGI, CHAT, tgi_chat),
    (TGI, CHAT, failing),
]
# texts that look like what is taken out
TEXTS = st.text(max_size=6) | st.sampled_from(
    ['"details":{"a":1}', '"choices":[],"usage":{"completion_tokens":9}', "\n\n", "data: [DONE]", "[]", '{"usage":{}}', "}"]
)


def pieces(data: st.DataObject, stream: bytes) -> list[bytes]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    return [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def stripped(chunks: list[bytes], strip: Callable[[bytes], bytes]) -> bytes:
    splitter = EventSplitter()
    events = [event for chunk in chunks for event in splitter.feed(chunk)]
    return b"".join(map(strip, events)) + strip(splitter.flush())


@pytest.mark.parametrize(("dialect", "path", "stream"), STREAMS)
@given(texts=st.lists(TEXTS, min_size=1, max_size=5), data=st.data())
def test_the_client_sees_the_plain_stream(
    dialect: Dialect, path: str, stream: Stream, texts: list[str], data: st.DataObject
) -> None:
    found = dialect.inject(path, b'{"messages":[],"inputs":"a","stream":true}')
    assert found is not None
    assert stripped(pieces(data, stream(texts, True)), found.strip) == stream(texts, False)
    assert stripped(pieces(data, stream(texts, False)), found.strip) == stream(texts, False)


@pytest.mark.parametrize(("dialect", "path", "stream"), [row for row in STREAMS if row[2] is not failing])
def test_the_counts_are_told(dialect: Dialect, path: str, stream: Stream) -> None:
    def told(with_option: bool) -> Usage:
        events = EventReader(dialect.read_event).feed(stream(["a", "b", "c"], with_option))
        usage = Usage()
        for event in events:
            usage = usage.plus(event.usage) if event.usage is not None else usage
        return usage

    assert told(True) == Usage(7, 3, 3 if dialect is SGLANG else None)
    assert told(False) == Usage()


def test_ordinary_events_are_not_parsed() -> None:
    """They are the same object; whatever else happened to them would cost time for each token."""
    for event in (b'data: {"choices":[{"delta":{"content":"a"}}],"usage":null}\n\n', b":\n\n", b"data: [DONE]\n\n"):
        assert without_usage(event) is event
        assert without_details(event) is event


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"choices":[],"usage":null}\n\n',
        b'data: {"choices":[{"x":"y"}],"usage":{"a":1},"z":{"choices":[]}}\n\n',
        b'data: {"choices":[],"usage":{"a":1}\n\n',
        b'event: x\ndata: {"choices":[],"usage":{"a":1}}\n\n',
        b'{"choices":[],"usage":{"a":1}}\n\n',
        b'data: [{"choices":[],"usage":{}}]\n\n',
    ],
)
def test_what_only_resembles_the_extra_chunk_stays(event: bytes) -> None:
    assert without_usage(event) == event


# the splitter


@given(st.lists(st.sampled_from([b"\n", b"\r\n", b"a", b"data: x", b"\n\n", b"\r\n\r\n", b":"]), max_size=30), st.data())
def test_events_are_whole_and_nothing_is_lost(parts: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(parts)
    splitter, whole = EventSplitter(), EventSplitter()
    events = [event for chunk in pieces(data, stream) for event in splitter.feed(chunk)]
    assert b"".join(events) + splitter.flush() == stream
    assert events == whole.feed(stream)
    assert all(event.endswith((b"\n\n", b"\r\n\r\n")) for event in events)


def test_an_event_without_end_does_not_grow_memory() -> None:
    splitter, fed, given_back = EventSplitter(), b"", b""
    for _ in range(40):
        chunk = b"x" * 65_536
        fed += chunk
        given_back += b"".join(splitter.feed(chunk))
        assert len(fed) - len(given_back) <= LONGEST_EVENT + len(chunk)
    assert given_back + splitter.flush() == fed


def test_a_very_long_last_event_of_tgi_loses_its_details_all_the_same() -> None:
    texts = ["x" * 400_000] * 3
    with_details, plain = tgi_generate(texts, True), tgi_generate(texts, False)
    chunks = [with_details[at : at + 60_000] for at in range(0, len(with_details), 60_000)]
    assert stripped(chunks, without_details) == plain


# the simulated engines, with and without


@pytest.mark.parametrize(
    ("speaks", "dialect", "path", "body"),
    [
        ("openai", VLLM, CHAT, {"messages": [{"role": "user", "content": "a b"}], "max_tokens": 5}),
        (
            "openai",
            VLLM,
            CHAT,
            {"messages": [{"role": "user", "content": "a b"}], "max_tokens": 5, "n": 2, "stream_options": None},
        ),
        ("openai", VLLM, COMPLETION, {"prompt": ["a", "b c"], "max_tokens": 5, "stream_options": {"include_usage": False}}),
        ("tgi", TGI, CHAT, {"messages": [{"role": "user", "content": "a b"}], "max_tokens": 5}),
        ("tgi", TGI, "/generate_stream", {"inputs": "a b", "parameters": {"max_new_tokens": 5}}),
        ("tgi", TGI, "/", {"inputs": "a b", "parameters": {"max_new_tokens": 5, "top_n_tokens": 2}}),
        ("tgi", TGI, "/generate_stream", {"inputs": "a b"}),  # 100 tokens, sampled
    ],
)
async def test_simulated_engines(speaks: str, dialect: Dialect, path: str, body: dict[str, Any]) -> None:
    """The same request id says the same words; only the time and the answer's id may differ."""
    plain = json.dumps({**body, "stream": True}).encode()
    found = dialect.inject(path, plain)
    assert found is not None
    headers = {"content-type": "application/json", "x-request-id": "same"}
    async with SimulatedServer(speaks, speed=1000) as server, httpx.AsyncClient(trust_env=False, headers=headers) as client:
        without = await client.post(server.url + path, content=plain)
        with_it = await client.post(server.url + path, content=found.body)
    assert (without.status_code, with_it.status_code) == (200, 200)
    assert with_it.content != without.content
    assert normal(stripped([with_it.content], found.strip)) == normal(without.content)
    assert dict(without.headers).keys() == dict(with_it.headers).keys()


def normal(stream: bytes) -> bytes:
    return re.sub(rb'"created":\d+', b'"created":0', re.sub(rb'"id":"[^"]*"', b'"id":"x"', stream))


@pytest.mark.parametrize(
    ("speaks", "dialect", "path", "body", "counts"),
    [
        ("openai", "vllm", CHAT, {"messages": [{"role": "user", "content": "a b"}], "max_tokens": 5, "n": 2}, (2, 10)),
        ("tgi", "tgi", CHAT, {"messages": [{"role": "user", "content": "a b"}], "max_tokens": 5}, (2, 5)),
        ("tgi", "tgi", "/", {"inputs": "a b c", "parameters": {"max_new_tokens": 5}}, (3, 5)),
    ],
)
async def test_through_the_proxy(speaks: str, dialect: str, path: str, body: dict[str, Any], counts: tuple[int, int]) -> None:
    plain = json.dumps({**body, "stream": True}).encode()
    headers = {"content-type": "application/json", "x-request-id": "same"}
    async with (
        SimulatedServer(speaks, speed=1000) as server,
        data_plane(server.url[7:], dialect=dialect, usage="inject") as plane,
        httpx.AsyncClient(trust_env=False, headers=headers) as client,
    ):
        direct = await client.post(server.url + path, content=plain)
        through = await client.post(f"http://{plane.address}{path}", content=plain)
        entry = plane.ledger.get(through.headers["x-paceline-request-id"])
    assert normal(through.content) == normal(direct.content)
    assert entry is not None
    assert (entry.prompt_tokens, entry.output_tokens) == counts
    assert (entry.prompt_estimated, entry.output_estimated) == (False, False)
