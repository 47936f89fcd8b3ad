"""The clairvoyant optimum: the least active energy that any schedule could have, all lengths known, and a schedule near it.

**What can be saved.** A step costs base + per_sequence * n + per_prompt_token * p + per_context_token * c. Summed over all
steps, everything but the base is the same whatever the schedule: each sequence is served once for each of its tokens, each
prompt token is computed once, and each decode step reads that sequence's context. So the least active energy is that part,
plus the base times the fewest steps.

**The fewest steps, from below.** Take any schedule on any number of servers that hands every request to an engine at or
before its deadline (`release`), and cut time into the maximal intervals U in which some server has work. Let U begin at x,
K be the steps done in it by all servers, b the base seconds of a step, and w(j) the other seconds of job j (its prompt, its
tokens, its context), which are schedule-independent too. Job j takes l(j) steps: those of its prompt, and one for each
token after the first. At any instant t of U, the servers have been busy for at least t - x together, and of that time at
most the work of jobs that have arrived by t was not base; jobs in U cannot have been released before, so their deadlines
are at or after s, the earliest deadline of all who have not run before x. So by the arrival a(j) of any job in U at least

    (a(j) - s - W) / b    steps have begun,   W = sum of w(i) over i with a(i) <= a(j) and deadline(i) >= s,

and l(j) more follow: K >= l(j) + max(0, (a(j) - s - W) / b). (The time until an engine may begin, `request_s`, moves all
instants alike.) With time written in steps less work,

    latest(s) = max over s' <= s of (s' - sum of w(i) whose deadline is before s') / b,
    earliest(j) = min over j' not before j of (a(j') - sum of w(i) whose arrival is not after a(j')) / b, at most latest(a(j)),

the right side is no less than l(j) + max(0, earliest(j) - latest(s)): taking the maximum and the minimum makes both
monotonic and the bound only lower. These are exactly the intervals of minimum-span scheduling with unbounded parallelism
(`policies/minimum_span.py`) for jobs with windows [earliest(j), latest(deadline(j))] and lengths l(j). Its optimum is at
most the steps of the schedule that we took. Limits on sequences, slots and tokens a step only take schedules away.

W counts the work of whoever may wait long in every interval until its deadline, though it is done in one. So it may be left
out of W for some jobs B and taken off once: each interval is then longer by at most the work of those of B that run in it,
and the fewest steps are at least the minimum span without B's work, less all of B's work / b. B is nobody, or all whose
slack lies above the widest gap between slacks; whichever bound is higher counts.

**From above.** The optimum's intervals, as releases: each request leaves at its interval's begin or, if it comes later, at
its arrival. Run through the simulator this is a schedule that exists (`Replay`). The true optimum lies between the two.
Idle power is left out: it depends on when one looks last, not on the schedule.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from math import inf

from policies.base import Decision, View
from policies.minimum_span import MOST_STATES, Flexible, Intervals, minimum_span
from policies.simulate import Arrival
from telemetry.cost import Linear, StepModel

SHORT_S, WIDE = 0.1, 3.0  # slacks below the first are as one; a gap is one if it is so many times as wide


@dataclass(frozen=True, slots=True)
class Optimum:
    """What no schedule can be better than, and when requests leave in a schedule that is near it.

    Attributes:
        fixed_j: joules that every schedule spends, net of idle.
        steps: no schedule has fewer.
        active_j: no schedule spends less, net of idle.
        releases: when each request leaves in the schedule that the bound came from, seconds.
    """

    fixed_j: float
    steps: float
    active_j: float
    releases: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Replay:
    """A policy that lets requests go at instants that were decided before; whoever has none leaves at once."""

    releases: Mapping[str, float] = field(default_factory=dict)

    def decide(self, view: View, memory: object) -> Decision:
        due = {waiting.id: self.releases.get(waiting.id, view.now) for waiting in view.waiting}
        later = [at for at in due.values() if at > view.now]
        return Decision([id for id, at in due.items() if at <= view.now], wake_at=min(later, default=None))


def clairvoyant(arrivals: Sequence[Arrival], model: StepModel, most_states: int = MOST_STATES) -> Optimum:
    """The optimum for arrivals in any order, on any number of servers.

    Raises:
        TooLarge: see `minimum_span`.
    """
    coming = sorted(arrivals, key=lambda arrival: arrival.waiting.arrived_at)
    fixed_j = sum(_fixed(arrival, model, model.step_j) for arrival in coming)
    work = [_fixed(arrival, model, model.step_s) for arrival in coming]
    if not coming:
        return Optimum(0.0, 0.0, 0.0, {})
    tried = []
    for apart_s in _gaps([arrival.waiting.deadline - arrival.waiting.arrived_at for arrival in coming]):
        within = [w if a.waiting.deadline - a.waiting.arrived_at <= apart_s else 0.0 for a, w in zip(coming, work, strict=True)]
        jobs = _in_steps(coming, within, model)
        found = minimum_span(jobs, most_states)
        tried.append((found.span - (sum(work) - sum(within)) / model.step_s.base, jobs, found))
    steps, jobs, found = max(tried, key=lambda one: one[0])
    return Optimum(fixed_j, steps, fixed_j + model.step_j.base * steps, _releases(coming, jobs, found))


def _gaps(slacks_s: Sequence[float]) -> list[float]:
    """Up to which slack work is counted where it may be done: all of it, and that below the widest gap, as a ratio."""
    known = sorted(set(slacks_s))
    ratios = [(more / max(less, SHORT_S), less) for less, more in pairwise(known)]
    widest, below = max(ratios, default=(1.0, 0.0))
    return [inf, *([below] if widest > WIDE else [])]


def _lengths(arrival: Arrival) -> list[int]:
    """Output tokens of each of its sequences; as `Simulation` splits them."""
    count = arrival.waiting.sequences
    each, more = divmod(arrival.output_tokens, count)
    return [max(each + (number < more), 1) for number in range(count)]


def _fixed(arrival: Arrival, model: StepModel, cost: Linear) -> float:
    """What a request costs besides its steps' base, in any schedule."""
    prompt = arrival.waiting.prompt_tokens
    total = 0.0
    for tokens in _lengths(arrival):
        context = (tokens - 1) * (prompt + 1) + (tokens - 1) * (tokens - 2) / 2
        total += cost.per_sequence * tokens + cost.per_prompt_token * prompt + cost.per_context_token * context
    return total


def _in_steps(coming: Sequence[Arrival], work: Sequence[float], model: StepModel) -> list[Flexible]:
    """The jobs with their windows in steps less work (seconds of each), in order of arrival; see this module's docstring."""
    base = model.step_s.base
    by_deadline = sorted(range(len(coming)), key=lambda n: coming[n].waiting.deadline)
    deadlines = [coming[n].waiting.deadline for n in by_deadline]
    gone = [0.0, *accumulate(work[n] for n in by_deadline)]  # work whose deadline is among the first n
    # the most that any instant up to each deadline comes to is had at a deadline, or at the instant itself
    highest = [-inf, *accumulate(((at - gone[n]) / base for n, at in enumerate(deadlines)), max)]

    def latest(instant: float) -> float:
        before = bisect_right(deadlines, instant)
        passed = bisect_left(deadlines, instant)
        return max(highest[before], (instant - gone[passed]) / base)

    arrived = list(accumulate(work))
    earliest = [(arrival.waiting.arrived_at - arrived[n]) / base for n, arrival in enumerate(coming)]
    for n in range(len(coming) - 2, -1, -1):
        earliest[n] = min(earliest[n], earliest[n + 1])
    return [
        Flexible(
            min(earliest[n], latest(arrival.waiting.arrived_at)),
            latest(arrival.waiting.deadline),
            -(-arrival.waiting.prompt_tokens // model.max_step_tokens) + max(_lengths(arrival)) - 1,
        )
        for n, arrival in enumerate(coming)
    ]


def _releases(coming: Sequence[Arrival], jobs: Sequence[Flexible], found: Intervals) -> dict[str, float]:
    groups = [found.group(job) for job in jobs]
    begins = [inf] * len(found.begins_ends)
    for group, arrival in zip(groups, coming, strict=True):
        begins[group] = min(begins[group], arrival.waiting.deadline)
    return {
        arrival.waiting.id: max(begins[group], arrival.waiting.arrived_at)
        for group, arrival in zip(groups, coming, strict=True)
    }
