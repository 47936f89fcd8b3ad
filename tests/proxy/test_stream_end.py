"""Whatever is written into a stream's end, every other byte of it is the server's, and comes when it came."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects import LLAMACPP, OPENAI, SGLANG, TGI, TRANSFORMERS, VLLM, Dialect
from proxy.dialects.ending import LONGEST_END, StreamEnd

TOLD = '{"joules":12.5,"final":true}'
MEMBER = b',"energy":' + TOLD.encode()
DONE = b"data: [DONE]\n\n"


def line(chunk: object, event: str = "") -> bytes:
    named = f"event: {event}\n".encode() if event else b""
    return named + b"data: " + json.dumps(chunk, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n\n"


def chat(text: str, **more: Any) -> bytes:
    return line({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}], **more})


USAGE = {"prompt_tokens": 3, "completion_tokens": 2}
COUNTS = line({"choices": [], "usage": USAGE})
FINISH = line({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})

# by dialect: what passes at once, and what is held from there on, the event with the last counts marked by its place
ENDS: list[tuple[str, Dialect, list[bytes], list[bytes], int | None]] = [
    ("chat", VLLM, [chat("a"), chat("b"), FINISH], [COUNTS, DONE], 0),
    ("chat without counts", VLLM, [chat("a"), FINISH], [DONE], None),
    (
        "counts in each",
        VLLM,
        [chat("", usage=USAGE), chat("a", usage=USAGE)],
        [line({"choices": [{"index": 0, "text": "", "finish_reason": "stop"}], "usage": USAGE}), COUNTS, DONE],
        1,
    ),
    ("filters first", OPENAI, [line({"choices": [], "prompt_filter_results": []}), chat("a")], [COUNTS, DONE], 0),
    (
        "anthropic",
        VLLM,
        [
            line({"type": "message_start", "message": {"usage": {"input_tokens": 3, "output_tokens": 0}}}, "message_start"),
            line({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}}, "content_block_delta"),
        ],
        [
            line({"type": "message_delta", "delta": {"stop_reason": "x"}, "usage": {"output_tokens": 2}}, "message_delta"),
            line({"type": "message_stop"}, "message_stop"),
        ],
        0,
    ),
    (
        "responses",
        OPENAI,
        [
            line({"type": "response.created", "response": {"id": "r", "usage": None}}, "response.created"),
            line({"type": "response.output_text.delta", "delta": "a"}, "response.output_text.delta"),
        ],
        [line({"type": "response.completed", "response": {"usage": {"input_tokens": 3, "output_tokens": 1}}})],
        0,
    ),
    (
        "tgi",
        TGI,
        [line({"index": 1, "token": {"text": "a"}, "generated_text": None, "details": None}).replace(b": {", b":{")],
        [
            line({"index": 2, "token": {"text": "b"}, "generated_text": "ab", "details": {"generated_tokens": 2}})
            .replace(b": ", b":")
            .replace(b"data:", b"data: ")
        ],
        0,
    ),
    ("sglang", SGLANG, [line({"text": "a", "meta_info": {"finish_reason": None, "completion_tokens": 1}})], [DONE], None),
    (
        "sglang's last",
        SGLANG,
        [line({"text": "a", "meta_info": {"finish_reason": None}})],
        [line({"text": "ab", "meta_info": {"finish_reason": {"type": "stop"}, "completion_tokens": 2}}), DONE],
        0,
    ),
    (
        "llama.cpp",
        LLAMACPP,
        [line({"content": "a", "stop": False})],
        [line({"content": "", "stop": True, "tokens_predicted": 2, "tokens_evaluated": 3})],
        0,
    ),
    (
        "transformers",
        TRANSFORMERS,
        [line({"choices": [{"delta": {"content": "a"}, "finish_reason": None}]})],
        [line({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": USAGE})],
        0,
    ),
    ("a broken engine", VLLM, [chat("a"), line({"error": {"message": "no", "type": "x"}})], [DONE], None),
]
NAMES = [row[0] for row in ENDS]
# texts that look like what is looked for, and what is written
TEXTS = st.text(max_size=6) | st.sampled_from(
    ['"finish_reason":"stop"', '"choices":[],"usage":{"completion_tokens":9}', "\n\n", "data: [DONE]", '"energy":{}', "}"]
)


def pieces(data: st.DataObject, stream: bytes) -> list[bytes]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    return [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def through(dialect: Dialect, chunks: list[bytes], *, member: bool = True) -> bytes:
    end = StreamEnd(dialect.read_event)
    return b"".join([end.feed(chunk) for chunk in chunks]) + end.told(TOLD, member=member)


def comment(newline: bytes = b"\n") -> bytes:
    return b": energy " + TOLD.encode() + 2 * newline


def dispatched(stream: bytes) -> list[tuple[str, str]]:
    """Events as a client gets them, by the HTML standard; what is left at the end counts as one."""
    events, kind, data = list[tuple[str, str]](), "", list[str]()
    for text in [*re.split(r"\r\n|\n|\r", stream.decode("utf-8", "surrogatepass")), ""]:
        name, _, value = text.partition(":")
        if not text and data:
            events.append((kind, "\n".join(data)))
        if not text:
            kind, data = "", []
        elif name == "data":
            data.append(value.removeprefix(" "))
        elif name == "event":
            kind = value.removeprefix(" ")
    return events


@pytest.mark.parametrize(("name", "dialect", "passing", "held", "counts"), ENDS, ids=NAMES)
def test_events_pass_at_once_but_for_the_last(
    name: str, dialect: Dialect, passing: list[bytes], held: list[bytes], counts: int | None
) -> None:
    end = StreamEnd(dialect.read_event)
    assert [end.feed(event) for event in passing] == passing
    assert [end.feed(event) for event in held] == [b""] * len(held)
    expected = [event[:-3] + MEMBER + event[-3:] if n == counts else event for n, event in enumerate(held)]
    expected.insert(-1 if held[-1] == DONE else len(held), comment())
    assert end.told(TOLD, member=True) == b"".join(expected)


@pytest.mark.parametrize(("name", "dialect", "passing", "held", "counts"), ENDS, ids=NAMES)
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@given(texts=st.lists(TEXTS, max_size=3), cut=st.integers(0, 4), member=st.booleans(), data=st.data())
def test_all_else_is_the_servers(
    name: str,
    dialect: Dialect,
    passing: list[bytes],
    held: list[bytes],
    counts: int | None,
    newline: bytes,
    texts: list[str],
    cut: int,
    member: bool,
    data: st.DataObject,
) -> None:
    """Under every chunking, with LF or CRLF, and whether or not the last lines have their ends."""
    stream = b"".join([*map(chat, texts), b": keep-alive\n\n", *passing, *held]).replace(b"\n", newline)
    ending = len(stream) - len(stream.rstrip(b"\r\n"))
    stream = stream[: len(stream) - min(cut, ending)]
    got = through(dialect, pieces(data, stream), member=member)
    assert got.count(MEMBER) == (member and counts is not None)
    assert got.count(comment(newline)) == 1
    assert got.replace(MEMBER, b"").replace(comment(newline), b"") == stream
    assert dispatched(got.replace(MEMBER, b"")) == dispatched(stream)
    if DONE in held:
        assert comment(newline) + b"data: [DONE]" in got


LINES = [b"\n", b"\r\n", b"\r", b"\n\n", b"\r\n\r\n", b":", b"data:", b"data: [DONE]", b"event: x\n", b"\xff", b"\xef\xbb\xbf"]
WHOLE = [COUNTS, COUNTS[:-2], COUNTS[:-5], chat("a"), DONE, b'data: {"choices": [], "usage": {}, "energy": 1}\n\n']
SOUP = st.lists(st.sampled_from([*LINES, *WHOLE]), max_size=12)


@given(parts=SOUP, data=st.data())
def test_of_what_is_no_stream_nothing_is_lost(parts: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(parts)
    got = through(VLLM, pieces(data, stream))
    assert got == through(VLLM, [stream])  # however it is cut
    plain = got.replace(MEMBER, b"", 1)
    assert stream in (plain.replace(comment(b"\n"), b"", 1), plain.replace(comment(b"\r\n"), b"", 1))


@pytest.mark.parametrize(("name", "dialect", "passing", "held", "counts"), ENDS, ids=NAMES)
@given(data=st.data())
def test_a_stream_that_is_cut_is_not_made_whole(
    name: str, dialect: Dialect, passing: list[bytes], held: list[bytes], counts: int | None, data: st.DataObject
) -> None:
    stream = b"".join([*passing, *held])
    stream = stream[: data.draw(st.integers(0, len(stream)))]
    end = StreamEnd(dialect.read_event)
    assert b"".join([end.feed(chunk) for chunk in pieces(data, stream)]) + end.rest() == stream


def test_what_seemed_to_be_the_end_goes_on_with_the_next_token() -> None:
    """Two sequences, with counts in each chunk; the first has finished."""
    finished = line({"choices": [{"index": 0, "text": "", "finish_reason": "stop"}], "usage": USAGE})
    end = StreamEnd(VLLM.read_event)
    assert end.feed(finished) == b""
    assert end.feed(b": keep-alive\n\n") == b""
    assert end.feed(chat("b")) == finished + b": keep-alive\n\n" + chat("b")
    assert end.feed(COUNTS + DONE) == b""


def test_a_member_of_that_name_stays_what_it_is() -> None:
    own = line({"choices": [], "usage": USAGE, "energy": 7})
    assert through(VLLM, [own + DONE]) == own + comment() + DONE


def test_data_on_two_lines_is_not_touched() -> None:
    odd = COUNTS.replace(b', "usage"', b',\ndata: "usage"')
    assert through(VLLM, [odd + DONE]) == odd + comment() + DONE


def test_an_end_without_end_does_not_grow_memory() -> None:
    end, fed, given_back = StreamEnd(VLLM.read_event), COUNTS, 0
    assert end.feed(COUNTS) == b""
    for _ in range(20):
        silence = b":" + b" " * 600_000 + b"\n\n"
        fed += silence
        given_back += len(end.feed(silence))
        assert len(fed) - given_back <= LONGEST_END
    assert given_back > LONGEST_END


def test_a_very_long_last_event_goes_on_as_it_is() -> None:
    """Its pieces are no events, so nothing is written between them."""
    text = "a" * 3_000_000
    last = line({"type": "response.completed", "response": {"text": text, "usage": {"output_tokens": 1}}})
    chunks = [last[at : at + 60_000] for at in range(0, len(last), 60_000)]
    assert through(OPENAI, chunks) == last + comment()
    assert through(OPENAI, chunks[:-1]) == b"".join(chunks[:-1])  # it never ended


def test_the_rest_of_a_very_long_event_is_not_taken_for_one() -> None:
    long = b"data: " + b"a" * 3_000_000 + b"\ndata: [DONE]\n\n"
    assert through(VLLM, [long[at : at + 60_000] for at in range(0, len(long), 60_000)]) == long + comment()
