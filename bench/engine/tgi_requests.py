"""What TGI's bodies ask for: their shapes, their defaults, and how OpenAI's parameters become TGI's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.engine import words
from bench.engine.shapes import BOOLEAN, LIST, NUMBER, OBJECT, TEXT, TEXTS, WHOLE, Misfit, Shape, check, optional, required

DEFAULT_NEW_TOKENS = 100  # of `generate` and of a chat


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: what it says, and how it wants to be answered."""

    prompts: tuple[str, ...]
    max_new_tokens: int
    stream: bool
    parameters: Mapping[str, Any] = field(default_factory=dict)
    include_usage: bool = False

    @property
    def prompt_tokens(self) -> list[int]:
        """Of each prompt, cut where the client asked for it."""
        longest = self.parameters.get("truncate") or math.inf
        return [int(min(words.count(prompt), longest)) for prompt in self.prompts]

    @property
    def best_of(self) -> int:
        return self.parameters.get("best_of") or 1

    @property
    def sampled(self) -> bool:
        chosen = ("temperature", "top_k", "top_p", "typical_p")
        return bool(self.parameters.get("do_sample")) or any(self.parameters.get(name) is not None for name in chosen)


PARAMETERS: dict[str, Shape] = {
    **dict.fromkeys(("best_of", "top_k", "max_new_tokens", "truncate", "seed", "top_n_tokens"), optional(WHOLE)),
    **dict.fromkeys(("temperature", "repetition_penalty", "frequency_penalty", "top_p", "typical_p"), optional(NUMBER)),
    **dict.fromkeys(("do_sample", "watermark", "details", "decoder_input_details"), BOOLEAN),
    "return_full_text": optional(BOOLEAN),
    "stop": TEXTS,
    "grammar": optional(OBJECT),
    "adapter_id": optional(TEXT),
}
GENERATE = {"inputs": required(TEXT), "parameters": OBJECT, "stream": BOOLEAN}
OPENAI: dict[str, Shape] = {
    **dict.fromkeys(("temperature", "top_p", "frequency_penalty", "repetition_penalty"), optional(NUMBER)),
    **dict.fromkeys(("max_tokens", "seed"), optional(WHOLE)),
    "model": optional(TEXT),
    "stream": BOOLEAN,
    "stop": optional(TEXTS),
}
CHAT = OPENAI | {
    "messages": required(LIST),
    "max_completion_tokens": optional(WHOLE),
    "n": optional(WHOLE),  # TGI takes it and does nothing with it
    "presence_penalty": optional(NUMBER),
    "logprobs": optional(BOOLEAN),
    "top_logprobs": optional(WHOLE),
    "tools": optional(LIST),
    "stream_options": OBJECT,
}
MESSAGE = {"role": required(TEXT)}
COMPLETION = OPENAI | {"suffix": optional(TEXT)}


def read_generate(data: object, *, stream: bool | None = None) -> Ask:
    """`/generate` and `/generate_stream`, whose paths say whether they stream, and `/`, whose body does."""
    body = check(data, GENERATE)
    # no parameters at all means sampling, empty ones do not
    parameters = check(body.get("parameters", {"do_sample": True}), PARAMETERS, "parameters.")
    length = parameters.get("max_new_tokens")
    return Ask(
        prompts=(body["inputs"],),
        max_new_tokens=DEFAULT_NEW_TOKENS if length is None else length,
        stream=bool(body.get("stream")) if stream is None else stream,
        parameters=parameters,
    )


def read_chat(data: object) -> Ask:
    body = check(data, CHAT)
    for place, message in enumerate(body["messages"]):
        check(message, MESSAGE, f"messages[{place}].")
    options = check(body.get("stream_options", {}), {"include_usage": BOOLEAN}, "stream_options.")
    return Ask(
        prompts=(" ".join(_content(message.get("content")) for message in body["messages"]) or " ",),  # no template is empty
        max_new_tokens=_length(body.get("max_completion_tokens"), body.get("max_tokens")),
        stream=bool(body.get("stream")),
        parameters=_sampling(body, greedy=body.get("temperature") == 0),
        include_usage=bool(options.get("include_usage")),
    )


def read_completion(data: object) -> Ask:
    body = check(data, COMPLETION)
    prompt = body.get("prompt")
    if not isinstance(prompt, str) and not (isinstance(prompt, list) and prompt and TEXTS.fits(prompt)):
        raise Misfit(
            "prompt: data did not match any variant of untagged enum Prompt" if "prompt" in body else "missing field `prompt`"
        )
    return Ask(
        prompts=(prompt,) if isinstance(prompt, str) else tuple(prompt),
        max_new_tokens=_length(body.get("max_tokens")),
        stream=bool(body.get("stream")),
        parameters=_sampling(body, greedy=body.get("temperature") == 0) | {"suffix": body.get("suffix")},
    )


def _length(*given: int | None) -> int:
    return next((length for length in given if length is not None), DEFAULT_NEW_TOKENS)


def _sampling(body: Mapping[str, Any], *, greedy: bool) -> dict[str, Any]:
    """OpenAI's names are TGI's; a temperature of zero is its greedy decoding, and what is absent is sampled."""
    kept = {name: body.get(name) for name in ("top_p", "frequency_penalty", "repetition_penalty", "seed", "stop")}
    return kept | ({} if greedy else {"do_sample": True, "temperature": body.get("temperature")})


def _content(content: object) -> str:
    """A message's text: a string, or parts of which some are texts."""
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""
