"""Pure: one counter interval and the timelines of who was there -> joules per request, idle and unattributed.

Time is cut wherever a request joins, gets its first token or leaves, so that membership is constant in each cut. In a cut
of S estimated steps with B participants, prefilling ones included, the step model charges each

    S * e_base / B  +  n * e_sequence  +  p * e_prompt_token  +  c * e_context_token

for its n output tokens, p prompt tokens and c tokens of context read. That is the Shapley value (Shapley, 1953) of the
model's cost: the base is needed by every participant alike, and each adds its own parts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import inf

from telemetry.cost import StepModel
from telemetry.ledger import Entry
from telemetry.snapshot import Interval


@dataclass(frozen=True, slots=True)
class Timeline:
    """When a request was in which phase, and when its tokens were seen; monotonic seconds.

    Attributes:
        first: its first token; later than `left` if none came. Until then it prefills.
        left: infinity while it runs.
        prefill_s: how long its prompt takes or is estimated to take.
        earlier_tokens: output tokens before those of `seen`.
        seen: instants of its tokens; None when it was not streamed, so that it is taken to get one a step.
    """

    id: str
    joined: float
    first: float
    left: float
    prompt_tokens: int
    prefill_s: float
    earlier_tokens: int
    seen: Sequence[float] | None

    @classmethod
    def of(cls, entry: Entry, model: StepModel) -> Timeline:
        """What is known of a request now; what is not is estimated by the step model."""
        assert entry.released_at is not None
        joined, left = entry.released_at, entry.ended_at if entry.ended_at is not None else inf
        estimate = model.first_token_s(entry.prompt_tokens)
        if entry.streamed:
            first = entry.first_token_at if entry.first_token_at is not None else inf
            seen = [at for at, count in entry.tokens for _ in range(count)]
            earlier = entry.settled_tokens
        else:
            first, seen, earlier = min(joined + estimate, left), None, 0
        prefill_s = first - joined if first < inf else estimate
        return cls(entry.id, joined, first, left, entry.prompt_tokens, max(prefill_s, 1e-9), earlier, seen)

    def tokens(self, start: float, end: float) -> int:
        """Tokens seen after `start` and no later than `end`."""
        return 0 if self.seen is None else bisect_right(self.seen, end) - bisect_right(self.seen, start)

    def context(self, at: float, model: StepModel) -> float:
        """Tokens in its context at an instant."""
        if self.seen is None:
            return self.prompt_tokens + max(at - self.first, 0.0) / model.step_s.base
        return self.prompt_tokens + self.earlier_tokens + bisect_right(self.seen, at)


@dataclass(frozen=True, slots=True)
class Share:
    """One request's part of an interval, net of idle; microjoules."""

    active_uj: int = 0
    prefill_uj: int = 0  # what of it is from before its first token


@dataclass(frozen=True, slots=True)
class Settlement:
    """One interval, split: the shares, idle and unattributed add up to the counter exactly."""

    shares: Mapping[str, Share]
    idle_uj: int
    unattributed_uj: int


def settle(
    interval: Interval, timelines: Sequence[Timeline], model: StepModel, idle_power_w: float, *, devices: int = 1
) -> Settlement:
    """Split one interval of one device's counter.

    Idle energy is idle power times the interval's length, at most what was counted. Of the rest, requests get no more
    than the model says they can have used, within its band; what lies beyond is unattributed. When less was counted than
    the model says, they share what was counted.

    Args:
        interval: between two steps of a counter.
        timelines: all requests that may have been there.
        model: what a step costs; net of idle.
        idle_power_w: of this device.
        devices: how many devices share the model's cost (tensor parallel), this one being one of them.
    """
    idle_uj = min(interval.energy_uj, round(idle_power_w * interval.seconds * 1e6))
    active_uj = interval.energy_uj - idle_uj
    there = [t for t in timelines if t.joined < interval.end_s and t.left > interval.start_s]
    parts = _weigh(interval, there, model)
    modelled_uj = sum(parts.values()) * 1e6 / devices
    charged_uj = min(active_uj, int(modelled_uj * (1 + model.band)))
    amounts = apportion(charged_uj, list(parts.values()))
    if sum(amounts) < charged_uj:  # nobody to charge
        charged_uj = 0
    shares = {timeline.id: Share() for timeline in there}
    for (id, prefill), amount in zip(parts, amounts, strict=True):
        share = shares[id]
        shares[id] = Share(share.active_uj + amount, share.prefill_uj + (amount if prefill else 0))
    return Settlement(shares, idle_uj, active_uj - charged_uj)


def apportion(total: int, weights: Sequence[float]) -> list[int]:
    """Whole parts of `total` in proportion to the weights, adding up to it exactly; all zero without any weight."""
    whole = sum(weights)
    if whole <= 0:
        return [0] * len(weights)
    marks = [0, *(min(round(total * (running / whole)), total) for running in accumulate(weights))]
    marks[-1] = total
    return [after - before for before, after in pairwise(marks)]


def _weigh(interval: Interval, timelines: Sequence[Timeline], model: StepModel) -> dict[tuple[str, bool], float]:
    """Modelled joules of each request in the interval, before its first token and after."""
    parts: dict[tuple[str, bool], float] = {}
    for start, end in pairwise(_edges(interval, timelines)):
        members = [t for t in timelines if t.joined <= start and t.left >= end]
        for member, joules in zip(members, weights(start, end, members, model), strict=True):
            key = (member.id, member.first > start)
            parts[key] = parts.get(key, 0.0) + joules
    return parts


def _edges(interval: Interval, timelines: Sequence[Timeline]) -> list[float]:
    inside = {at for t in timelines for at in (t.joined, t.first, t.left) if interval.start_s < at < interval.end_s}
    return [interval.start_s, *sorted(inside), interval.end_s]


def weights(start: float, end: float, members: Sequence[Timeline], model: StepModel) -> list[float]:
    """Each member's modelled joules in a cut; see the module's docstring for the formula."""
    if not members:
        return []
    prompts = [_prompt_tokens(member, start, end) for member in members]
    contexts = [member.context(start, model) for member in members]
    steps = _steps(start, end, members, prompts, contexts, model)
    energy = model.step_j
    joules = []
    for member, prompt, context in zip(members, prompts, contexts, strict=True):
        tokens: float = member.tokens(start, end) if member.seen is not None else steps if member.first <= start else 0.0
        read = tokens * (context + tokens / 2) if member.first <= start else 0.0
        joules.append(
            steps * energy.base / len(members)
            + tokens * energy.per_sequence
            + prompt * energy.per_prompt_token
            + read * energy.per_context_token
        )
    return joules


def _prompt_tokens(member: Timeline, start: float, end: float) -> float:
    """Prompt tokens computed in the cut, spread evenly over its prefill."""
    overlap = min(end, member.first, member.joined + member.prefill_s) - start
    return member.prompt_tokens * max(overlap, 0.0) / member.prefill_s if member.first > start else 0.0


def _steps(
    start: float,
    end: float,
    members: Sequence[Timeline],
    prompts: Sequence[float],
    contexts: Sequence[float],
    model: StepModel,
) -> float:
    """Steps in the cut: a stream that decodes gets one token a step; without one, as many as the model has time for."""
    streams = [member.tokens(start, end) for member in members if member.seen is not None and member.first <= start]
    if streams:
        return float(max(streams))
    decoding = [context for member, context in zip(members, contexts, strict=True) if member.first <= start]
    seconds = model.step_s
    each = seconds.base + seconds.per_sequence * len(decoding) + seconds.per_context_token * sum(decoding)
    steps = max((end - start - seconds.per_prompt_token * sum(prompts)) / each, 0.0)
    # a prompt takes a step at the least, however long its tokens take
    at_least = max(
        ((end - start) / m.prefill_s for m in members if m.first > start and start < m.joined + m.prefill_s), default=0.0
    )
    return max(steps, at_least)
