"""What the blocks of an experiment came to: plain data that the proxy writes, the simulator makes and statistics read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import ceil, floor
from typing import Any

MOST_UNFINISHED = 0.01  # of a block's requests: with more, its tokens and joules are not its requests'


@dataclass(frozen=True, slots=True)
class Block:
    """One block of time under one arm. What is counted is of requests that *arrived* after its burn-in and within it.

    Attributes:
        index: from 0; blocks 2 k and 2 k + 1 are a pair.
        arm: `telemetry/design.py`'s CONTROL or TREATMENT.
        start_unix_s: when it began, burn-in included.
        end_unix_s: when it ended.
        energy_j: all that the meters counted between the burn-in's end and the block's, idle included; None: unknown.
        burn_in_j: ... and during the burn-in; it is in no arm's sums.
        boundary_j: what the block's requests were charged after its end: joules that its energy lacks.
        carried_j: what requests of earlier blocks were charged within `energy_j`: joules that it has too many.
        source: where the joules come from, as `telemetry/snapshot.py` names them.
        requests: that arrived.
        completed: of those, whole answers without an error.
        output_tokens: of the completed.
        prompt_tokens: of the completed.
        errors: that ended otherwise (clients that left are not counted).
        late: missed deadlines: left after their deadline for want of a slot, or never.
        burn_in_requests: arrived during the burn-in; in no sum.
        crossing: of `requests`, those that ended after the block; their latencies are not in the quantiles.
        unfinished: of `crossing`, those that had still not ended when the block was told, long after it: they may hang.
        ttft_p95_s: first token, streams of requests that agreed to no wait; None: there was none.
        tpot_p95_s: time per output token after the first.
        ttft_of, tpot_of: how many requests those percentiles are of; None: nobody counted.
        wait_p99_s: what the proxy added: held and queued.
        arrival_rate: requests a second over the analysed part.
        temperature_c: the devices' mean at the block's start; None: nobody tells.
        complete: the proxy ran and the arm ruled for the whole of it; others are logged and not analysed.
    """

    index: int
    arm: int
    start_unix_s: float
    end_unix_s: float
    energy_j: float | None = None
    burn_in_j: float | None = None
    boundary_j: float = 0.0
    carried_j: float = 0.0
    source: str = ""
    requests: int = 0
    completed: int = 0
    output_tokens: int = 0
    prompt_tokens: int = 0
    errors: int = 0
    late: int = 0
    burn_in_requests: int = 0
    crossing: int = 0
    unfinished: int = 0
    ttft_p95_s: float | None = None
    tpot_p95_s: float | None = None
    ttft_of: int | None = None
    tpot_of: int | None = None
    wait_p99_s: float | None = None
    arrival_rate: float = 0.0
    temperature_c: float | None = None
    complete: bool = True

    @property
    def pair(self) -> int:
        return self.index // 2

    @property
    def j_per_token(self) -> float | None:
        """Ratio of sums; None where there is nothing to divide, or by."""
        return self.energy_j / self.output_tokens if self.energy_j is not None and self.output_tokens else None

    @property
    def j_per_request(self) -> float | None:
        return self.energy_j / self.completed if self.energy_j is not None and self.completed else None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Block:
        """From its JSON.

        Raises:
            ValueError: a key is missing or unknown.
        """
        try:
            known = {f.name for f in fields(cls)}
            if unknown := sorted(set(data) - known):
                raise TypeError(f"unknown {', '.join(unknown)}")
            return cls(**data)
        except TypeError as error:
            raise ValueError(f"no block of an experiment: {error}") from error


def quantile(values: Iterable[float], part: float) -> float | None:
    """That which so large a part of the values does not exceed; None: there are none."""
    known = sorted(values)
    return between(known, part) if known else None


def between(known: Sequence[float], part: float) -> float:
    """A quantile of values in ascending order, linear between the two nearest ranks, as numpy does it."""
    place = part * (len(known) - 1)
    low, high = known[floor(place)], known[ceil(place)]
    return low + (high - low) * (place - floor(place))
