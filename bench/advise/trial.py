"""One strategy on one part of a trace, in the simulator: its joules by blocks of time, and how long who waited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import inf

from policies.base import Tier
from policies.lived import LATE_S
from policies.simulate import Arrival, Served, Simulation
from policies.strategy import Strategy
from telemetry.cost import Linear, StepModel

TAIL_S = 10.0  # after the last arrival, so that answers end
BLOCKS = 24  # of a part: enough for an interval, and each longer than most holds
PROMPT = (Tier.PRIORITY, Tier.INTERACTIVE)


@dataclass(frozen=True, slots=True)
class Stage:
    """What trials run on.

    Attributes:
        model: each engine's step model.
        servers: how many engines.
        slots: each one's; None is no limit.
    """

    model: StepModel
    servers: int = 1
    slots: int | None = None


@dataclass(frozen=True, slots=True)
class Waits:
    """99 of a hundred requests had no more than this, in seconds; None: there were none.

    They are those of priority and interactive requests, where there are any: what flex and batch agreed to bounds theirs.
    """

    wait_s: float | None
    ttft_s: float | None
    tpot_s: float | None


@dataclass(frozen=True, slots=True)
class Trial:
    """What came out; joules are simulated.

    Attributes:
        span_s: of time that joules are told of: from the first arrival to `TAIL_S` after the last, for every strategy.
        blocks_j: of each block of that time, idle included. What is done later, since it may be held for longer, costs its
            steps' joules, in equal parts in each block: while traffic goes on, no idle time comes with it.
        active_j: net of idle power with all engines awake.
        waits: of those who somebody waits for.
        all_waits: of all.
        deferrable_wait_s: median and 99th percentile of what was added to flex and batch; None: there were none.
        late: requests that left after their deadline.
    """

    requests: int
    span_s: float
    blocks_j: tuple[float, ...]
    active_j: float
    waits: Waits
    all_waits: Waits
    late: int
    faults: int
    sleeps: int
    deferrable_wait_s: tuple[float, float] | None = None

    @property
    def energy_j(self) -> float:
        return sum(self.blocks_j)


@dataclass(slots=True)
class _Seen:
    served: list[Served] = field(default_factory=list)


def run(arrivals: Sequence[Arrival], strategy: Strategy, stage: Stage, blocks: int = BLOCKS) -> Trial:
    """Simulate.

    Args:
        arrivals: in order of their times, at least one.
        strategy: who leaves when, and where to.
        stage: on what.
        blocks: of time, between the first arrival and the last one.
    """
    began, last = arrivals[0].waiting.arrived_at, arrivals[-1].waiting.arrived_at
    names = dict.fromkeys((f"engine-{number}" for number in range(stage.servers)), stage.slots)
    simulation, seen = Simulation(strategy, stage.model, names, began_at=began), _Seen()
    simulation.on_served = seen.served.append
    for arrival in arrivals:
        simulation.arrive(arrival)
    edges = [began + (last - began) * number / blocks for number in range(1, blocks)]
    sums = [0.0]
    for edge in edges:
        simulation.advance(edge)
        sums.append(sum(simulation.energy_j().values()))
    end = last + TAIL_S
    simulation.advance(end)
    sums.append(sum(simulation.energy_j().values()))
    while not simulation.over and simulation.next_at < inf:
        simulation.advance(simulation.next_at)
    later_j = sum(_later_j(one, end) for one in seen.served) / blocks
    blocks_j = tuple(after - before + later_j for before, after in pairwise(sums))
    idle_j = stage.model.idle_power_w * stage.servers * (end - began)
    prompt = [one for one in seen.served if one.waiting.tier in PROMPT]
    late = sum(one.released_at > one.waiting.deadline + LATE_S for one in seen.served)
    return Trial(
        requests=len(seen.served),
        span_s=end - began,
        blocks_j=blocks_j,
        active_j=sum(blocks_j) - idle_j,
        waits=_waits(prompt or seen.served),
        all_waits=_waits(seen.served),
        late=late,
        faults=simulation.faults,
        sleeps=len(simulation.actions),
        deferrable_wait_s=_both([one.wait_s for one in seen.served if one.waiting.tier not in PROMPT]),
    )


def _later_j(one: Served, end: float) -> float:
    """The part of a request's joules that falls after an instant, by time."""
    if not end < one.ended_at < inf:
        return 0.0
    return one.energy_j * (one.ended_at - max(one.released_at, end)) / (one.ended_at - one.released_at)


def _waits(served: Sequence[Served]) -> Waits:
    return Waits(
        _p99([one.wait_s for one in served]),
        _p99([one.ttft_s for one in served]),
        _p99([one.tpot_s for one in served if one.output_tokens > one.waiting.sequences]),
    )


def _p99(values: list[float]) -> float | None:
    return _percentile(sorted(values), 99) if values else None


def _both(values: list[float]) -> tuple[float, float] | None:
    known = sorted(values)
    return (_percentile(known, 50), _percentile(known, 99)) if known else None


def _percentile(known: Sequence[float], percent: int) -> float:
    """By nearest rank, of values in order."""
    return known[-(-len(known) * percent // 100) - 1]


def shareable(arrivals: Sequence[Arrival], straight: Trial, model: StepModel) -> float:
    """The share of all joules that any schedule could save at most: what steps cost apart from what is in them.

    What sequences, prompt tokens and context tokens cost (`telemetry/cost.py`) does not depend on who runs with whom.
    """
    fixed_j = sum(_fixed_j(arrival, model.step_j) for arrival in arrivals)
    return max(straight.active_j - fixed_j, 0.0) / straight.energy_j if straight.energy_j else 0.0


def _fixed_j(arrival: Arrival, step_j: Linear) -> float:
    prompt, sequences = arrival.waiting.prompt_tokens, arrival.waiting.sequences
    each = arrival.output_tokens / sequences
    context = max(each - 1, 0.0) * prompt + max(each - 1, 0.0) * each / 2
    one_j = step_j.per_sequence * each + step_j.per_prompt_token * prompt + step_j.per_context_token * context
    return one_j * sequences


def pessimistic(model: StepModel) -> StepModel:
    """The model as far off as it may be, in 95 of a hundred, to the harm of all savings: a cheaper base, and dearer parts."""
    cost, error = model.step_j, model.step_j_error
    step_j = Linear(
        cost.base * max(1 - 2 * error.base, 0.1),
        cost.per_sequence * (1 + 2 * error.per_sequence),
        cost.per_prompt_token * (1 + 2 * error.per_prompt_token),
        cost.per_context_token * (1 + 2 * error.per_context_token),
    )
    return replace(model, step_j=step_j)
