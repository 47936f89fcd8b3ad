"""How TGI tells tokens: its own JSON and OpenAI's, as answers and as server-sent events, mostly made beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.engine import words
from bench.engine.tgi_requests import Ask
from bench.engine.wire import DONE, EVENT, encode
from bench.engine.words import LOGPROBS, TOKEN_IDS, WORDS, Speech

FINGERPRINT = "3.3.6-dev0-native"
SILENCE = b":\n\n"


def token(word: int) -> dict[str, object]:
    return {"id": TOKEN_IDS[word], "text": WORDS[word], "logprob": LOGPROBS[word], "special": False}


_TOKENS = [b',"token":' + encode(token(word)) for word in range(len(WORDS))]
_MIDDLES = [part + b',"generated_text":null,"details":null}\n\n' for part in _TOKENS]
_CONTENTS = [encode(word)[1:-1] for word in WORDS]


def prefill(ask: Ask, prompt: str) -> list[dict[str, object]]:
    """The prompt's tokens, where they were asked for; the first has no probability."""
    if not ask.parameters.get("decoder_input_details"):
        return []
    return [
        {"id": words.token_id(word), "text": word, "logprob": -1.0 if start else None} for word, start, _ in words.spans(prompt)
    ]


def seed(ask: Ask, speech: Speech) -> int | None:
    """TGI draws one where the client gave none; without sampling there is none."""
    given: int | None = ask.parameters.get("seed")
    return (speech.seed if given is None else given) if ask.sampled else None


def sequence_details(ask: Ask, speech: Speech) -> dict[str, Any]:
    """What `details` says of one sequence, and `best_of_sequences` of the others."""
    said = speech.words(ask.max_new_tokens)
    details: dict[str, Any] = {
        "finish_reason": "length",
        "generated_tokens": ask.max_new_tokens,
        "seed": seed(ask, speech),
        "prefill": prefill(ask, ask.prompts[0]),
        "tokens": [token(word) for word in said],
    }
    if top := ask.parameters.get("top_n_tokens"):
        details["top_tokens"] = [[token((word + rank) % len(WORDS)) for rank in range(top)] for word in said]
    return details


def generated(ask: Ask, speech: Speech, *, full_text: bool) -> str:
    """A sequence's text; with the prompt before it where the client or the route wants it."""
    wanted = ask.parameters.get("return_full_text")
    return (ask.prompts[0] if (full_text if wanted is None else wanted) else "") + speech.text(ask.max_new_tokens)


def answer(ask: Ask, speeches: list[Speech], *, full_text: bool) -> dict[str, Any]:
    """The body of `/generate`; the first of several sequences is called the best."""
    best = speeches[0]
    body: dict[str, Any] = {"generated_text": generated(ask, best, full_text=full_text)}
    if ask.parameters.get("details") or ask.parameters.get("decoder_input_details"):
        body["details"] = sequence_details(ask, best)
        if len(speeches) > 1:
            body["details"]["best_of_sequences"] = [
                {"generated_text": generated(ask, other, full_text=full_text), **sequence_details(ask, other)}
                for other in speeches[1:]
            ]
    return body


@dataclass(slots=True)
class GenerateVoice:
    """`/generate_stream`'s events; the last one also tells the whole text, and details where they were asked for."""

    ask: Ask
    speech: Speech
    full_text: bool
    ending: bytes = b""
    silence: bytes = SILENCE
    _said: int = 0

    def event(self, sequence: int) -> bytes:
        word = self.speech.word(self._said)
        self._said += 1
        if self._said < self.ask.max_new_tokens and not self.ask.parameters.get("top_n_tokens"):
            return b'data: {"index":%d' % self._said + _MIDDLES[word]
        return EVENT % encode(self._whole(word))

    def _whole(self, word: int) -> dict[str, object]:
        event: dict[str, object] = {"index": self._said, "token": token(word)}
        if top := self.ask.parameters.get("top_n_tokens"):
            event["top_tokens"] = [token((word + rank) % len(WORDS)) for rank in range(top)]
        last = self._said == self.ask.max_new_tokens
        event["generated_text"] = generated(self.ask, self.speech, full_text=self.full_text) if last else None
        event["details"] = self._details() if last and self.ask.parameters.get("details") else None
        return event

    def _details(self) -> dict[str, object]:
        return {
            "finish_reason": "length",
            "generated_tokens": self._said,
            "seed": seed(self.ask, self.speech),
            "input_length": self.ask.prompt_tokens[0],
        }


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def head(object: str, created: int, model: str) -> dict[str, object]:
    """What each of OpenAI's bodies begins with; the id is empty, as TGI's is."""
    return {"object": object, "id": "", "created": created, "model": model, "system_fingerprint": FINGERPRINT}


class ChatVoice:
    """A chat's chunks: a role in each, the finish reason in the last, and counts in one more where they were asked for."""

    silence = SILENCE

    def __init__(self, ask: Ask, speech: Speech, created: int, model: str) -> None:
        self._speech, self._left, self._said = speech, ask.max_new_tokens, 0
        start = head("chat.completion.chunk", created, model)
        choice = {"index": 0, "delta": {"role": "assistant", "content": "\0"}, "logprobs": None}
        self._before, self._after = _halves({**start, "choices": [{**choice, "finish_reason": None}], "usage": None})
        _, self._last = _halves({**start, "choices": [{**choice, "finish_reason": "length"}], "usage": None})
        self.ending = DONE
        if ask.include_usage:
            counts = usage(ask.prompt_tokens[0], ask.max_new_tokens)
            self.ending = EVENT % encode({**start, "choices": [], "usage": counts}) + DONE

    def event(self, sequence: int) -> bytes:
        content = _CONTENTS[self._speech.word(self._said)]
        self._said += 1
        return self._before + content + (self._after if self._said < self._left else self._last)


class CompletionVoice:
    """A completion's chunks; each prompt's last one carries its counts, asked for or not."""

    silence = SILENCE
    ending = DONE

    def __init__(self, ask: Ask, speeches: list[Speech], created: int, model: str) -> None:
        self._length, self._speeches, self._said = ask.max_new_tokens, speeches, [0] * len(speeches)
        start = head("text_completion", created, model)
        self._middles, self._lasts = [], []
        for index, prompt_tokens in enumerate(ask.prompt_tokens):
            choice = {"index": index, "text": "\0", "logprobs": None}
            self._middles.append(_halves({**start, "choices": [{**choice, "finish_reason": ""}]}))
            counts = usage(prompt_tokens, ask.max_new_tokens)
            self._lasts.append(_halves({**start, "choices": [{**choice, "finish_reason": "length"}], "usage": counts}))

    def event(self, sequence: int) -> bytes:
        content = _CONTENTS[self._speeches[sequence].word(self._said[sequence])]
        self._said[sequence] += 1
        halves = self._middles if self._said[sequence] < self._length else self._lasts
        before, after = halves[sequence]
        return before + content + after


def _halves(chunk: dict[str, object]) -> tuple[bytes, bytes]:
    """An event's bytes before and after its token's text, which a NUL stands for."""
    before, after = (EVENT % encode(chunk)).split(b"\\u0000")
    return before, after
