"""Work that may wait leaves when power is cleaner, or cheaper, than at any hour that it could still wait for.

What a kilowatt-hour stands for over the next hours (grams of CO2, or money) is read from a file, a forecast or a tariff.
With the hours known, the best one before a deadline is known, too, and a request's joules do not depend on when it runs:
so this is the clairvoyant rule that "Let's wait awhile" (Wiesner et al., Middleware 2021) calls non-interrupting, except that
it looks one step ahead: a request waits for the next time that is better than now by `gain`, and asks again there. It ends
within `gain` of the best before its deadline, and does not wait for less.

Which second of its hour it leaves in makes no difference to the grams of a joule, but much to the joules: so within the hour
those who leave in it are grouped as by Batch+ (`policies/span.py`). They wait until one of them must leave or worse hours are
about to begin, then all leave, and those who come while the first one runs. Where requests are few, the group matters more
than the hour, and plain `span` has fewer grams; where each hour has its dozens, this has.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from policies.base import Decision, Policy, View
from policies.part import DEFERRABLE, PROMPT, Part, ask, sooner
from policies.span import Span
from telemetry.factors import Rate, read_rate

CLOSE_S = 1e-3  # an instant so shortly before a value begins is of it: clocks are not exact
LAST_CALL_S = 60.0  # so long before a value ends all who chose it leave, that they may run while it holds


@dataclass(frozen=True, slots=True)
class Remembered:
    """The inner policy's memory, and who set off the group that runs."""

    inner: object = None
    flag: str | None = None


@dataclass(frozen=True, slots=True)
class Carbon:
    """Flex and batch wait for the next better hour if it begins before their deadline; the others leave by another policy.

    Attributes:
        file: a CSV file of two columns: when (ISO 8601 with an offset, or Unix seconds), and how much a kWh stands for from
            then on. An empty value says that none is known. Read once, when the policy is made.
        gain: least relative improvement that is worth a wait, 0 to 1.
        step_s: seconds that a value holds at most. While none holds, nobody waits; unknown hours are not better ones.
        policy: for priority and interactive requests.

    Raises:
        ValueError: the file cannot be read, or a line of it is wrong.
    """

    file: str
    gain: float = 0.1
    step_s: float = 3600.0
    policy: Policy = field(default_factory=Span)
    _rate: Rate = field(init=False, repr=False)  # compared: with other values it is another policy
    _better_at: Sequence[float] = field(init=False, repr=False, compare=False)
    _worse_at: Sequence[float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.gain <= 1:
            raise ValueError("gain must be from 0 to 1")
        if not self.step_s > 0:
            raise ValueError("step_s must be greater than 0")
        rate = read_rate(Path(self.file), "", self.file, self.step_s)
        object.__setattr__(self, "_rate", rate)
        object.__setattr__(self, "_better_at", better_at(rate, self.gain))
        object.__setattr__(self, "_worse_at", worse_at(rate))

    def decide(self, view: View, memory: object) -> Decision:
        known = memory if isinstance(memory, Remembered) else Remembered()
        others = ask(self.policy, view, Part(view.waiting, PROMPT), known.inner)
        flag = known.flag if known.flag in view.in_flight else None
        waiting = Part(view.waiting, DEFERRABLE)
        if not len(waiting):
            return Decision(others.release, others.wake_at, Remembered(others.memory, flag))
        better, leave_at = self._instants(view)
        if waiting.earliest_deadline >= better:  # all wait for the better hour
            return Decision(others.release, sooner(others.wake_at, better), Remembered(others.memory, flag))
        leave_at = min(leave_at, waiting.earliest_deadline)
        if flag is None and view.now < leave_at:
            return Decision(others.release, sooner(others.wake_at, leave_at), Remembered(others.memory))
        group = list(waiting if better == inf else waiting.due_before(better))
        flag = flag or min(group, key=lambda one: (one.deadline, one.arrived_at, one.id)).id
        release = [*others.release, *(one.id for one in group)]
        return Decision(release, sooner(others.wake_at, better), Remembered(others.memory, flag))

    def _instants(self, view: View) -> tuple[float, float]:
        """When it will be better, infinity if that is not known, and when those leave at the latest who leave before."""
        now_s = view.wall_s + CLOSE_S
        if self._rate.at(now_s) is None:
            return inf, view.now
        value = bisect_right(self._rate.since_unix_s, now_s) - 1
        to_now_s = view.now - view.wall_s
        return max(self._better_at[value] + to_now_s, view.now), self._worse_at[value] + to_now_s - LAST_CALL_S


def better_at(rate: Rate, gain: float) -> tuple[float, ...]:
    """For each value of a rate, when the next one begins that is less by `gain` of it; infinity: none does.

    From the last to the first, those kept in sight are the ones that nothing nearer undercuts: the nearest is on top, and the
    farther the lower.
    """
    sight: list[tuple[float, float]] = []  # (value, since), ascending
    found = []
    for since, value in reversed(list(zip(rate.since_unix_s, rate.per_kwh, strict=True))):
        if value is None:
            found.append(inf)
            continue
        while sight and sight[-1][0] >= value:
            sight.pop()
        nearest = bisect_right(sight, value - gain * abs(value), key=lambda seen: seen[0]) - 1
        found.append(sight[nearest][1] if nearest >= 0 else inf)
        sight.append((value, since))
    return tuple(reversed(found))


def worse_at(rate: Rate) -> tuple[float, ...]:
    """For each value of a rate, until when it is not exceeded: the next greater begins then, or none is known from then on."""
    since, values = rate.since_unix_s, rate.per_kwh
    ends = [min(at + rate.step_s, then) for at, then in zip(since, [*since[1:], inf], strict=True)]
    runs = list(range(1, len(since) + 1))  # which value comes after those that do not exceed this one
    for n in reversed(range(len(since))):
        own = values[n]
        while runs[n] < len(since) and ends[n] == since[runs[n]]:
            following = values[runs[n]]
            if own is None or following is None or following > own:
                break
            ends[n], runs[n] = ends[runs[n]], runs[runs[n]]
    return tuple(ends)
