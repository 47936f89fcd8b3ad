"""How requests that begin alike, or are turns of one session, are known, and that they come to one server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.agreement import session_of
from proxy.dialects import DIALECTS
from proxy.dialects.affinity import CHARACTERS, TOKENS, prefix_of
from proxy.dialects.base import Ask
from tests.serving import Seen, data_plane, exchange, upstream

LONG = "x" * CHARACTERS
KEYS = 24  # that all fall to one of two servers, whose names differ from run to run, happens once in eight million runs


def said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def ask(dialect: str, path: str, body: dict[str, Any]) -> Ask:
    found = DIALECTS[dialect].ask("POST", path, json.dumps(body).encode())
    assert found is not None
    return found


SHORT = [said("system", "be kind"), said("user", "hello")]


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        # the first thousand characters, whatever follows
        ({"prompt": LONG + "a"}, {"prompt": LONG + "b"}, True),
        ({"prompt": "a" + LONG}, {"prompt": "b" + LONG}, False),
        ({"messages": [said("user", LONG), said("user", "a")]}, {"messages": [said("user", LONG + "b")]}, True),
        ({"messages": [said("user", [{"type": "text", "text": LONG}])]}, {"messages": [said("user", LONG)]}, True),
        ({"messages": [said("user", LONG[:500]), said("assistant", LONG[500:])]}, {"prompt": LONG}, True),
        # a system message, wherever it stands, and however short
        ({"messages": SHORT}, {"messages": [SHORT[0], said("user", "goodbye")]}, True),
        ({"messages": SHORT}, {"messages": [said("developer", "be kind")]}, True),
        ({"messages": SHORT}, {"system": "be kind", "messages": [said("user", "hello")]}, True),
        ({"messages": SHORT}, {"instructions": "be kind", "input": "hello"}, True),
        ({"messages": SHORT}, {"messages": [said("system", "be cruel"), said("user", "hello")]}, False),
        ({"messages": [SHORT[0], said("user", LONG + "a")]}, {"messages": [SHORT[0], said("user", LONG + "b")]}, True),
        ({"messages": [SHORT[0], said("user", "a" + LONG)]}, {"messages": [SHORT[0], said("user", "b" + LONG)]}, False),
        # token ids
        ({"prompt": [*range(TOKENS), 1]}, {"prompt": [*range(TOKENS), 2]}, True),
        ({"prompt": [1, *range(TOKENS)]}, {"prompt": [2, *range(TOKENS)]}, False),
        # of several prompts, the first says
        ({"prompt": [LONG, "a"]}, {"prompt": [LONG, "b"]}, True),
    ],
)  # fmt: skip
def test_what_begins_alike(one: dict[str, Any], other: dict[str, Any], alike: bool) -> None:
    digests = prefix_of(one), prefix_of(other)
    assert all(digest is not None and len(digest) == 12 for digest in digests)
    assert (digests[0] == digests[1]) is alike


@pytest.mark.parametrize(
    "body",
    [
        *({}, {"prompt": "hello"}, {"messages": [said("user", "hello")]}, {"prompt": [1, 2, 3]}, {"messages": None}),
        *({"prompt": 7}, {"messages": [said("system", "")]}, {"messages": ["hello", 3, None]}, {"system": None, "prompt": []}),
    ],
)
def test_what_is_short_is_nobodys_beginning(body: dict[str, Any]) -> None:
    assert prefix_of(body) is None


@pytest.mark.parametrize(
    ("dialect", "path", "body"),
    [
        ("tgi", "/generate", {"inputs": LONG}),
        ("tgi", "/", {"inputs": LONG}),
        ("tgi", "/v1/chat/completions", {"messages": [said("user", LONG)]}),
        ("vllm", "/v1/completions", {"prompt": LONG}),
        ("vllm", "/v1/responses", {"input": LONG}),
        ("vllm", "/v1/messages", {"messages": [said("user", LONG)]}),
        ("sglang", "/generate", {"text": LONG}),
        ("llamacpp", "/completion", {"prompt": LONG}),
        ("transformers", "/v1/chat/completions", {"messages": [said("user", LONG)]}),
        ("openai", "/v1/chat/completions", {"messages": [said("user", LONG)]}),
    ],
)
def test_every_dialect_tells(dialect: str, path: str, body: dict[str, Any]) -> None:
    assert ask(dialect, path, body).prefix == prefix_of({"prompt": LONG})


@pytest.mark.parametrize(
    ("body", "headers", "session"),
    [
        ({"prompt_cache_key": "k", "user": "u"}, {}, "k"),
        ({"conversation": "c"}, {}, "c"),
        ({"conversation": {"id": "c"}}, {}, "c"),
        ({"session_params": {"id": "s"}, "user": "u"}, {}, "s"),
        ({"user": "u"}, {}, "u"),
        ({"user": "u"}, {b"x-session-id": b"h", b"x-conversation-id": b"other"}, "h"),
        ({"prompt_cache_key": "k"}, {b"x-conversation-id": b"h"}, "h"),
        ({"user": 7, "conversation": ["c"], "session_params": "s"}, {}, ""),
        ({"user": "u" * 1000}, {b"x-session-id": b""}, "u" * 256),
        ({}, {}, ""),
    ],
)
def test_sessions(body: dict[str, Any], headers: dict[bytes, bytes], session: str) -> None:
    assert session_of(ask("vllm", "/v1/completions", {"prompt": "hello", **body}), headers) == session


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["role", "content", "text", "x"]), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["messages", "prompt", "input", "system", "user", "conversation"]), anything))
def test_a_body_may_be_anything(body: dict[str, Any]) -> None:
    found = ask("vllm", "/v1/chat/completions", body)
    assert found.prefix is None or len(found.prefix) == 12
    assert isinstance(found.session, str)


async def answered(seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")


async def test_what_begins_alike_comes_to_one_server() -> None:
    async with (
        upstream(answered) as a,
        upstream(answered) as b,
        data_plane(a.address, b.address, dialect="vllm", **{"placement.name": "affine"}) as plane,
    ):
        for turn in range(3):
            for number in range(KEYS):
                await exchange(plane.address, _chat([said("system", f"agent {number}"), said("user", f"turn {turn}")]))
        assert len(a.seen) + len(b.seen) == 3 * KEYS
        assert a.seen
        assert b.seen
        systems = [{json.loads(seen.body)["messages"][0]["content"] for seen in server.seen} for server in (a, b)]
        assert not systems[0] & systems[1]
        plane.assert_at_rest()


async def test_a_session_comes_to_one_server() -> None:
    flags = {"placement.name": "affine", "placement.params": {"by": "session"}}
    async with (
        upstream(answered) as a,
        upstream(answered) as b,
        data_plane(a.address, b.address, dialect="vllm", **flags) as plane,
    ):
        for turn in range(3):
            for number in range(KEYS):
                chat = _chat([said("user", f"turn {turn}")], b"x-session-id: s%02d\r\n" % number)
                await exchange(plane.address, chat)
        heads = [[seen.head for seen in server.seen] for server in (a, b)]
        sessions = [{head.partition(b"x-session-id: ")[2][:3] for head in server} for server in heads]
        assert all(sessions)
        assert not sessions[0] & sessions[1]


def _chat(messages: list[dict[str, Any]], header: bytes = b"") -> bytes:
    body = json.dumps({"messages": messages}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n" + header
    return head + b"content-length: %d\r\n\r\n" % len(body) + body
