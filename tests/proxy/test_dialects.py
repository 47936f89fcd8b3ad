"""What requests ask for, by each engine's own defaults; whatever clients write, it stays within bounds."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects import DIALECTS, LLAMACPP, OPENAI, SGLANG, TGI, TRANSFORMERS, VLLM, Dialect
from proxy.dialects.asks import MOST_SEQUENCES, MOST_TOKENS, Ask

CHAT, COMPLETION, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
SAID = [{"role": "user", "content": "a" * 40}]


def asked(dialect: Dialect, path: str, body: Any) -> Ask:
    ask = dialect.ask("POST", path, json.dumps(body).encode())
    assert ask is not None
    return ask


def text(streamed: bool, prompt: int, limit: int, sequences: int = 1, **more: Any) -> Ask:
    estimated = more.pop("estimated", True)
    return Ask("text_completion", streamed, prompt, estimated, limit, sequences=sequences, **more)


def chat(prompt: int, limit: int, sequences: int = 1, **more: Any) -> Ask:
    return Ask("chat", more.pop("streamed", False), prompt, True, limit, sequences=sequences, **more)


def pooled(prompt: int, sequences: int = 1, **more: Any) -> Ask:
    return Ask("embeddings", False, prompt, more.pop("estimated", True), 0, sequences=sequences, **more)


REQUESTS: list[tuple[Dialect, str, Any, Ask]] = [
    # TGI: 100 tokens where nothing is said; each copy and each prompt takes a permit
    (TGI, "/", {"inputs": "a" * 40, "stream": True, "parameters": {"max_new_tokens": 7, "best_of": 2}}, text(True, 10, 14, 2)),
    (TGI, "/generate", {"inputs": "a" * 40, "stream": True}, text(False, 10, 100)),
    (TGI, "/generate_stream", {"inputs": "a" * 40, "stream": False}, text(True, 10, 100)),
    (TGI, "/generate", {"inputs": "a" * 40, "parameters": None}, text(False, 10, 100)),
    (TGI, "/generate", {"inputs": "a" * 40, "parameters": {"truncate": 4, "adapter_id": "x"}}, text(False, 4, 100, model="x")),
    (TGI, "/generate", {"inputs": "a" * 40, "parameters": {"truncate": 400}}, text(False, 10, 100)),
    (TGI, CHAT, {"messages": SAID, "n": 5, "max_tokens": 3}, chat(10, 3)),
    (TGI, CHAT, {"messages": SAID, "max_completion_tokens": 4}, chat(10, 4)),
    (TGI, COMPLETION, {"prompt": ["a" * 8, "b" * 8], "n": 3, "best_of": 4, "max_tokens": 5}, text(False, 4, 10, 2)),
    (TGI, "/invocations", {"inputs": "a" * 8, "messages": [], "stream": True}, text(True, 2, 100)),
    (TGI, "/invocations", {"messages": SAID, "max_tokens": 3}, chat(10, 3)),
    (TGI, "/invocations", {"prompt": "a" * 8}, text(False, 2, 100)),
    (
        TGI,
        "/vertex",  # of parameters only max_new_tokens is honoured
        {
            "instances": [
                {"inputs": "a" * 40, "parameters": {"best_of": 2, "max_new_tokens": 9, "truncate": 1}},
                {"messages": SAID},
            ]
        },
        text(False, 20, 200, 2),
    ),
    (TGI, "/vertex", {"instances": []}, text(False, 1, 0)),
    (TGI, "/predict", {"instances": [{"inputs": "a" * 8}]}, text(False, 2, 100)),
    (TGI, "/v2/models/m/versions/1/infer", {"inputs": [{"data": [97] * 8}, {"data": [98] * 8}]}, text(False, 4, 200, 2)),
    # OpenAI's surface
    (
        VLLM,
        CHAT,
        {"messages": SAID, "model": "m", "n": 2, "max_tokens": 5, "service_tier": "flex", "stream": True},
        chat(10, 10, 2, model="m", service_tier="flex", streamed=True),
    ),
    (VLLM, CHAT, {"messages": SAID, "max_completion_tokens": 9, "max_tokens": 5}, chat(10, 9)),
    (VLLM, CHAT, {"messages": [{"content": [{"type": "text", "text": "a" * 16}, {"type": "image_url"}]}]}, chat(4, 512)),
    (VLLM, COMPLETION, {"prompt": [[1, 2, 3], [4]], "max_tokens": 2}, text(False, 4, 4, 2, estimated=False)),
    (VLLM, COMPLETION, {"prompt": [5, 6], "best_of": 7}, text(False, 2, 16, estimated=False)),
    (OPENAI, COMPLETION, {"prompt": "a" * 8, "best_of": 4, "n": 2}, text(False, 2, 64, 4)),
    (OPENAI, COMPLETION, {"prompt": ["a" * 8, "b" * 8], "n": 3}, text(False, 4, 96, 6)),
    (OPENAI, COMPLETION, {"prompt": []}, text(False, 1, 16)),
    (
        VLLM,
        RESPONSES,
        {"input": "a" * 8, "instructions": "b" * 8, "max_output_tokens": 7, "previous_response_id": "resp_1", "stream": True},
        chat(4, 7, previous="resp_1", streamed=True),
    ),
    (VLLM, RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_text", "text": "a" * 12}]}]}, chat(3, 512)),
    (VLLM, MESSAGES, {"system": "a" * 8, "messages": SAID, "max_tokens": 6, "model": "m"}, chat(12, 6, model="m")),
    (VLLM, "/v1/chat/completions/batch", {"messages": [SAID, SAID, SAID], "n": 2, "max_tokens": 4}, chat(30, 24, 6)),
    (
        VLLM,
        "/inference/v1/generate",
        {"token_ids": [1, 2, 3], "sampling_params": {"n": 2, "max_tokens": 5}, "stream": True},
        text(True, 3, 10, 2, estimated=False),
    ),
    (VLLM, "/invocations", {"messages": SAID}, chat(10, 512)),
    (VLLM, "/invocations", {"prompt": "a" * 8}, text(False, 2, 16)),
    (VLLM, "/invocations", {"input": ["a" * 8] * 3}, pooled(6, 3)),
    (VLLM, "/invocations", {"query": "a" * 8, "documents": ["b" * 8] * 3}, pooled(12, 3)),
    # what is only read
    (VLLM, "/v1/embeddings", {"input": ["a" * 8, "b" * 8], "model": "e", "stream": True}, pooled(4, 2, model="e")),
    (VLLM, "/v1/embeddings", {"input": [[1, 2], [3]]}, pooled(3, 2, estimated=False)),
    (VLLM, "/v1/embeddings", {"messages": SAID}, pooled(10)),
    (VLLM, "/pooling", {"data": "a" * 8}, pooled(2)),
    (VLLM, "/classify", {"input": "a" * 8}, pooled(2)),
    (VLLM, "/v2/embed", {"texts": ["a" * 8] * 2}, pooled(4, 2)),
    (VLLM, "/rerank", {"query": "a" * 8, "documents": ["b" * 8, "c" * 8]}, pooled(8, 2)),
    (VLLM, "/score", {"text_1": ["a" * 8, "b" * 8], "text_2": "c" * 8}, pooled(8, 2)),
    (LLAMACPP, "/embedding", {"content": "a" * 8}, pooled(2)),
    (LLAMACPP, "/reranking", {"query": "a" * 8, "texts": ["b" * 8]}, pooled(4)),
    (VLLM, "/v1/audio/speech", {"input": "a" * 8}, Ask("generate_content", False, 2, True, 512)),
    # SGLang's own
    (SGLANG, "/generate", {"text": "a" * 8, "stream": True}, text(True, 2, 128)),
    (SGLANG, "/generate", {"text": ["a" * 8] * 3, "sampling_params": {"n": 2, "max_new_tokens": 5}}, text(False, 6, 30, 6)),
    (
        SGLANG,
        "/generate",
        {"input_ids": [[1], [2, 3]], "sampling_params": [{"max_new_tokens": 5}, {"max_new_tokens": 9}]},
        text(False, 3, 18, 2, estimated=False),
    ),
    (SGLANG, "/encode", {"text": ["a" * 8] * 3}, pooled(6, 3)),
    (SGLANG, "/classify", {"input_ids": [1, 2, 3]}, pooled(3, estimated=False)),
    (SGLANG, "/api/chat", {"messages": SAID, "options": {"num_predict": 6}}, chat(10, 6, streamed=True)),
    (SGLANG, "/api/generate", {"prompt": "a" * 8, "system": "b" * 8, "stream": False}, text(False, 4, 128)),
    (SGLANG, "/vertex_generate", {"instances": [{"text": "a" * 8}] * 2, "parameters": {"stream": True}}, text(True, 4, 256, 2)),
    (SGLANG, "/vertex_generate", {"instances": [{"input_ids": [1, 2]}]}, text(False, 2, 128, estimated=False)),
    (SGLANG, "/invocations", {"messages": SAID}, chat(10, 512)),
    # llama.cpp's own
    (LLAMACPP, "/completion", {"prompt": "a" * 8, "n_predict": 5, "stream": True}, text(True, 2, 5)),
    (LLAMACPP, "/completion", {"prompt": "a" * 8, "n_predict": -1}, text(False, 2, 512)),
    (LLAMACPP, "/completions", {"prompt": ["a" * 8, "b" * 8], "n_predict": 5, "n_cmpl": 2}, text(False, 4, 20, 4)),
    (LLAMACPP, "/completion", {"prompt": [1, 2, 3]}, text(False, 3, 512, estimated=False)),
    (LLAMACPP, "/completion", {"prompt": [1, "a" * 8, 2]}, text(False, 4, 512)),  # one prompt of ids and text
    (LLAMACPP, "/completion", {"prompt": {"prompt_string": "a" * 8, "multimodal_data": ["x"]}}, text(False, 2, 512)),
    (LLAMACPP, "/infill", {"input_prefix": "a" * 8, "input_suffix": "b" * 8, "n_predict": 3}, text(False, 5, 3)),
    (LLAMACPP, "/chat/completions", {"messages": SAID}, chat(10, 512)),
    # transformers serve ignores what others count
    (TRANSFORMERS, CHAT, {"messages": SAID, "n": 4, "max_completion_tokens": 3}, chat(10, 1024)),
    (TRANSFORMERS, CHAT, {"messages": SAID, "max_tokens": 3}, chat(10, 3)),
    (TRANSFORMERS, COMPLETION, {"prompt": "a" * 8}, text(False, 2, 1024)),
]


@pytest.mark.parametrize(("dialect", "path", "body", "expected"), REQUESTS)
def test_requests(dialect: Dialect, path: str, body: Any, expected: Ask) -> None:
    assert asked(dialect, path, body) == expected


def test_put_is_sglangs_other_way() -> None:
    assert SGLANG.ask("PUT", "/generate", b'{"text":"a"}') is not None
    assert SGLANG.ask("GET", "/generate", b'{"text":"a"}') is None


FORM = (
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\nRIFF\xff\x00\r\n'
    b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper\r\n'
    b'--x\r\nContent-Disposition: form-data; name="stream"\r\n\r\ntrue\r\n--x--\r\n'
)


@pytest.mark.parametrize("body", [FORM, FORM[:90], b"", b"\xff" * 100, b'name="model"'])
def test_sounds_wait_their_turn_too(body: bytes) -> None:
    ask = VLLM.ask("POST", "/v1/audio/transcriptions", body)
    whole = body == FORM
    assert ask == Ask("generate_content", whole, 1, True, 512, model="whisper" if whole else "")


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'"x"', b"{", b"\xff", b"[" * 100_000, b'{"inputs"', b'{"a":1}}'])
def test_what_is_no_request_is_not_read(body: bytes) -> None:
    for dialect in DIALECTS.values():
        for path in dialect.routes:
            assert dialect.ask("POST", path, body) is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",  # llama.cpp reads what Python does not
        b' {"x":' + b"9" * 5000 + b"}",
        b'{"instances":5,"prompt":{},"inputs":5,"messages":5}',
    ],
)
def test_an_object_that_we_do_not_understand_waits_all_the_same(body: bytes) -> None:
    for dialect in DIALECTS.values():
        for path in dialect.routes:
            ask = dialect.ask("POST", path, body)
            assert ask is not None
            assert ask.prompt_tokens >= 1


HUGE = [10**9, 10**30, -1, 0, True, False, 1.5, 1e308, "7", None, [], {}]


@pytest.mark.parametrize("value", HUGE)
def test_numbers_stay_within_bounds(value: Any) -> None:
    keys = ("n", "best_of", "max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict", "n_cmpl", "truncate")
    inner = dict.fromkeys(("best_of", "max_new_tokens", "n", "max_tokens", "truncate"), value)
    body = dict.fromkeys(keys, value) | {"parameters": inner, "sampling_params": inner, "options": {"num_predict": value}}
    body |= {"inputs": "a", "text": "a", "prompt": "a", "messages": SAID, "token_ids": [1], "instances": [{"inputs": "a"}]}
    for dialect in DIALECTS.values():
        for path in dialect.routes:
            ask = asked(dialect, path, body)
            assert 1 <= ask.sequences <= MOST_SEQUENCES
            assert 0 <= ask.max_new_tokens <= MOST_TOKENS
            assert 1 <= ask.prompt_tokens <= MOST_TOKENS


def test_lists_without_end_stay_within_bounds() -> None:
    ask = asked(VLLM, COMPLETION, {"prompt": ["a"] * 5000, "n": 7})
    assert (ask.sequences, ask.max_new_tokens) == (MOST_SEQUENCES, 16 * MOST_SEQUENCES)


def test_names_are_short_texts_that_can_be_passed_on() -> None:
    ask = asked(VLLM, RESPONSES, {"model": "\ud800" + "m" * 999, "service_tier": ["flex"], "previous_response_id": 5})
    assert (ask.model, ask.service_tier, ask.previous) == ("?" + "m" * 255, "", "")
    ask.model.encode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda v: st.lists(v) | st.dictionaries(st.text(max_size=5) | st.sampled_from(["n", "text", "content", "data"]), v),
    max_leaves=5,
)
KEYS = [
    "inputs",
    "parameters",
    "messages",
    "prompt",
    "max_tokens",
    "n",
    "stream",
    "model",
    "instances",
    "service_tier",
    "system",
]
KEYS += [
    "input",
    "text",
    "input_ids",
    "sampling_params",
    "query",
    "documents",
    "text_1",
    "token_ids",
    "options",
    "instructions",
]


@given(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4))
def test_odd_values_never_raise(body: Any) -> None:
    for dialect in DIALECTS.values():
        for path in [*dialect.routes, "/v2/models/m/versions/1/infer"]:
            ask = dialect.ask("POST", path, json.dumps(body).encode())
            if ask is not None:
                assert replace(ask, streamed=True).max_new_tokens <= MOST_TOKENS
