"""How the real clients talk to an engine, or to the proxy in front of it, and what they see."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai

# what differs between two answers to the same question
CHANGING = ("id", "created", "timings", "system_fingerprint", "request_id")
HEADERS_APART = ("date", "connection", "keep-alive", "transfer-encoding", "x-request-id", "x-paceline-request-id")
CHANGES = re.compile(rb"-?(?:[0-9a-f]{8,}|\d[\d.eE+-]*)")


@dataclass(slots=True)
class Heard:
    """An answer as a client saw it."""

    text: str = ""
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    finish: str | None = None
    id: str = ""  # Paceline's; empty when the engine was asked directly
    ids: set[str] = field(default_factory=set)  # those that the engine gave to its chunks
    at: list[float] = field(default_factory=list)  # when each text came, from the question on

    @property
    def spread_s(self) -> float:
        return self.at[-1] - self.at[0]

    def take_usage(self, usage: Any) -> None:
        if usage is not None:
            self.prompt_tokens, self.output_tokens = usage.prompt_tokens, usage.completion_tokens


@contextmanager
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as api:
        yield api


def official(body: dict[str, Any]) -> dict[str, Any]:
    """A body as the openai client takes it: members of an engine's own go beside the known ones."""
    own = {name: body[name] for name in ("ignore_eos", "cache_prompt") if name in body}
    return {name: value for name, value in body.items() if name not in own} | {"extra_body": own}


def chat(url: str, body: dict[str, Any]) -> Heard:
    with client(url) as api:
        raw = api.chat.completions.with_raw_response.create(**official(body))
        answer = raw.parse()
    heard = Heard(answer.choices[0].message.content or "", finish=answer.choices[0].finish_reason)
    heard.id = raw.headers.get("x-paceline-request-id", "")
    heard.take_usage(answer.usage)
    return heard


def chat_streamed(url: str, body: dict[str, Any]) -> Heard:
    heard, began = Heard(), time.monotonic()
    with client(url) as api, api.chat.completions.create(stream=True, **official(body)) as stream:
        heard.id = stream.response.headers.get("x-paceline-request-id", "")
        for chunk in stream:
            heard.ids.add(chunk.id)
            heard.take_usage(chunk.usage)
            for choice in chunk.choices:
                heard.finish = choice.finish_reason or heard.finish
                if choice.delta.content:
                    heard.text += choice.delta.content
                    heard.at.append(time.monotonic() - began)
    return heard


def completed(url: str, body: dict[str, Any]) -> Heard:
    with client(url) as api:
        raw = api.completions.with_raw_response.create(**official(body))
        answer = raw.parse()
    heard = Heard(answer.choices[0].text, finish=answer.choices[0].finish_reason)
    heard.id = raw.headers.get("x-paceline-request-id", "")
    heard.take_usage(answer.usage)
    return heard


def completed_streamed(url: str, body: dict[str, Any]) -> Heard:
    heard = Heard()
    with client(url) as api, api.completions.create(stream=True, **official(body)) as stream:
        heard.id = stream.response.headers.get("x-paceline-request-id", "")
        for chunk in stream:
            heard.take_usage(chunk.usage)
            heard.text += "".join(choice.text for choice in chunk.choices)
    return heard


def events(stream: bytes) -> list[Any]:
    """What a stream said, event by event, without what differs from answer to answer."""
    return [_steady(data) for data in re.findall(rb"^data: ?(.*)$", stream, re.MULTILINE)]


def _steady(data: bytes) -> Any:
    try:
        told = json.loads(data)
    except ValueError:
        return data
    return {name: value for name, value in told.items() if name not in CHANGING}


def without_numbers(body: bytes) -> bytes:
    """A body without what differs from answer to answer: counts, times and random names."""
    return CHANGES.sub(b"#", body)


def headers(answer: httpx.Response) -> list[tuple[str, str]]:
    """End-to-end headers, without those that differ from answer to answer, and the length, which may be a number's."""
    kept = ((name.lower(), value) for name, value in answer.headers.multi_items())
    return sorted((name, value) for name, value in kept if name not in (*HEADERS_APART, "content-length"))
