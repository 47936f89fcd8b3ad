"""What the dialects read out of bytes: requests, events however they are cut, counts, and errors of ours."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects import DIALECTS, OPENAI, TGI, Dialect
from proxy.dialects.base import Event, Usage
from proxy.dialects.events import EventReader

TGI_STREAM = (
    b'data: {"index":1,"token":{"id":5,"text":"data: x","special":false},"generated_text":null,"details":null}\n\n'
    b":\n\n"
    b'data:{"index":2,"token":{"id":6,"text":"\\n\\n","logprob":-1.0,"special":false},"generated_text":"data: x","details":'
    b'{"finish_reason":"length","generated_tokens":2,"seed":null,"input_length":7}}\n\n'
)
TGI_CHAT_STREAM = (
    b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"a"}}],"usage":null}\n\n'
    b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}],"usage":null}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}\n\n'
    b"data: [DONE]\n\n"
)
VLLM_CHAT_STREAM = (
    b'data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
    b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"\\"a"},"finish_reason":null}]}\n\n'
    b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"b"},"finish_reason":"length"}]}\n\n'
    b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":3,"total_tokens":5,"completion_tokens":2}}\n\n'
    b"data: [DONE]\n\n"
)
SPACED_STREAM = (  # llama.cpp, SGLang and others may write JSON with spaces, and lines with carriage returns
    b'data: {"choices": [{"delta": {"role": "assistant"}}]}\r\n\r\n'
    b'data: {"choices": [{"delta": {"content": "a"}}]}\r\n\r\n'
    b'data: {"choices": [{"delta": {"reasoning_content": "b"}}]}\r\n\r\n'
    b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\r\n\r\n'
)


@pytest.mark.parametrize(
    ("dialect", "stream", "tokens", "usage"),
    [
        (TGI, TGI_STREAM, 2, Usage(7, 2)),
        (TGI, TGI_CHAT_STREAM, 2, Usage(9, 2)),
        (OPENAI, VLLM_CHAT_STREAM, 2, Usage(3, 2)),
        (OPENAI, SPACED_STREAM, 2, None),
    ],
)
@given(data=st.data())
def test_events_are_read_alike_however_the_stream_is_cut(
    dialect: Dialect, stream: bytes, tokens: int, usage: Usage | None, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader = EventReader(dialect.read_event)
    events: list[Event] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        events += reader.feed(stream[start:end])
    assert sum(event.tokens for event in events) == tokens
    assert [event.usage for event in events if event.usage is not None] == ([usage] if usage else [])


@pytest.mark.parametrize(
    ("dialect", "event", "kind"),
    [
        (TGI, b'{"error":"Model is overloaded","error_type":"overloaded"}', "overloaded"),
        (TGI, b'{"error":{"message":"bad","http_status_code":422}}', "422"),
        (OPENAI, b'{"error":{"message":"m","type":"BadRequestError","param":null,"code":400}}', "BadRequestError"),
        (OPENAI, b'{"error": "say "what""}', "error"),  # transformers serve does not escape
    ],
)
def test_errors_in_streams_are_seen(dialect: Dialect, event: bytes, kind: str) -> None:
    assert dialect.read_event(event) == Event(error=kind)


def asked(dialect: Dialect, path: str, body: Any) -> Any:
    return dialect.ask("POST", path, json.dumps(body).encode())


def test_tgi_requests() -> None:
    ask = asked(TGI, "/", {"inputs": "a" * 40, "stream": True, "parameters": {"max_new_tokens": 7, "best_of": 2}})
    assert (ask.streamed, ask.prompt_tokens, ask.prompt_estimated, ask.max_new_tokens) == (True, 10, True, 14)
    assert asked(TGI, "/generate", {"inputs": "a", "stream": True}).streamed is False
    assert asked(TGI, "/generate_stream", {"inputs": "a"}).streamed is True
    assert asked(TGI, "/generate", {"inputs": "a", "parameters": None}).max_new_tokens == 100
    assert asked(TGI, "/invocations", {"messages": [{"content": "a" * 8}], "max_tokens": 3}).operation == "chat"
    assert asked(TGI, "/vertex", {"instances": [{"inputs": "a"}, {"inputs": "b" * 8}]}).max_new_tokens == 200


def test_openai_requests() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "a" * 16}]}, {"role": "user", "content": "a" * 16}]
    ask = asked(
        OPENAI, "/v1/chat/completions", {"messages": messages, "model": "m", "n": 2, "max_tokens": 5, "service_tier": "flex"}
    )
    assert (ask.prompt_tokens, ask.max_new_tokens, ask.model, ask.service_tier) == (8, 10, "m", "flex")
    assert (
        asked(OPENAI, "/v1/chat/completions", {"messages": [], "max_completion_tokens": 9, "max_tokens": 5}).max_new_tokens == 9
    )
    ids = asked(OPENAI, "/v1/completions", {"prompt": [[1, 2, 3], [4]], "max_tokens": 2})
    assert (ids.prompt_tokens, ids.prompt_estimated, ids.max_new_tokens) == (4, False, 4)
    assert asked(OPENAI, "/v1/completions", {"prompt": [5, 6]}).prompt_tokens == 2
    assert asked(OPENAI, "/v1/completions", {"prompt": ["a" * 8, "b" * 8]}).prompt_tokens == 4


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'"x"', b"{", b"\xff", b"[" * 100_000, b'{"inputs"'])
def test_what_is_no_request_is_not_read(body: bytes) -> None:
    for dialect in DIALECTS.values():
        for path in dialect.routes:
            assert dialect.ask("POST", path, body) is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda v: st.lists(v) | st.dictionaries(st.text(max_size=5), v),
        max_leaves=5,
    )
)
def test_odd_values_never_raise(value: Any) -> None:
    keys = ("inputs", "parameters", "messages", "prompt", "max_tokens", "n", "stream", "model", "instances", "service_tier")
    for dialect in DIALECTS.values():
        for path in dialect.routes:
            for key in keys:
                asked(dialect, path, {"inputs": "a", key: value})
        dialect.read_event(json.dumps(value).encode())
        dialect.read_answer({}, json.dumps({"usage": value}).encode())


def test_counts_of_whole_answers() -> None:
    assert TGI.read_answer({b"x-prompt-tokens": b"5", b"x-generated-tokens": b"7"}, b"{}") == Usage(5, 7)
    body = json.dumps({"usage": {"prompt_tokens": 5, "completion_tokens": 7}}).encode()
    assert TGI.read_answer({}, body) == OPENAI.read_answer({}, body) == Usage(5, 7)
    assert OPENAI.read_answer({}, b"oops") == Usage()


def test_errors_of_ours_have_the_shape_of_the_route() -> None:
    assert TGI.error("/generate", "no", "overloaded") == {"error": "no", "error_type": "overloaded"}
    for dialect in (TGI, OPENAI):
        error: Any = dialect.error("/v1/completions", "no", "overloaded")["error"]
        assert (error["message"], error["type"]) == ("no", "overloaded")
