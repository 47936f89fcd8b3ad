"""What a load sends: the path, headers and body of each request, for each API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from bench.arrivals import Planned
from bench.draws import BadSpec
from policies.base import Tier
from proxy.admin_address import AdminAddress

APIS: Mapping[str, tuple[str, ...]] = {"tgi": ("generate", "completions", "chat"), "openai": ("completions", "chat")}
CLIENTS = ("raw", "text-generation")

# Common words of three letters: with its space each is one token of any tokenizer in use, and four characters, which is
# what proxies that do not tokenize take for a token.
_WORDS = """
act add age air all and any arm art ask bag bed big box boy bus but buy can car cat cup cut day dog dry ear eat egg
end eye far few fly for fun get god got gun hat her him his hit hot ice job key kid law lay leg let lie lot low man map may
men mix new not now off oil old one our out own pay put ran raw red row run sat saw say sea see set she"""
WORDS = _WORDS.split()
TOKEN_IDS = range(1_000, 30_000)  # ordinary tokens in every vocabulary of today's models


@dataclass(frozen=True, slots=True)
class Options:
    """How a load is sent.

    Attributes:
        url: the server or proxy.
        admin: Paceline's admin port; None: no energy is known.
        dialect: what the server speaks: tgi or openai.
        api: generate (TGI's own), completions or chat; empty: the dialect's first.
        stream: ask for streams.
        prompt_ids: prompts as lists of token ids, which makes their lengths exact (OpenAI's completions).
        model: the body's `model`; empty sends none.
        ignore_eos: ask for all output tokens (vLLM, SGLang, llama.cpp).
        max_hold_s: what `x-paceline-max-hold` says, by tier; a tier that is not named sends none.
        timeout_s: longest time for one request, from its start.
        client: raw, or text-generation, the Python client of TGI.
        seed: decides the prompts' words.
        label: a name for the report.
    """

    url: str
    admin: str | AdminAddress | None = None
    dialect: str = "tgi"
    api: str = ""
    stream: bool = True
    prompt_ids: bool = False
    model: str = ""
    ignore_eos: bool = False
    max_hold_s: Mapping[Tier, float] = field(default_factory=dict)
    timeout_s: float = 120.0
    client: str = "raw"
    seed: int = 0
    label: str = ""

    def __post_init__(self) -> None:
        if self.dialect not in APIS:
            raise BadSpec(f"dialect {self.dialect!r} is not known; they are {', '.join(APIS)}")
        if self.api and self.api not in APIS[self.dialect]:
            raise BadSpec(f"{self.dialect} has no API {self.api!r}; it has {', '.join(APIS[self.dialect])}")
        if self.client not in CLIENTS:
            raise BadSpec(f"client {self.client!r} is not known; they are {', '.join(CLIENTS)}")
        if self.client == "text-generation" and (self.dialect, self.chosen_api) != ("tgi", "generate"):
            raise BadSpec("text-generation speaks TGI's own API only: dialect tgi, api generate")
        if self.prompt_ids and (self.dialect, self.chosen_api) != ("openai", "completions"):
            raise BadSpec("prompts of token ids belong to dialect openai, api completions")
        if self.ignore_eos and self.dialect == "tgi":
            raise BadSpec("TGI has no ignore_eos")
        if not self.timeout_s > 0:
            raise BadSpec(f"the timeout must be more than 0, not {self.timeout_s}")

    @property
    def chosen_api(self) -> str:
        return self.api or APIS[self.dialect][0]


def prompt_text(random: Random, tokens: int) -> str:
    """A prompt of about `tokens` tokens; drawn, so that no server finds its beginning in a cache."""
    return " ".join(random.choices(WORDS, k=tokens))


def path(options: Options) -> str:
    match options.chosen_api:
        case "generate":
            return "/generate_stream" if options.stream else "/generate"
        case "chat":
            return "/v1/chat/completions"
    return "/v1/completions"


def body(options: Options, planned: Planned, number: int) -> bytes:
    """The body of the load's request `number`."""
    random = Random(f"{options.seed}/prompt/{number}")
    asked = _generate(planned, random) if options.chosen_api == "generate" else _openai(options, planned, random)
    if planned.tier is not Tier.INTERACTIVE:  # which is the default; some servers refuse the member
        asked["service_tier"] = planned.tier.value
    return json.dumps(asked).encode()


def _generate(planned: Planned, random: Random) -> dict[str, Any]:
    parameters = {"max_new_tokens": planned.output_tokens, "details": True}
    return {"inputs": prompt_text(random, planned.prompt_tokens), "parameters": parameters}


def _openai(options: Options, planned: Planned, random: Random) -> dict[str, Any]:
    asked: dict[str, Any] = {"max_tokens": planned.output_tokens, "stream": options.stream}
    if options.model:
        asked["model"] = options.model
    if options.chosen_api == "chat":
        asked["messages"] = [{"role": "user", "content": prompt_text(random, planned.prompt_tokens)}]
    elif options.prompt_ids:
        asked["prompt"] = random.choices(TOKEN_IDS, k=planned.prompt_tokens)
    else:
        asked["prompt"] = prompt_text(random, planned.prompt_tokens)
    if options.stream:
        asked["stream_options"] = {"include_usage": True}
    if options.ignore_eos:
        asked["ignore_eos"] = True
    return asked


def headers(options: Options, planned: Planned) -> list[tuple[bytes, bytes]]:
    hold_s = options.max_hold_s.get(planned.tier)
    held = [] if hold_s is None else [(b"x-paceline-max-hold", f"{hold_s:g}".encode())]
    return [(b"content-type", b"application/json"), *held]
