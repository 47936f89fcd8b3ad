"""Each request's timeline: arrived, released, first token, tokens, ended; and, once it is known, its energy."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from telemetry.snapshot import Scope, Source
from telemetry.uncertainty import Doubt


@dataclass(slots=True)
class Energy:
    """A request's joules so far; `final` once every interval that it touched is settled.

    `active_uj` is net of idle power: idle joules are nobody's, and are accounted apart.
    """

    active_uj: int = 0
    prefill_uj: int = 0  # the part of `active_uj` from before the first token
    tokens_uj: int = 0  # what it would be if joules were split by tokens
    time_uj: int = 0  # ... and if they were split equally among all who are there
    source: Source | None = None  # None: no meter has seen any of it, so the energy is unknown, not zero
    method: str = "shapley"
    scope: Scope = Scope.GPU
    final: bool = False

    timeline: str = "streamed"
    doubt: Doubt = field(default_factory=Doubt)

    @property
    def uncertainty_j(self) -> float:
        """Half the width of the interval that holds the true value in 95 % of requests, as far as causes are known."""
        return self.doubt.total_j

    def as_json(self) -> dict[str, object]:
        return {
            "active_j": self.active_uj / 1e6,
            "prefill_j": self.prefill_uj / 1e6,
            "decode_j": (self.active_uj - self.prefill_uj) / 1e6,
            "uncertainty_j": self.uncertainty_j,
            "uncertainty": self.doubt.parts(),
            "by_method_j": {"shapley": self.active_uj / 1e6, "tokens": self.tokens_uj / 1e6, "time": self.time_uj / 1e6},
            "source": self.source,
            "method": self.method,
            "scope": self.scope,
            "timeline": self.timeline,
            "final": self.final,
        }


@dataclass(frozen=True, slots=True)
class Timings:
    """What an engine tells of a request's phases, in seconds, once it has ended; None is not told."""

    queue_s: float | None = None  # from its arrival until the engine began with it
    prefill_s: float | None = None
    decode_s: float | None = None


@dataclass(slots=True)
class Entry:
    """One generation request. Times are monotonic seconds; None means not yet, or never."""

    id: str
    arrived_at: float
    arrived_unix_s: float
    operation: str = "text_completion"  # OpenTelemetry's gen_ai.operation.name
    dialect: str = ""
    model: str = ""
    tier: str = "interactive"
    tenant: str = ""
    streamed: bool = False
    traceparent: str = ""
    tracestate: str = ""
    prompt_tokens: int = 0
    prompt_estimated: bool = True
    cached_tokens: int = 0  # of the prompt, found in a prefix cache; 0 also where nobody told
    max_new_tokens: int = 0
    sequences: int = 1
    slack_s: float | None = None  # what it could have been held; None: it never left
    output_tokens: int = 0
    output_estimated: bool = True

    server: str = ""
    policy: str = ""
    experiment: str = ""  # that ran when it came; empty: none
    arm: str = ""  # of it: control, treatment, or burn_in, which is in no arm's sums
    outcome: str = ""
    held_s: float = 0.0
    queued_s: float = 0.0
    released_at: float | None = None
    first_token_at: float | None = None
    ended_at: float | None = None
    status: int = 0  # HTTP status that the client saw; 0 when it saw none
    error: str = ""  # OpenTelemetry's error.type; empty when all went well
    tokens: list[tuple[float, int]] = field(default_factory=list)  # (seen at, how many), not yet settled
    timings: Timings | None = None
    settled_tokens: int = 0  # those whose energy is settled, and which are not kept
    energy: Energy = field(default_factory=Energy)
    host_energy: Energy | None = None  # None: nobody meters the host
    span: tuple[int, int] | None = None  # trace and span id of its span, once that is made; None: nobody asked for traces

    def saw_tokens(self, at: float, count: int) -> None:
        """`count` output tokens came by at `at`."""
        if self.first_token_at is None:
            self.first_token_at = at
        self.output_tokens += count
        self.tokens.append((at, count))

    @property
    def ttft_s(self) -> float | None:
        """Seconds from arrival to first token, the proxy's waits included."""
        return None if self.first_token_at is None else self.first_token_at - self.arrived_at

    @property
    def duration_s(self) -> float | None:
        return None if self.ended_at is None else self.ended_at - self.arrived_at

    @property
    def tpot_s(self) -> float | None:
        """Seconds per output token after the first; only streams show it."""
        if not self.streamed or self.first_token_at is None or self.ended_at is None or self.output_tokens < 2:
            return None
        return (self.ended_at - self.first_token_at) / (self.output_tokens - 1)

    def as_json(self) -> dict[str, object]:
        """What the admin API tells of a request; no prompt, no answer, no credential."""
        return {
            "id": self.id,
            "state": "ended" if self.ended_at is not None else "in_flight" if self.released_at is not None else "waiting",
            "arrived_unix_s": self.arrived_unix_s,
            "operation": self.operation,
            "dialect": self.dialect,
            "model": self.model,
            "tier": self.tier,
            "tenant": self.tenant,
            "streamed": self.streamed,
            "server": self.server,
            "policy": self.policy,
            "experiment": self.experiment or None,
            "arm": self.arm or None,
            "outcome": self.outcome,
            "slack_s": self.slack_s,
            "held_s": self.held_s,
            "queued_s": self.queued_s,
            "ttft_s": self.ttft_s,
            "tpot_s": self.tpot_s,
            "duration_s": self.duration_s,
            "prompt_tokens": self.prompt_tokens,
            "prompt_tokens_estimated": self.prompt_estimated,
            "cached_tokens": self.cached_tokens,
            "max_new_tokens": self.max_new_tokens,
            "sequences": self.sequences,
            "output_tokens": self.output_tokens,
            "output_tokens_estimated": self.output_estimated,
            "status": self.status,
            "error": self.error or None,
            "energy": self.energy.as_json() if self.energy.source is not None else None,
            "host_energy": self._host_json(),
        }

    def _host_json(self) -> dict[str, object] | None:
        """Without the parts that only a step model can tell."""
        host = self.host_energy
        if host is None or host.source is None:
            return None
        told = ("active_j", "source", "method", "scope", "final")
        return {key: value for key, value in host.as_json().items() if key in told}


class Ledger:
    """Requests that are open, and the latest that have ended."""

    def __init__(self, keep: int = 20_000) -> None:
        self._keep = keep
        self._open: dict[str, Entry] = {}
        self._ended: OrderedDict[str, Entry] = OrderedDict()

    def open(self, entry: Entry) -> None:
        self._open[entry.id] = entry

    def close(self, entry: Entry, at: float) -> None:
        """The request ended at `at`; it stays readable until `keep` others have ended."""
        entry.ended_at = at
        self._open.pop(entry.id, None)
        self._ended[entry.id] = entry
        while len(self._ended) > self._keep:
            self._ended.popitem(last=False)

    def get(self, id: str) -> Entry | None:
        return self._open.get(id) or self._ended.get(id)

    def open_entries(self) -> Iterator[Entry]:
        return iter(self._open.values())

    def latest(self, most: int) -> list[Entry]:
        """The latest that have ended, at most so many, in the order in which they ended."""
        return list(self._ended.values())[-most:] if most > 0 else []
