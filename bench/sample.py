"""One request of a load as its sender saw it."""

from __future__ import annotations

from dataclasses import dataclass

from bench.arrivals import Planned


@dataclass(slots=True)
class Sample:
    """Instants are seconds after the load's start; None means that it did not happen or was not seen."""

    planned: Planned
    sent_at_s: float
    first_token_at_s: float | None = None  # of streams
    last_token_at_s: float | None = None  # of streams
    ended_at_s: float | None = None
    id: str = ""  # what x-paceline-request-id said
    events: int = 0  # streamed events that brought a token
    prompt_tokens: int | None = None  # as the server counted
    output_tokens: int | None = None
    error: str = ""  # what went wrong, as a kind; empty when the answer came whole

    @property
    def lag_s(self) -> float:
        """How late the generator was."""
        return self.sent_at_s - self.planned.at_s

    @property
    def completed(self) -> bool:
        return self.ended_at_s is not None and not self.error

    @property
    def tokens(self) -> int | None:
        """Output tokens: as the server counted, else the events of a stream."""
        return self.output_tokens or self.events or None

    @property
    def ttft_s(self) -> float | None:
        """To the first token since the planned instant, so that a late generator does not flatter the server."""
        return None if self.first_token_at_s is None else self.first_token_at_s - self.planned.at_s

    @property
    def e2e_s(self) -> float | None:
        """To the last byte since the planned instant."""
        return None if self.ended_at_s is None else self.ended_at_s - self.planned.at_s

    @property
    def tpot_s(self) -> float | None:
        """Seconds for each output token after the first; streams only."""
        if self.first_token_at_s is None or self.last_token_at_s is None or (self.tokens or 0) < 2:
            return None
        return (self.last_token_at_s - self.first_token_at_s) / ((self.tokens or 0) - 1)
