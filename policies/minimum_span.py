"""Minimum-span scheduling of flexible jobs with unbounded parallelism: the least time in which somebody runs at all.

A job may start anywhere from its earliest to its latest start and then runs for its length. Khandekar, Schieber, Shachnai
and Tamir ("Real-time scheduling to minimize machine busy times", J. Scheduling 18, 2015) solve this exactly by dynamic
programming over the longest job; here it is solved forward in time, which is fast when windows are short beside the whole:

- A schedule is a row of busy intervals. What has not run when one begins has its latest start at or after that, so moving
  the begin to the earliest of those latest starts, `s`, makes nobody late and nothing longer. So `s` is no choice.
- The only choice is the interval's end `e`, among the ends of jobs. Whoever can end by then does: it costs nothing and
  leaves less for later. So what remains follows from `s` and `e`.
- An end is no choice if somebody's latest start comes before it and they are not in: a second interval that begins inside
  the first costs no less than one that covers both. It is none either if it comes later than the longest job after an end
  that was possible: then two intervals cost no more.

States are what remains. Of those who remain, one that is shorter and may start later than another needs no thought. A state
is dropped when another with the same begin gets to as little for no more, or for no more once it has run what the first has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from math import inf

MOST_STATES = 1_000_000


class TooLarge(ValueError):
    """There are more states than may be looked at."""


@dataclass(frozen=True, slots=True)
class Flexible:
    """One job; all in the same unit of time."""

    earliest: float
    latest: float  # start
    length: float


@dataclass(frozen=True, slots=True)
class Intervals:
    """The busy intervals of an optimal schedule, in order, and the time that they add up to."""

    span: float
    begins_ends: Sequence[tuple[float, float]]

    def group(self, job: Flexible) -> int:
        """The first interval that a job fits in."""
        fits = (n for n, (begin, end) in enumerate(self.begins_ends) if begin <= job.latest and _end(job, begin) <= end)
        return next(fits)


def minimum_span(jobs: Sequence[Flexible], most_states: int = MOST_STATES) -> Intervals:
    """An optimal schedule of jobs in any order.

    Raises:
        TooLarge: after `most_states` states, which happens when windows are long and lengths are many.
    """
    return _Search(sorted(jobs, key=lambda job: job.earliest), most_states).solve() if jobs else Intervals(0.0, ())


def _end(job: Flexible, begin: float) -> float:
    return max(begin, job.earliest) + job.length


@dataclass(frozen=True, slots=True)
class _State:
    """What remains: some jobs whose earliest start has passed, and all from `coming` on."""

    remaining: tuple[int, ...]
    coming: int
    cost: float
    came_by: tuple[int, float, float]  # the number of the state before, and the interval


@dataclass(slots=True)
class _Search:
    jobs: Sequence[Flexible]
    most_states: int
    _latest: list[float] = field(default_factory=list)  # the earliest latest start from each job on
    _by_begin: dict[float, dict[tuple[tuple[int, ...], int], _State]] = field(default_factory=dict)
    _begins: list[float] = field(default_factory=list)  # heap
    _done: list[_State] = field(default_factory=list)
    _longest: float = 0.0

    def solve(self) -> Intervals:
        self._longest = max(job.length for job in self.jobs)
        self._latest = [inf] * (len(self.jobs) + 1)
        for number in range(len(self.jobs) - 1, -1, -1):
            self._latest[number] = min(self.jobs[number].latest, self._latest[number + 1])
        self._reach(self._latest[0], _State((), 0, 0.0, (-1, 0.0, 0.0)))
        while (begin := heappop(self._begins)) < inf:
            for state in self._undominated(begin):
                self._done.append(state)
                if len(self._done) > self.most_states:
                    raise TooLarge(f"more than {self.most_states} states after {begin:.0f} of {self.jobs[-1].earliest:.0f}")
                for end, remaining, coming in self._ends(begin, state):
                    self._settle(begin, end, remaining, coming, state.cost)
        return self._trace_back(min(self._by_begin[inf].values(), key=lambda state: state.cost))

    def _settle(self, begin: float, end: float, remaining: Sequence[int], coming: int, cost: float) -> None:
        kept = tuple(self._staircase(remaining))
        next_begin = min((self.jobs[number].latest for number in kept), default=inf)
        came_by = (len(self._done) - 1, begin, end)
        self._reach(min(next_begin, self._latest[coming]), _State(kept, coming, cost + end - begin, came_by))

    def _reach(self, begin: float, state: _State) -> None:
        states = self._by_begin.get(begin)
        if states is None:
            states = self._by_begin[begin] = {}
            heappush(self._begins, begin)
        key = (state.remaining, state.coming)
        if key not in states or state.cost < states[key].cost:
            states[key] = state

    def _staircase(self, numbers: Sequence[int]) -> Iterator[int]:
        """Whoever is covered only if all others with a later latest start are not: later ones must be longer."""
        longest = 0.0
        for number in sorted(numbers, key=lambda number: (self.jobs[number].latest, -self.jobs[number].length, number)):
            if self.jobs[number].length > longest:
                longest = self.jobs[number].length
                yield number

    def _ends(self, begin: float, state: _State) -> Iterator[tuple[float, Sequence[int], int]]:
        """Each end that an interval may have, what remains after it, and who is still to come."""
        jobs, coming = self.jobs, state.coming
        waiting = [(begin + jobs[number].length, number) for number in state.remaining]
        while coming < len(jobs) and jobs[coming].earliest <= begin:
            waiting.append((begin + jobs[coming].length, coming))
            coming += 1
        heapify(waiting)
        end = max(ends for ends, number in waiting if jobs[number].latest <= begin)
        stop_at = inf
        while True:
            while coming < len(jobs) and jobs[coming].earliest < end:
                heappush(waiting, (_end(jobs[coming], begin), coming))
                coming += 1
            while waiting and waiting[0][0] <= end:
                heappop(waiting)
            late = max((ends for ends, number in waiting if jobs[number].latest <= end), default=None)
            if late is not None:
                end = late
                continue
            yield end, [number for _, number in waiting], coming
            if not waiting:
                return
            stop_at = min(stop_at, end + self._longest)
            end = waiting[0][0]
            if end >= stop_at:
                return

    def _undominated(self, begin: float) -> list[_State]:
        kept: list[_State] = []
        for state in sorted(self._by_begin.pop(begin).values(), key=lambda state: state.cost):
            if not any(better.cost + self._extra(begin, better, state) <= state.cost for better in kept):
                kept.append(state)
        return kept

    def _extra(self, begin: float, better: _State, state: _State) -> float:
        """How much longer the next interval must be at most for one state to have run all that the other has."""
        more = [number for number in better.remaining if number < state.coming and number not in state.remaining]
        more += [number for number in range(better.coming, state.coming) if number not in state.remaining]
        if not more:
            return 0.0
        # the other's next interval is at least as long as the job that must begin it
        first = self.jobs[state.remaining[0]] if state.remaining else None
        least = first.length if first is not None and first.latest <= begin else 0.0
        return max(max(_end(self.jobs[number], begin) for number in more) - begin - least, 0.0)

    def _trace_back(self, state: _State) -> Intervals:
        found = []
        span = state.cost
        while state.came_by[0] >= 0:
            before, begin, end = state.came_by
            found.append((begin, end))
            state = self._done[before]
        return Intervals(span, tuple(reversed(found)))
