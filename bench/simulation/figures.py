"""What one simulated run comes to: joules, waits, latencies, and what went wrong. All joules are the profile's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf
from typing import Any

from bench.reckoning import percentiles
from bench.report import OVERALL, Percentiles
from bench.simulation.footprint import Footprint
from policies.base import Action, Outcome
from policies.simulate import Run, Served
from telemetry.cost import StepModel

REFUSED = (Outcome.REJECTED, Outcome.EXPIRED)
ROUNDING_S = 1e-6


@dataclass(frozen=True, slots=True)
class Latency:
    """Of completed requests, in seconds: what was added, to the first token, and for each token after it."""

    wait_s: Percentiles | None
    ttft_s: Percentiles | None
    tpot_s: Percentiles | None


@dataclass(frozen=True, slots=True)
class Figures:
    """One strategy's run.

    Attributes:
        name: the strategy's.
        completed: requests that ended with an answer.
        refused: requests sent away: no slot in time.
        late: requests that left after their deadline, for want of a slot.
        output_tokens: of all answers.
        energy_j: all joules, idle included, up to `until_s`.
        active_j: net of idle: what the steps cost.
        idle_j: the rest: idle power, sleep and waking.
        groups: how many instants there were at which somebody left.
        faults: of the policy or placement.
        asleep_s: server seconds from being told to sleep until told to wake.
        until_s: simulated seconds that joules are counted for.
        wait_mean_s: what was added to completed requests on average.
        latency: for all, and by tier.
        seconds: that simulating took.
        swept: see `Pairing`.
        described: names and parameters of the strategy.
        footprint: what all joules stand for in grams or money; None: nobody said what a kilowatt-hour does.
    """

    name: str
    completed: int
    refused: int
    late: int
    output_tokens: int
    energy_j: float
    active_j: float
    idle_j: float
    groups: int
    faults: int
    asleep_s: float
    until_s: float
    wait_mean_s: float
    latency: Mapping[str, Latency]
    seconds: float = 0.0
    swept: str = ""
    described: Mapping[str, object] = field(default_factory=dict)
    footprint: Footprint | None = None

    @property
    def j_per_request(self) -> float:
        return self.energy_j / max(self.completed, 1)

    @property
    def footprint_per_request(self) -> float | None:
        return None if self.footprint is None else self.footprint.amount / max(self.completed, 1)

    @property
    def active_j_per_request(self) -> float:
        return self.active_j / max(self.completed, 1)

    @property
    def group_mean(self) -> float:
        return self.completed / max(self.groups, 1)  # who is refused never left

    @property
    def overall(self) -> Latency:
        return self.latency[OVERALL]

    def as_json(self) -> dict[str, Any]:
        """All of it, and the figures per request."""
        return {
            **asdict(self),
            "source": "simulated",
            "j_per_request": self.j_per_request,
            "active_j_per_request": self.active_j_per_request,
            "footprint_per_request": self.footprint_per_request,
            "j_per_output_token": self.energy_j / max(self.output_tokens, 1),
            "group_mean": self.group_mean,
        }


def figures(name: str, run: Run, **told: Any) -> Figures:
    """The figures of a run; `told` are those of `Figures` that the run does not know."""
    served = list(run.served.values())
    completed = [one for one in served if one.ended_at < inf]
    active_j = sum(one.energy_j for one in completed)
    energy_j = sum(run.energy_j.values())
    return Figures(
        name=name,
        completed=len(completed),
        refused=sum(one.outcome in REFUSED for one in served),
        late=sum(ROUNDING_S < one.released_at - one.waiting.deadline < inf for one in served),
        output_tokens=sum(one.output_tokens for one in completed),
        energy_j=energy_j,
        active_j=active_j,
        idle_j=energy_j - active_j,
        groups=len(run.groups()),
        faults=run.faults,
        asleep_s=sum(_asleep(run)),
        until_s=run.ended_at,
        wait_mean_s=sum(one.wait_s for one in completed) / max(len(completed), 1),
        latency=_latencies(completed),
        **told,
    )


def level(found: Figures, run_until_s: float, model: StepModel, awake: int, asleep: int) -> Figures:
    """The same with joules counted up to a later instant, so that runs that end earlier are not charged less idle time."""
    more_s = run_until_s - found.until_s
    idle_w = awake * model.idle_power_w + asleep * (model.sleep_power_w or 0.0)
    asleep_s = found.asleep_s + asleep * more_s
    idle_j = found.idle_j + idle_w * more_s
    return replace(found, until_s=run_until_s, idle_j=idle_j, energy_j=found.active_j + idle_j, asleep_s=asleep_s)


def sleeping_at_end(run: Run) -> int:
    """Servers that were told to sleep last."""
    last = {server: action for _, server, action in run.actions}
    return sum(action is Action.SLEEP for action in last.values())


def _asleep(run: Run) -> Iterable[float]:
    since: dict[str, float] = {}
    for at, server, action in run.actions:
        if action is Action.SLEEP:
            since.setdefault(server, at)
        elif server in since:
            yield at - since.pop(server)
    yield from (run.ended_at - at for at in since.values())


def _latencies(completed: Sequence[Served]) -> dict[str, Latency]:
    groups: dict[str, list[Served]] = {OVERALL: list(completed)}
    for one in completed:
        groups.setdefault(one.waiting.tier.value, []).append(one)
    return {
        name: Latency(
            percentiles(one.wait_s for one in group),
            percentiles(one.ttft_s for one in group),
            percentiles(one.tpot_s if one.output_tokens > one.waiting.sequences else None for one in group),
        )
        for name, group in groups.items()
    }


def front(found: Sequence[Figures]) -> set[str]:
    """Names of those that no other beats in both joules a request and the mean of the added wait."""
    points = {one.name: (one.j_per_request, one.wait_mean_s) for one in found}
    return {
        name
        for name, (joules, wait) in points.items()
        if not any(j <= joules and w <= wait and (j, w) != (joules, wait) for j, w in points.values())
    }
