"""What a request asks for, whatever its dialect, held within bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from proxy.dialects.affinity import prefix_of, session_of
from proxy.dialects.values import name

__all__ = ["MOST_SEQUENCES", "MOST_TOKENS", "Ask", "asking", "name", "unread"]

# what one request may be taken to ask for; whoever writes n = 10**9 shall not break the sums of all others
MOST_SEQUENCES, MOST_TOKENS = 1024, 1 << 20


@dataclass(frozen=True, slots=True)
class Ask:
    """What one generation request asks for, as far as a copy of its body tells."""

    operation: str  # OpenTelemetry's gen_ai.operation.name
    streamed: bool
    prompt_tokens: int
    prompt_estimated: bool
    max_new_tokens: int  # over all sequences
    model: str = ""
    service_tier: str = ""
    sequences: int = 1  # slots it takes: copies of each prompt, and prompts of a list
    previous: str = ""  # the stored answer that this one continues (previous_response_id)
    prefix: bytes | None = field(default=None, compare=False)  # how its prompt begins, as a digest
    session: str = ""  # what it is a turn of, as its body says


def asking(
    operation: str,
    data: Mapping[str, Any],
    prompt: tuple[int, bool],
    *,
    tokens_each: int,
    sequences: int = 1,
    streamed: bool | None = None,
    previous: str = "",
) -> Ask:
    """An Ask within bounds.

    Args:
        operation: as in `Ask`.
        data: of the body; what is told alike everywhere is read from it.
        prompt: tokens, and whether they are an estimate.
        tokens_each: most output tokens of a sequence.
        sequences: as in `Ask`.
        streamed: whether the answer comes as a stream; not set: as `stream` says.
        previous: as in `Ask`.
    """
    sequences = max(1, min(sequences, MOST_SEQUENCES))
    return Ask(
        operation=operation,
        streamed=data.get("stream") is True if streamed is None else streamed,
        prompt_tokens=max(1, min(prompt[0], MOST_TOKENS)),
        prompt_estimated=prompt[1],
        max_new_tokens=max(0, min(tokens_each * sequences, MOST_TOKENS)),
        model=name(data.get("model")),
        service_tier=name(data.get("service_tier")),
        sequences=sequences,
        previous=previous,
        prefix=prefix_of(data),
        session=session_of(data),
    )


def unread(body: bytes) -> Ask:
    """What is assumed of a request whose body is an object, but none that we understand: it waits its turn like others."""
    return asking("text_completion", {}, (len(body) // 4, True), tokens_each=512)
