"""What requests of OpenAI's and Anthropic's surfaces ask for, as engines that copy them read them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from proxy.dialects.asks import Ask, asking, name
from proxy.dialects.values import count, estimated_tokens, members, prompts

# vLLM's default for completions, and what an answer is assumed to be long when nobody says
COMPLETION_TOKENS, CHAT_TOKENS = 16, 512

_FIELD = re.compile(rb'name="?(model|stream)"?[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]{0,256})\r\n', re.IGNORECASE)


def read_chat(data: Mapping[str, Any], *, default_tokens: int = CHAT_TOKENS) -> Ask:
    limit = count(data.get("max_completion_tokens"), count(data.get("max_tokens"), default_tokens))
    prompt = estimated_tokens(data.get("messages"))
    return asking("chat", data, (prompt, True), tokens_each=limit, sequences=count(data.get("n"), 1))


def read_completion(data: Mapping[str, Any], *, default_tokens: int = COMPLETION_TOKENS) -> Ask:
    """`best_of` copies are generated where it is more than `n`; engines that ignore it read a body without it."""
    tokens, estimated, number = prompts(data.get("prompt"))
    copies = max(count(data.get("n"), 1), count(data.get("best_of"), 1))
    limit = count(data.get("max_tokens"), default_tokens)
    return asking("text_completion", data, (tokens, estimated), tokens_each=limit, sequences=number * copies)


def read_responses(data: Mapping[str, Any]) -> Ask:
    prompt = estimated_tokens([data.get("instructions"), data.get("input")])
    limit = count(data.get("max_output_tokens"), CHAT_TOKENS)
    return asking("chat", data, (prompt, True), tokens_each=limit, previous=name(data.get("previous_response_id")))


def read_messages(data: Mapping[str, Any]) -> Ask:
    """Anthropic's route."""
    prompt = estimated_tokens([data.get("system"), data.get("messages")])
    return asking("chat", data, (prompt, True), tokens_each=count(data.get("max_tokens"), CHAT_TOKENS))


# where routes without output keep what is to be read
_INPUTS = ("input", "inputs", "text", "texts", "input_ids", "content", "prompt", "data")


def read_embeddings(data: Mapping[str, Any]) -> Ask:
    """Embeddings, pooling, classes: whatever is put in is read once, and no token comes out."""
    put_in = next((data[key] for key in _INPUTS if key in data), None)
    if put_in is None:  # a conversation is one input
        return asking("embeddings", data, (estimated_tokens(data.get("messages")), True), tokens_each=0, streamed=False)
    tokens, estimated, number = prompts(put_in)
    return asking("embeddings", data, (tokens, estimated), tokens_each=0, sequences=number, streamed=False)


def read_speech(data: Mapping[str, Any]) -> Ask:
    """A text in, a sound out."""
    return asking("generate_content", data, (estimated_tokens(data.get("input")), True), tokens_each=CHAT_TOKENS)


def read_scores(data: Mapping[str, Any]) -> Ask:
    """Rerank and score: a query is read with each document."""
    query = next((data[key] for key in ("query", "queries", "text_1") if key in data), "")
    documents = next((data[key] for key in ("documents", "texts", "text_2", "items") if key in data), "")
    number = len(documents) if isinstance(documents, list) else 1
    queries = len(query) if isinstance(query, list) else 1
    prompt = estimated_tokens(documents) * max(queries if number == 1 else 1, 1) + estimated_tokens(query) * max(number, 1)
    return asking("embeddings", data, (prompt, True), tokens_each=0, sequences=max(number, queries), streamed=False)


def read_invocation(data: Mapping[str, Any]) -> Ask:
    """SageMaker's route takes the body of several others."""
    if "messages" in data:
        return read_chat(data)
    if "prompt" in data:
        return read_completion(data)
    return read_scores(data) if "query" in data or "text_1" in data else read_embeddings(data)


def read_form(body: bytes) -> Ask:
    """A form with a sound or a file in it: how much that is shows only in the engine's answer."""
    fields = {key.lower(): value for key, value in _FIELD.findall(body)}
    model = name(fields.get(b"model", b"").decode("utf-8", "replace"))
    streamed = fields.get(b"stream", b"").lower() in (b"true", b"1")
    return asking("generate_content", {"model": model}, (1, True), tokens_each=CHAT_TOKENS, streamed=streamed)


def read_chat_batch(data: Mapping[str, Any]) -> Ask:
    """Several conversations in one body, which vLLM takes."""
    number = len(data["messages"]) if isinstance(data.get("messages"), list) else 1
    limit = count(data.get("max_completion_tokens"), count(data.get("max_tokens"), CHAT_TOKENS))
    copies = count(data.get("n"), 1)
    prompt = estimated_tokens(data.get("messages"))
    return asking("chat", data, (prompt, True), tokens_each=limit, sequences=number * copies, streamed=False)


def read_token_ids(data: Mapping[str, Any]) -> Ask:
    """Token ids in, token ids out: /inference/v1/generate of vLLM."""
    parameters = members(data.get("sampling_params"))
    tokens, estimated, _ = prompts(data.get("token_ids"))
    limit, copies = count(parameters.get("max_tokens"), COMPLETION_TOKENS), count(parameters.get("n"), 1)
    return asking("text_completion", data, (tokens, estimated), tokens_each=limit, sequences=copies)
