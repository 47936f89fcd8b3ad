"""What TGI's own repository publishes, through a real data plane: its recorded answers, and its description of its API.

The recordings were made by Python clients, which write members in their own order and fill in nulls; here they are framed
as TGI frames them.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from bench.engine.server import SimulatedServer
from proxy.dialects import TGI
from proxy.dialects.base import Usage
from telemetry.ledger import Entry
from tests.bench.engines import QUICK
from tests.bench.test_engine_tgi import schemas
from tests.proxy.test_forward import post, split
from tests.serving import Seen, data_plane, exchange, upstream

PUBLISHED = Path(__file__).parents[3] / "shared/tgi"
ANSWERS = sorted(PUBLISHED.glob("answers/*.json"))

pytestmark = pytest.mark.skipif(not ANSWERS, reason="what TGI publishes is not here")

PROMPT_TOKENS = 11  # of recordings that do not tell; TGI's headers would

ASKS = {
    "/generate": {"inputs": "hello there", "parameters": {"max_new_tokens": 9, "details": True}},
    "/": {"inputs": "hello there", "parameters": {"max_new_tokens": 9, "details": True}},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hello there"}], "max_tokens": 9},
    "/v1/completions": {"prompt": ["hello", "there"], "max_tokens": 9},
}


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


# recorded answers


def recordings() -> Iterator[Any]:
    """Path, and the answer: an object, or the chunks of a stream."""
    for file in ANSWERS:
        recorded, name = json.loads(file.read_text()), file.stem.split("--")[1]
        answers = recorded if isinstance(recorded, list) and "generated_text" in recorded[0] else [recorded]
        for number, answer in enumerate(answers):
            native = isinstance(answer, dict) and "generated_text" in answer
            kind = (answer[0] if isinstance(answer, list) else answer).get("object", "")
            path = "/generate" if native else "/v1/completions" if kind == "text_completion" else "/v1/chat/completions"
            yield pytest.param(path, answer, id=f"{name}-{number}")
            if native:
                yield pytest.param("/", [answer], id=f"{name}-{number}-in-a-list")


def counts(path: str, answer: Any) -> Usage:
    """What the recording itself says, or for a stream that tells nothing, what can be counted."""
    if path in ("/generate", "/"):
        details = (answer[0] if path == "/" else answer)["details"]
        return Usage(PROMPT_TOKENS, details["generated_tokens"])
    chunks = answer if isinstance(answer, list) else [answer]
    told = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    if not told:
        return Usage(None, sum(1 for chunk in chunks if chunk["choices"]))
    return Usage(sum(usage["prompt_tokens"] for usage in told), sum(usage["completion_tokens"] for usage in told))


def written(path: str, answer: Any) -> bytes:
    """As TGI would send it: counts in the headers of an answer, one event and one HTTP chunk for each of a stream's."""
    if isinstance(answer, list) and path != "/":
        events = [b"data: " + compact(chunk) + b"\n\n" for chunk in answer] + [b"data: [DONE]\n\n"]
        head = (
            b"content-type: text/event-stream\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\nx-compute-type: 1-gpu\r\n"
        )
        body = b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in events) + b"0\r\n\r\n"
        return b"HTTP/1.1 200 OK\r\n" + head + b"transfer-encoding: chunked\r\n\r\n" + body
    told, body = counts(path, answer), compact(answer)
    head = b"content-type: application/json\r\nx-compute-time: 0.25\r\nx-prompt-tokens: %d\r\n" % (told.prompt_tokens or 0)
    head += b"x-generated-tokens: %d\r\ncontent-length: %d\r\n" % (told.output_tokens or 0, len(body))
    return b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + body


@pytest.mark.parametrize(("path", "answer"), list(recordings()))
async def test_recorded_answers_pass_unchanged_and_are_counted(path: str, answer: Any) -> None:
    sent = written(path, answer)

    async def replay(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)

    streamed = isinstance(answer, list) and path != "/"
    async with upstream(replay) as server, data_plane(server.address, dialect="tgi") as plane:
        request = post(path, compact({**ASKS[path], "stream": streamed}), "content-type: application/json")
        status, headers, body = split(await exchange(plane.address, request))
        entry = plane.ledger.get(headers.pop("x-paceline-request-id")[0])
    sent_status, sent_headers, sent_body = split(sent)
    assert (status, body) == (sent_status, sent_body)
    for name in ("connection", "transfer-encoding", "content-length"):
        headers.pop(name, None), sent_headers.pop(name, None)
    assert headers == sent_headers
    told = counts(path, answer)
    assert entry is not None
    assert (entry.output_tokens, entry.streamed, entry.error, entry.status) == (told.output_tokens, streamed, "", 200)
    assert entry.output_estimated == (streamed and told.prompt_tokens is None)
    assert entry.prompt_estimated == (told.prompt_tokens is None)
    if told.prompt_tokens is not None:
        assert entry.prompt_tokens == told.prompt_tokens


def test_recordings_of_both_kinds_are_there() -> None:
    """Else the test above would prove little."""
    seen = {(param.values[0], isinstance(param.values[1], list)) for param in recordings()}
    assert seen >= {("/generate", False), ("/v1/chat/completions", True), ("/v1/completions", True)}
    streams = [param.values[1] for param in recordings() if isinstance(param.values[1], list) and param.values[0] != "/"]
    assert {any(chunk["usage"] for chunk in stream) for stream in streams} == {True, False}


# the description of the API

QUERIES: dict[str, Any] = {
    "/": ASKS["/"],
    "/generate": ASKS["/generate"],
    "/generate_stream": ASKS["/generate"],
    "/v1/chat/completions": ASKS["/v1/chat/completions"],
    "/v1/completions": ASKS["/v1/completions"],
    "/invocations": ASKS["/v1/chat/completions"],
    "/tokenize": {"inputs": "hello there"},
}
# the simulated engine does not have it; and what answers a list of models is described as one model
UNLIKE = {"/chat_tokenize", "/v1/models"}


def loosened(node: Any) -> Any:
    """Alternatives in the description overlap, so that one value may be valid as two of them."""
    if isinstance(node, list):
        return [loosened(item) for item in node]
    if isinstance(node, dict):
        return {("anyOf" if key == "oneOf" else key): loosened(value) for key, value in node.items()}
    return node


def routes() -> list[Any]:
    """Each path, method and kind of content that the description promises."""
    document = json.loads((PUBLISHED / "openapi.json").read_text()) if ANSWERS else {"paths": {}}
    return [
        pytest.param(method, path, kind, id=f"{method} {path} {kind}")
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        for kind in operation["responses"]["200"].get("content", {"": None})
        if path not in UNLIKE
    ]


@pytest.mark.parametrize(("method", "path", "kind"), routes())
async def test_the_simulated_engine_answers_as_described_through_the_proxy(method: str, path: str, kind: str) -> None:
    document = loosened(schemas())
    described = document["paths"][path][method]["responses"]["200"].get("content", {}).get(kind, {}).get("schema", {})
    streamed = kind == "text/event-stream"
    body = b"" if method == "get" else compact({**QUERIES[path], "stream": streamed})
    async with SimulatedServer("tgi", QUICK) as server, data_plane(server.url[7:], dialect="tgi") as plane:
        request = post(path, body, "content-type: application/json").replace(b"POST", method.upper().encode(), 1)
        status, headers, answer = split(await exchange(plane.address, request))
        entry: Entry | None = plane.ledger.get(headers["x-paceline-request-id"][0])
    assert status == b"HTTP/1.1 200 OK"
    if kind == "application/json":
        validate(json.loads(answer), described, document)
    if streamed:
        events = [json.loads(line[6:]) for line in answer.split(b"\n\n") if line.startswith(b"data: {")]
        for event in events:
            validate(event, described, document)
        assert events
    assert (entry is not None) == TGI.generates(method.upper(), path)
    if entry is not None:
        expected = 18 if path == "/v1/completions" else 9
        assert (entry.output_tokens, entry.streamed, entry.error) == (expected, streamed, "")


def validate(value: object, schema: Any, document: Any) -> None:
    jsonschema.Draft202012Validator({**document, **schema}).validate(value)


def test_every_described_post_is_known_to_generate_or_to_pass() -> None:
    document = json.loads((PUBLISHED / "openapi.json").read_text())
    posts = {path for path, operations in document["paths"].items() if "post" in operations}
    assert {path for path in posts if not TGI.generates("POST", path)} == {"/tokenize", "/chat_tokenize"}
    assert not any(re.search("admin|sleep|reset", path) for path in document["paths"])
