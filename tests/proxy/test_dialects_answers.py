"""Where each engine tells tokens, counts, errors and ids, read alike however its stream is cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects import DIALECTS, LLAMACPP, OPENAI, SGLANG, TGI, TRANSFORMERS, VLLM, Dialect
from proxy.dialects.base import Event, Usage
from proxy.dialects.events import EventReader


def events(*chunks: Any, done: bool = True, end: bytes = b"\n\n", spaced: bool = False) -> bytes:
    separators = (", ", ": ") if spaced else (",", ":")
    lines = [chunk if isinstance(chunk, bytes) else json.dumps(chunk, separators=separators).encode() for chunk in chunks]
    return b"".join(b"data: " + line + end for line in lines) + (b"data: [DONE]\n\n" if done else b"")


def delta(index: int = 0, finish: str | None = None, **told: Any) -> dict[str, Any]:
    return {"index": index, "delta": told, "finish_reason": finish}


TGI_STREAM = (
    b'data: {"index":1,"token":{"id":5,"text":"data: x","special":false},"generated_text":null,"details":null}\n\n'
    b":\n\n"
    b'data:{"index":2,"token":{"id":6,"text":"\\n\\n","logprob":-1.0,"special":false},"generated_text":"data: x","details":'
    b'{"finish_reason":"length","generated_tokens":2,"seed":null,"input_length":7}}\n\n'
)
TGI_CHAT = (
    b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"a"}}],"usage":null}\n\n'
    b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}],"usage":null}\n\n'  # a special token
    b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}\n\n'
    b"data: [DONE]\n\n"
)
TGI_PROMPTS = events(  # each prompt tells its counts in its own last chunk
    {"choices": [{"index": 0, "text": "a", "finish_reason": ""}]},
    {"choices": [{"index": 1, "text": "b", "finish_reason": "length"}], "usage": {"prompt_tokens": 3, "completion_tokens": 1}},
    {"choices": [{"index": 0, "text": "c", "finish_reason": "length"}], "usage": {"prompt_tokens": 4, "completion_tokens": 2}},
)
VLLM_CHAT = events(
    {"id": "c", "choices": [delta(role="assistant", content="")]},
    {"id": "c", "choices": [delta(content='"a')]},
    {"id": "c", "choices": [delta(content="b", finish="length")]},
    {"id": "c", "choices": [], "usage": {"prompt_tokens": 3, "total_tokens": 5, "completion_tokens": 2}},
)
SPACED = events(  # others write JSON with spaces, and lines with carriage returns
    {"choices": [delta(role="assistant")]},
    {"choices": [delta(content="a")]},
    {"choices": [delta(reasoning_content="b")]},
    {"choices": [delta(tool_calls=[{"function": {"arguments": "{"}}])]},
    {"choices": [delta(finish="stop")]},
    end=b"\r\n\r\n",
    spaced=True,
)
CONTINUOUS = events(  # continuous_usage_stats
    *(
        {"choices": [delta(content="a")], "usage": {"prompt_tokens": 3, "total_tokens": 3 + n, "completion_tokens": n}}
        for n in (0, 1, 2, 3)
    )
)
SPECULATIVE = events(  # several tokens in one event: the engine's own count wins
    {"choices": [delta(content="a b c d")]},
    {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 2}}},
)
TOKEN_IDS = events(
    {"request_id": "r", "choices": [{"index": 0, "token_ids": [1, 2, 3]}]},
    {"request_id": "r", "choices": [{"index": 0, "token_ids": []}]},
    {"request_id": "r", "choices": [{"index": 0, "token_ids": [4]}], "prompt_token_ids": None},
)
RESPONSES = events(
    {"type": "response.created", "response": {"id": "resp_1", "object": "response", "usage": None, "error": None}},
    {"type": "response.output_item.added", "item": {"type": "message", "content": []}},
    {"delta": "a", "item_id": "i", "type": "response.reasoning_text.delta"},
    {"type": "response.output_text.delta", "delta": "b"},
    {"type": "response.output_text.delta", "delta": ""},
    {"type": "response.function_call_arguments.delta", "delta": "{"},
    {"type": "response.output_text.done", "text": "b"},
    {
        "type": "response.completed",
        "response": {
            "id": "resp_1",
            "usage": {
                "input_tokens": 9,
                "input_tokens_details": {"cached_tokens": 4},
                "output_tokens": 3,
                "output_tokens_details": {"reasoning_tokens": 1},
            },
        },
    },
    done=False,
)
MESSAGES = b"".join(
    b"event: " + event["type"].encode() + b"\n" + events(event, done=False)
    for event in (
        {"type": "message_start", "message": {"type": "message", "usage": {"input_tokens": 9, "output_tokens": 0}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "b"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "{"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "x"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
    )
)
ANTHROPIC_CACHE = events(  # input_tokens are those that were not in the cache
    {"type": "message_start", "message": {"usage": {"cache_read_input_tokens": 6, "input_tokens": 3, "output_tokens": 0}}},
    {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 2}},
    done=False,
)


def native(n: int, index: int, finish: Any = None, cached: int = 0) -> dict[str, Any]:
    """SGLang's: text and counts so far, of one sequence."""
    info = {"id": f"r{index}", "finish_reason": finish, "prompt_tokens": 5, "completion_tokens": n, "cached_tokens": cached}
    return {"text": "a" * n, "output_ids": list(range(n)), "meta_info": info, "index": index}


LENGTH = {"type": "length", "length": 2}
SGLANG_NATIVE = events(native(1, 0), native(1, 1), native(2, 0, LENGTH), native(2, 1, LENGTH, cached=4))


def timings(prompt: int, cache: int, predicted: int) -> dict[str, Any]:
    return {"timings": {"cache_n": cache, "prompt_n": prompt, "prompt_ms": 5.5, "predicted_n": predicted, "predicted_ms": 9.1}}


LLAMA_CHAT = events(
    {"choices": [delta(role="assistant", content=None)]},
    {"choices": [delta(role="assistant", content=None)], "prompt_progress": {"total": 9, "cache": 6, "processed": 3}},
    {"choices": [delta(content="a")]},
    {"choices": [delta(content="b")]},
    {"choices": [delta(finish="length")], **timings(3, 6, 2)},
)
LLAMA_CHAT_USAGE = events(  # asked for usage, it moves the timings to the extra chunk
    {"choices": [delta(content="a")]},
    {"choices": [delta(finish="length")]},
    {"choices": [], "usage": {"completion_tokens": 1, "prompt_tokens": 9, "total_tokens": 10}, **timings(3, 6, 1)},
)
LLAMA_PER_TOKEN = events(
    {"choices": [delta(content="a")], **timings(9, 0, 1)},
    {"choices": [delta(content="b")], **timings(9, 0, 2)},
    {"choices": [delta(finish="length")], **timings(9, 0, 2)},
)


def piece(index: int, n: int, content: str, stop: bool, **more: Any) -> dict[str, Any]:
    counted = {"tokens_predicted": n, "tokens_evaluated": 9}
    return {"index": index, "content": content, "tokens": [5], "stop": stop, "id_slot": 0, **counted, **more}


LLAMA_NATIVE = events(
    piece(0, 1, "a", False),
    piece(0, 2, "b", False),
    piece(0, 2, "", True, stop_type="limit", **timings(4, 5, 2)),
    done=False,
)
LLAMA_NATIVE_LIST = events(
    piece(0, 1, "a", False),
    piece(1, 1, "b", False),
    piece(0, 1, "", True, stop_type="limit"),
    piece(1, 1, "", True, stop_type="limit"),
    done=False,
)
TRANSFORMERS_CHAT = events(  # a role before anything is generated, chunks that are not tokens, counts beside the finish
    {"choices": [delta(role="assistant")]},
    {"choices": [delta(content="aa")]},
    {"choices": [delta(content="bbbb")]},
    {"choices": [delta(finish="length")], "usage": {"prompt_tokens": 8, "completion_tokens": 6, "total_tokens": 14}},
    done=False,
)

STREAMS: list[tuple[Dialect, bytes, int, Usage]] = [
    (TGI, TGI_STREAM, 2, Usage(7, 2)),
    (TGI, TGI_CHAT, 2, Usage(9, 2)),
    (TGI, TGI_PROMPTS, 3, Usage(7, 3)),
    (VLLM, VLLM_CHAT, 2, Usage(3, 2)),
    (OPENAI, SPACED, 3, Usage()),
    (VLLM, CONTINUOUS, 4, Usage(3, 3)),
    (VLLM, SPECULATIVE, 1, Usage(3, 4, 2)),
    (VLLM, TOKEN_IDS, 4, Usage()),
    (VLLM, RESPONSES, 3, Usage(9, 3, 4)),
    (VLLM, MESSAGES, 3, Usage(9, 3)),
    (LLAMACPP, ANTHROPIC_CACHE, 0, Usage(9, 2, 6)),
    (SGLANG, SGLANG_NATIVE, 4, Usage(10, 4, 4)),
    (SGLANG, VLLM_CHAT, 2, Usage(3, 2)),
    (LLAMACPP, LLAMA_CHAT, 2, Usage(9, 2, 6)),
    (LLAMACPP, LLAMA_CHAT_USAGE, 1, Usage(9, 1, 6)),
    (LLAMACPP, LLAMA_PER_TOKEN, 2, Usage(9, 2, 0)),
    (LLAMACPP, LLAMA_NATIVE, 2, Usage(9, 2, 5)),
    (LLAMACPP, LLAMA_NATIVE_LIST, 2, Usage(18, 2)),
    (LLAMACPP, RESPONSES, 3, Usage(9, 3, 4)),
    (TRANSFORMERS, TRANSFORMERS_CHAT, 2, Usage(8, 6)),
]


@pytest.mark.parametrize(("dialect", "stream", "tokens", "usage"), STREAMS)
@given(data=st.data())
def test_streams_are_read_alike_however_they_are_cut(
    dialect: Dialect, stream: bytes, tokens: int, usage: Usage, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader, told = EventReader(dialect.read_event), Usage()
    seen: list[Event] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        seen += reader.feed(stream[start:end])
    for event in seen:
        told = told.plus(event.usage) if event.usage is not None else told
    assert sum(event.tokens for event in seen) == tokens
    assert told == usage
    assert not any(event.error for event in seen)


def test_the_id_of_what_is_stored_comes_with_the_first_event() -> None:
    seen = list(EventReader(VLLM.read_event).feed(RESPONSES))
    assert seen[0].id == "resp_1"
    assert {event.id for event in seen} == {"resp_1", ""}


@pytest.mark.parametrize(
    ("dialect", "event", "kind"),
    [
        (TGI, b'{"error":"Model is overloaded","error_type":"overloaded"}', "overloaded"),
        (TGI, b'{"error":{"message":"bad","http_status_code":422}}', "422"),
        (VLLM, b'{"error":{"message":"m","type":"BadRequestError","param":null,"code":400}}', "BadRequestError"),
        (SGLANG, b'{"error": {"message": "m"}}', "error"),
        (SGLANG, b'{"object":"error","message":"m","type":"BadRequest","code":400}', "400"),
        (LLAMACPP, b'{"error":{"code":500,"message":"m","type":"server_error"}}', "server_error"),
        (TRANSFORMERS, b'{"error": "say "what""}', "error"),  # it does not escape
        (TRANSFORMERS, b'{"error": "null pointer"}', "error"),
        (VLLM, b'{"type":"error","error":{"type":"overloaded_error","message":"m"}}', "overloaded_error"),
        (VLLM, b'{"code":"server_error","message":"m","param":null,"sequence_number":4,"type":"error"}', "server_error"),
        (SGLANG, events(native(1, 0, {"type": "abort", "message": "m"}), done=False)[6:-2], "abort"),
    ],
)
def test_errors_in_streams_are_seen(dialect: Dialect, event: bytes, kind: str) -> None:
    assert dialect.read_event(event).error == kind


def test_a_response_that_failed() -> None:
    event = {"type": "response.failed", "response": {"id": "r", "error": {"code": "server_error", "message": "m"}}}
    assert OPENAI.read_event(json.dumps(event).encode()) == Event(error="server_error", id="r")


@pytest.mark.parametrize(
    "chunk",
    [
        {"error": None, "choices": [delta(content="a")]},
        {"choices": [delta(content='{"error":"x","type":"error"}')]},
        {"id": "error", "choices": [delta(content="a")]},
    ],
)
def test_what_is_no_error(chunk: Any) -> None:
    for dialect in (VLLM, SGLANG, LLAMACPP, TRANSFORMERS, OPENAI):
        assert dialect.read_event(json.dumps(chunk).encode()) == Event(1)
    item = {"item": {"type": "error", "id": "i"}, "output_index": 0, "type": "response.output_item.done"}
    assert OPENAI.read_event(json.dumps(item).encode()) == Event()


BODY = {"usage": {"prompt_tokens": 5, "completion_tokens": 7}}
ANSWERS: list[tuple[Dialect, Any, Usage]] = [
    (TGI, BODY, Usage(5, 7)),
    (VLLM, {"usage": {"prompt_tokens": 5, "total_tokens": 5, "completion_tokens": 0}}, Usage(5, 0)),  # embeddings
    (VLLM, {"usage": {"total_tokens": 5}}, Usage(5)),  # rerank
    (
        VLLM,
        {"usage": {"prompt_tokens": 5, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 3}}},
        Usage(5, 7, 3),
    ),
    (VLLM, {"object": "response", "usage": {"input_tokens": 5, "output_tokens": 7, "input_tokens_details": {}}}, Usage(5, 7)),
    (VLLM, {"type": "message", "usage": {"input_tokens": 5, "output_tokens": 7, "cache_read_input_tokens": None}}, Usage(5, 7)),
    (LLAMACPP, {"usage": {"input_tokens": 2, "output_tokens": 7, "cache_read_input_tokens": 3}}, Usage(5, 7, 3)),
    (VLLM, {"request_id": "r", "choices": [{"token_ids": [1, 2]}, {"token_ids": [3]}, {"token_ids": None}]}, Usage(None, 3)),
    (LLAMACPP, {**BODY, **timings(2, 3, 7)}, Usage(5, 7, 3)),
    (LLAMACPP, piece(0, 7, "x", True, **timings(2, 7, 7)), Usage(9, 7, 7)),
    (LLAMACPP, piece(0, 7, "x", True), Usage(9, 7)),
    (LLAMACPP, [piece(0, 7, "x", True, **timings(2, 7, 7)), piece(1, 3, "y", True)], Usage(18, 10, 7)),
    (LLAMACPP, [{"index": 0, "embedding": [[0.5]]}], Usage()),
    (SGLANG, native(7, 0, LENGTH, 3), Usage(5, 7, 3)),
    (SGLANG, [native(7, 0, LENGTH), native(1, 0, LENGTH)], Usage(10, 8, 0)),
    (SGLANG, {"predictions": [native(7, 0, LENGTH)]}, Usage(5, 7, 0)),
    (SGLANG, [{"embedding": [0.5], "meta_info": {"prompt_tokens": 5}}], Usage(5)),
    (SGLANG, {"done": True, "prompt_eval_count": 5, "eval_count": 7}, Usage(5, 7)),
    (SGLANG, BODY, Usage(5, 7)),
    (TRANSFORMERS, BODY, Usage(5, 7)),
    (OPENAI, {"usage": {"prompt_tokens": -1, "completion_tokens": 10**30}}, Usage()),
    (OPENAI, {"usage": {"prompt_tokens": True, "completion_tokens": "7"}}, Usage()),
    (OPENAI, {"usage": None}, Usage()),
]


@pytest.mark.parametrize(("dialect", "body", "expected"), ANSWERS)
def test_counts_of_whole_answers(dialect: Dialect, body: Any, expected: Usage) -> None:
    assert dialect.read_answer({}, json.dumps(body).encode()) == expected


@pytest.mark.parametrize(
    ("prompt", "output", "expected"),
    [
        (b"5", b"7", Usage(5, 7)),
        (b"0", b"0", Usage(None, 0)),
        (b"x", b"7", Usage()),
        (b"-5", b"7", Usage()),
        (b"9" * 5000, b"7", Usage()),
        (b"5", None, Usage()),
    ],
)
def test_tgi_tells_counts_in_headers(prompt: bytes, output: bytes | None, expected: Usage) -> None:
    headers = {b"x-prompt-tokens": prompt} | ({} if output is None else {b"x-generated-tokens": output})
    assert TGI.read_answer(headers, b"{}") == expected


@pytest.mark.parametrize("as_list", [True, False])
def test_the_sequences_that_were_not_the_best_were_generated_too(as_list: bool) -> None:
    """TGI's headers count only the best one; with details the others are told as well."""
    answer = {"generated_text": "x", "details": {"generated_tokens": 7, "best_of_sequences": [{"generated_tokens": 6}, 5]}}
    body = json.dumps([answer] if as_list else answer).encode()
    assert TGI.read_answer({b"x-prompt-tokens": b"5", b"x-generated-tokens": b"7"}, body) == Usage(5, 13)


def test_counts_told_later_take_the_place_of_earlier_ones_and_parts_add_up() -> None:
    assert Usage(3, None).plus(Usage(None, 4)).plus(Usage(None, 5, 1)) == Usage(3, 5, 1)
    assert Usage(3, 4).plus(Usage(5, 6, part=True)) == Usage(8, 10)


@pytest.mark.parametrize(
    "body", [b"oops", b"", b"[]", b"null", b'{"usage":5}', b"[" * 100_000, b"\xff", b'{"response":"response"}']
)
def test_answers_that_tell_nothing(body: bytes) -> None:
    for dialect in DIALECTS.values():
        assert dialect.read_answer({}, body) == Usage()
        assert dialect.read_id(body) == ""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3),
    max_leaves=5,
)
TOP = [
    "usage",
    "timings",
    "meta_info",
    "details",
    "response",
    "message",
    "choices",
    "error",
    "type",
    "token",
    "stop",
    "content",
]
INNER = ["prompt_tokens", "completion_tokens", "input_tokens", "prompt_n", "predicted_n", "finish_reason", "generated_tokens"]


@given(
    st.dictionaries(st.sampled_from(TOP), JSON | st.dictionaries(st.sampled_from([*INNER, "type"]), JSON), max_size=5),
    st.sampled_from(["", "response.completed", "response.created", "message_start", "message_delta", "error"]),
)
def test_odd_answers_never_raise(answer: Any, kind: str) -> None:
    for one in (answer, {"type": kind, **answer}, [answer], [[answer]]):
        data = json.dumps(one, separators=(",", ":")).encode()
        for dialect in DIALECTS.values():
            event = dialect.read_event(data)
            assert event.tokens >= 0
            assert isinstance(event.error, str)
            dialect.read_answer({}, data)
            assert isinstance(dialect.read_id(data), str)


def test_llamacpp_tells_one_of_several_sequences_and_the_others_are_estimated() -> None:
    body = b'{"choices":[{"index":0},{"index":1}],"usage":{"prompt_tokens":3,"completion_tokens":6}}'
    usage = DIALECTS["llamacpp"].read_answer({}, body)
    assert (usage.prompt_tokens, usage.output_tokens, usage.estimated) == (3, 12, True)
