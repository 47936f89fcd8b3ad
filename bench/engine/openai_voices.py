"""How vLLM tells tokens: chat and completion answers, and their chunks, mostly made beforehand."""

from __future__ import annotations

from typing import Any

from bench.engine.openai_requests import Ask
from bench.engine.wire import DONE, EVENT, encode
from bench.engine.words import WORDS, Speech

_CONTENTS = [encode(word)[1:-1] for word in WORDS]
_CONTENT, _USAGE = "\0", "\1"  # stand for a token's text and the counts so far


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """In vLLM's order."""
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "total_tokens": total, "completion_tokens": completion_tokens}


def total_usage(ask: Ask) -> dict[str, int]:
    """A prompt counts once, however many choices it has."""
    return usage(sum(ask.prompt_tokens), ask.max_tokens * len(ask.sequences))


def head(id: str, object: str, created: int, model: str) -> dict[str, Any]:
    return {"id": id, "object": object, "created": created, "model": model}


def chat_answer(ask: Ask, start: dict[str, Any], speeches: list[Speech]) -> dict[str, Any]:
    """The body of a chat that was not streamed."""
    choices: list[dict[str, Any]] = [
        {
            "index": index,
            "message": {"role": "assistant", "content": speech.text(ask.max_tokens), "refusal": None, "tool_calls": []},
            "logprobs": None,
            "finish_reason": "length",
            "stop_reason": None,
        }
        for index, speech in enumerate(speeches)
    ]
    return {**start, "choices": choices, "system_fingerprint": None, "usage": total_usage(ask)}


def completion_answer(ask: Ask, start: dict[str, Any], speeches: list[Speech]) -> dict[str, Any]:
    """The body of a completion that was not streamed."""
    choices = [
        {
            "index": index,
            "text": speech.text(ask.max_tokens),
            "logprobs": None,
            "finish_reason": "length",
            "stop_reason": None,
        }
        for index, speech in enumerate(speeches)
    ]
    return {**start, "choices": choices, "system_fingerprint": None, "usage": total_usage(ask)}


class OpenAIVoice:
    """A stream's chunks. Of a chat the first says only the role, and comes with the first token, as vLLM's does."""

    silence = b""  # vLLM says nothing unless it is told to

    def __init__(self, ask: Ask, speeches: list[Speech], start: dict[str, Any], *, chat: bool) -> None:
        self._ask, self._speeches, self._said = ask, speeches, [0] * len(speeches)
        self._opening = b"".join(_role(start, index, ask) for index in range(len(speeches))) if chat else b""
        told = _chat_choice if chat else _completion_choice
        self._middles = [self._parts({**start, "choices": [told(index, None)]}) for index in range(len(speeches))]
        self._lasts = [self._parts({**start, "choices": [told(index, "length")]}) for index in range(len(speeches))]
        self.ending = DONE
        if ask.include_usage:
            self.ending = EVENT % encode({**start, "choices": [], "usage": total_usage(ask)}) + DONE

    def event(self, sequence: int) -> bytes:
        content = _CONTENTS[self._speeches[sequence].word(self._said[sequence])]
        self._said[sequence] += 1
        said = self._said[sequence]
        before, between, after = (self._middles if said < self._ask.max_tokens else self._lasts)[sequence]
        event = before + content + between
        if self._ask.continuous_usage:
            event += encode(usage(self._ask.sequences[sequence], said)) + after
        if self._opening:
            event, self._opening = self._opening + event, b""
        return event

    def _parts(self, chunk: dict[str, Any]) -> tuple[bytes, bytes, bytes]:
        """An event's bytes around its token's text and, where they are told, its counts."""
        if self._ask.continuous_usage:
            chunk["usage"] = _USAGE
        before, rest = (EVENT % encode(chunk)).split(encode(_CONTENT)[1:-1])
        between, _, after = rest.partition(encode(_USAGE))
        return before, between, after


def _role(start: dict[str, Any], index: int, ask: Ask) -> bytes:
    choice = {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    counts = {"usage": usage(ask.sequences[index], 0)} if ask.continuous_usage else {}
    return EVENT % encode({**start, "choices": [choice], **counts})


def _chat_choice(index: int, finish_reason: str | None) -> dict[str, Any]:
    choice = {"index": index, "delta": {"content": _CONTENT}, "logprobs": None, "finish_reason": finish_reason}
    return choice if finish_reason is None else {**choice, "stop_reason": None}


def _completion_choice(index: int, finish_reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": _CONTENT, "logprobs": None, "finish_reason": finish_reason, "stop_reason": None}
