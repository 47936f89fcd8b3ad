"""What a load found out: counts, latencies by tier, joules. Its JSON has these classes' fields; None is "not known"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

OVERALL = "all"


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Linearly interpolated between ranks, as numpy does it."""

    p50: float
    p90: float
    p99: float
    max: float
    count: int


@dataclass(frozen=True, slots=True)
class Latency:
    """Of completed requests, in seconds, counted from the planned instant.

    Attributes:
        wait_s: what the proxy added: held by its policy, and queued for a slot; None without an admin port.
        ttft_s: to the first token (streams).
        tpot_s: for each output token after the first (streams).
        e2e_s: to the last byte.
    """

    wait_s: Percentiles | None
    ttft_s: Percentiles | None
    tpot_s: Percentiles | None
    e2e_s: Percentiles | None


@dataclass(frozen=True, slots=True)
class Groups:
    """Requests that left the proxy at the same instant."""

    count: int
    mean: float
    max: int


@dataclass(frozen=True, slots=True)
class TierEnergy:
    """What the completed requests of a tier were charged, net of idle power; `known` of them have final joules."""

    completed: int
    known: int
    active_j: float
    active_j_per_request: float | None


@dataclass(frozen=True, slots=True)
class EnergyUse:
    """Joules from the first planned arrival to the last end.

    Attributes:
        source: counter, or simulated, which is no measurement.
        since_s: the window's start on the server's monotonic clock.
        until_s: its end.
        window_s: its length.
        counted_j: what the counters moved: requests, idle and unattributed together.
        idle_power_w: of all devices, as the proxy knows it.
        j_per_request: counted, idle included, over completed requests; None when there are none.
        active_j_per_request: what requests were charged, over completed requests.
        j_per_output_token: counted, over output tokens of completed requests.
        tiers: by tier.
    """

    source: str
    since_s: float
    until_s: float
    window_s: float
    counted_j: float
    requests_j: float
    idle_j: float
    unattributed_j: float
    mean_power_w: float
    idle_power_w: float | None
    j_per_request: float | None
    active_j_per_request: float | None
    j_per_output_token: float | None
    tiers: Mapping[str, TierEnergy]


@dataclass(frozen=True, slots=True)
class Report:
    """One run of one load.

    Attributes:
        started_unix_s: when the load's start was.
        options: how it was sent.
        load: how the plan was made, where that is known.
        strategy: policy and placement in force at the end; None without an admin port.
        planned: requests in the plan.
        completed: whole answers without an error.
        errors: how many failed, by kind.
        duration_s: first planned arrival to last end.
        prompt_tokens: of completed requests, as the server counted, else as planned.
        output_tokens: of completed requests, as the server counted, else streamed events.
        start_lag_s: how late the generator itself was.
        latency: for all, and by tier.
        in_flight_mean: requests at the server, while there was one; None without an admin port.
        energy: None without a meter.
        problems: why the run says nothing about energy or latency; empty for a good run.
    """

    label: str
    started_unix_s: float
    versions: Mapping[str, str]
    options: Mapping[str, Any]
    load: Mapping[str, Any] | None
    strategy: Mapping[str, Any] | None
    planned: int
    completed: int
    failed: int
    errors: Mapping[str, int]
    duration_s: float
    prompt_tokens: int
    output_tokens: int
    start_lag_s: Percentiles | None
    latency: Mapping[str, Latency]
    groups: Groups | None
    in_flight_mean: float | None
    energy: EnergyUse | None
    problems: Sequence[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
