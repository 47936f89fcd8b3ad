"""How a server is asked for exactly so many tokens, and when they came."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from random import Random
from typing import Any

import httpx

from bench.bodies import TOKEN_IDS, prompt_text
from proxy.dialects import OPENAI, TGI
from proxy.dialects.base import Usage
from proxy.dialects.events import EventReader
from proxy.probe import ask
from proxy.upstream import Answer, Client, UpstreamError

JSON = [(b"content-type", b"application/json")]
COUNTS_IN_EVERY_CHUNK = ("vllm", "sglang")
LONGEST_TOLD = 160


class NotAnswered(Exception):
    """The server did not answer as it should.

    Attributes:
        refused: it never will: it said that the request is wrong.
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


@dataclass(frozen=True, slots=True)
class Server:
    """Who is asked, and how: what makes one calibration's runs belong together.

    Attributes:
        dialect: tgi or openai.
        engine: as it was recognised.
        slots: the most sequences at once, where it tells.
        prompts: ids, whose number is exact, or text, of words that are about a token each.
        ignore_eos: whether it takes a request to go on to the asked length.
    """

    url: str
    dialect: str
    engine: str
    version: str
    model: str
    slots: int | None = None
    prompts: str = "text"
    ignore_eos: bool = False

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class Told:
    """One answer.

    Attributes:
        tokens: of a stream: when so many output tokens in all had come.
    """

    ended_at_s: float = 0.0
    usage: Usage = field(default_factory=Usage)
    tokens: list[tuple[float, int]] = field(default_factory=list)


async def recognise(url: str, dialect: str, model: str) -> Server:
    """What speaks at a URL, before it was asked for a token.

    Raises:
        NotAnswered: nothing does.
    """
    async with httpx.AsyncClient(timeout=5.0) as client:
        found = await ask(client, url)
    if found is None:
        raise NotAnswered(f"nothing answers at {url} that serves a model")
    spoken = dialect if dialect != "auto" else "tgi" if found.dialect.name == "tgi" else "openai"
    return Server(url.rstrip("/"), spoken, found.dialect.name, found.version, model or found.model, found.slots)


def ways(server: Server) -> Iterator[Server]:
    """How it may be asked, the most exact first."""
    if server.dialect == "openai":
        yield replace(server, prompts="ids", ignore_eos=True)
        yield replace(server, prompts="text", ignore_eos=True)
        yield replace(server, prompts="ids")
    yield server


@dataclass(slots=True)
class Asker:
    """Sends requests; prompts are drawn without a seed, so that no server ever finds one in a cache."""

    server: Server
    client: Client
    _random: Random = field(default_factory=Random)

    def body(self, prompt_tokens: int, output_tokens: int, *, stream: bool = False) -> bytes:
        """Made before it is needed, since a long one takes milliseconds."""
        server, text = self.server, ""
        if server.prompts == "text":
            text = prompt_text(self._random, prompt_tokens)
        if server.dialect == "tgi":
            parameters = {"max_new_tokens": output_tokens, "details": True}
            return json.dumps({"inputs": text, "parameters": parameters}).encode()
        asked: dict[str, Any] = {
            "prompt": text or self._random.choices(TOKEN_IDS, k=prompt_tokens),
            "max_tokens": output_tokens,
        }
        if server.model:
            asked["model"] = server.model
        if server.ignore_eos:
            asked["ignore_eos"] = True  # and no min_tokens, which would make vLLM look at the logits of every step
        if stream:
            every = {"continuous_usage_stats": True} if server.engine in COUNTS_IN_EVERY_CHUNK else {}
            asked |= {"stream": True, "stream_options": {"include_usage": True, **every}}
        return json.dumps(asked).encode()

    async def whole(self, body: bytes) -> Told:
        """An answer in one piece.

        Raises:
            NotAnswered: it was none.
        """
        path = "/generate" if self.server.dialect == "tgi" else "/v1/completions"
        answer = await self._open(path, body)
        try:
            text = await answer.read()
        except UpstreamError as error:
            raise NotAnswered(str(error)) from error
        finally:
            answer.release()
        headers = {name.lower(): value for name, value in answer.headers}
        dialect = TGI if self.server.dialect == "tgi" else OPENAI
        return Told(time.monotonic(), dialect.read_answer(headers, text))

    async def stream(self, body: bytes) -> Told:
        """An answer token by token.

        Raises:
            NotAnswered: it was none, or ended in an error.
        """
        path = "/generate_stream" if self.server.dialect == "tgi" else "/v1/completions"
        answer = await self._open(path, body)
        told, seen = Told(), 0
        reader = EventReader((TGI if self.server.dialect == "tgi" else OPENAI).read_event)
        try:
            async for chunk in answer.chunks():
                at_s = time.monotonic()
                for event in reader.feed(chunk):
                    if event.error:
                        raise NotAnswered(f"the stream ended in an error: {event.error}")
                    told.usage = event.usage or told.usage
                    counted = event.usage.output_tokens if event.usage else None
                    before, seen = seen, counted or seen + event.tokens
                    if seen > before:
                        told.tokens.append((at_s, seen))
        except UpstreamError as error:
            raise NotAnswered(str(error)) from error
        finally:
            answer.release()
        if not told.tokens:
            raise NotAnswered("the stream brought no token")
        told.ended_at_s = told.tokens[-1][0]
        return told

    async def _open(self, path: str, body: bytes) -> Answer:
        try:
            answer = await self.client.open("POST", self.server.url + path, JSON, body)
            if answer.status == 200:
                return answer
            text = (await answer.read())[:LONGEST_TOLD].decode(errors="replace")
        except UpstreamError as error:
            raise NotAnswered(str(error)) from error
        answer.release()
        raise NotAnswered(f"status {answer.status}: {text}", refused=answer.status in (400, 413, 422))


def described(server: Mapping[str, Any]) -> str:
    """A server in a line, from its JSON."""
    version = f" {server['version']}" if server["version"] else ""
    return f"{server['engine']}{version} at {server['url']}, model {server['model'] or 'unknown'}"
