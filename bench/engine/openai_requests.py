"""What vLLM's OpenAI bodies ask for, and what vLLM refuses: everything with 400 and OpenAI's error object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.engine import words
from bench.engine.shapes import BOOLEAN, LIST, OBJECT, TEXT, Misfit, Shape, check, optional, required

COMPLETION_TOKENS = 16
# vLLM lets a chat that names no length run until the model stops, at most to the end of its context; this model never
# stops, so such a chat gets what people's chats are long
CHAT_TOKENS = 128
MAX_MODEL_LEN = 131_072

INTEGER = optional(Shape("a valid integer", lambda value: isinstance(value, int) and not isinstance(value, bool)))
COMMON: dict[str, Shape] = {
    **dict.fromkeys(("max_tokens", "max_completion_tokens", "n"), INTEGER),
    "model": optional(TEXT),
    "stream": optional(BOOLEAN),
    "stream_options": optional(OBJECT),
}
CHAT = COMMON | {"messages": required(LIST)}
OPTIONS = {"include_usage": optional(BOOLEAN), "continuous_usage_stats": optional(BOOLEAN)}


class Refused(Exception):
    """An OpenAI error: a status, a type, and the member that it is about."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param

    @property
    def body(self) -> dict[str, object]:
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.status}}


def bad_request(message: str, param: str | None = None) -> Refused:
    return Refused(400, "BadRequestError", message, param)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: its prompts in tokens, and how it wants to be answered."""

    prompt_tokens: tuple[int, ...]
    max_tokens: int
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False

    @property
    def sequences(self) -> list[int]:
        """Prompt tokens of each choice, in the order of their indices."""
        return [tokens for tokens in self.prompt_tokens for _ in range(self.n)]


def read_chat(data: object) -> Ask:
    body = _checked(data, CHAT)
    if not body["messages"] or not all(isinstance(message, dict) and message.get("role") for message in body["messages"]):
        raise bad_request("messages: each has a role, and there is at least one", "messages")
    text = " ".join(_content(message.get("content")) for message in body["messages"])
    lengths = [body.get("max_completion_tokens"), body.get("max_tokens"), CHAT_TOKENS]
    return _ask(body, (words.count(text),), next(length for length in lengths if length is not None))


def read_completion(data: object) -> Ask:
    body = _checked(data, COMMON)
    length = body.get("max_tokens")
    return _ask(body, _prompts(body.get("prompt")), COMPLETION_TOKENS if length is None else length)


def read_tokenize(data: object) -> str:
    """The text to tokenize: a prompt, or a chat's messages."""
    body = _checked(data, {"prompt": optional(TEXT), "messages": optional(LIST)})
    if body.get("prompt") is not None:
        return str(body["prompt"])
    if body.get("messages") is None:
        raise bad_request("prompt: Field required", "prompt")
    return " ".join(_content(message.get("content")) for message in body["messages"] if isinstance(message, dict))


def _checked(data: object, shapes: Mapping[str, Shape]) -> dict[str, Any]:
    try:
        return check(data, shapes)
    except Misfit as error:
        raise bad_request(str(error)) from error


def _ask(body: Mapping[str, Any], prompt_tokens: tuple[int, ...], max_tokens: int) -> Ask:
    options, stream = body.get("stream_options"), bool(body.get("stream"))
    if options is not None and not stream:
        raise bad_request("Stream options can only be defined when `stream=True`.", "stream_options")
    options = _checked(options or {}, OPTIONS)
    n = 1 if body.get("n") is None else body["n"]
    if n < 1:
        raise bad_request(f"n must be at least 1, got {n}.", "n")
    if max_tokens < 1:
        raise bad_request(f"max_tokens must be at least 1, got {max_tokens}.", "max_tokens")
    if max(prompt_tokens) + max_tokens > MAX_MODEL_LEN:
        raise bad_request(
            f"This model's maximum context length is {MAX_MODEL_LEN} tokens. However, you requested {max_tokens} output tokens"
            f" and your prompt contains {max(prompt_tokens)} input tokens."
        )
    usage = bool(options.get("include_usage"))
    return Ask(prompt_tokens, max_tokens, n, stream, usage, usage and bool(options.get("continuous_usage_stats")))


def _prompts(prompt: object) -> tuple[int, ...]:
    """Tokens of each prompt: a text, token ids, or a list of either."""
    if isinstance(prompt, str) and prompt:
        return (words.count(prompt),)
    if isinstance(prompt, list) and prompt:
        if _all(prompt, int):
            return (len(prompt),)
        if _all(prompt, str):
            return tuple(words.count(text) for text in prompt)
        if _all(prompt, list) and all(ids and _all(ids, int) for ids in prompt):
            return tuple(len(ids) for ids in prompt)
    raise bad_request("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")


def _all(items: list[object], kind: type) -> bool:
    return all(isinstance(item, kind) for item in items)


def _content(content: object) -> str:
    """A message's text: a string, or parts of which some are texts."""
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""
