"""Pure: one counter interval and the timelines of who was there -> joules per request, idle and unattributed.

The requests of one server are one batch. Its time is cut wherever one of them joins, gets its first token or leaves, so
that membership is constant in each cut. In a cut of S estimated steps with B participants, prefilling ones included, the
step model charges each

    S * e_base / B  +  n * e_sequence  +  p * e_prompt_token  +  c * e_context_token

for its n output tokens, p prompt tokens and c tokens of context read. That is the Shapley value (Shapley, 1953) of the
model's cost: the base is needed by every participant alike, and each adds its own parts.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from math import inf

from telemetry.cost import StepModel
from telemetry.ledger import Entry
from telemetry.snapshot import Interval

# An interval is not cut into more parts than this, requests times cuts: each costs about a microsecond, on the loop that
# serves. Where requests come and go faster, edges are moved together: cuts finer than an engine's step say nothing anyway.
MOST_PARTS, FEWEST_CUTS = 2000, 8

Prefill = tuple[tuple[float, float, float], ...]  # pieces: from, to, and the prompt tokens computed evenly in between


@dataclass(frozen=True, slots=True)
class Timeline:
    """When a request was in which phase, and when its tokens were seen; monotonic seconds.

    Attributes:
        first: its first token; infinity while none is known. Until then it prefills.
        left: infinity while it runs.
        prefill: how its prompt was computed, or is estimated to be.
        earlier_tokens: output tokens before those of `seen`.
        seen: instants of its tokens; None when it was not streamed, so that it is taken to get one a step.
        server: whose batch it is in.
    """

    id: str
    joined: float
    first: float
    left: float
    prompt_tokens: int
    prefill: Prefill
    earlier_tokens: int
    seen: Sequence[float] | None
    server: str = ""

    @classmethod
    def of(cls, entry: Entry, model: StepModel, blind_until: float = -inf) -> Timeline:
        """What is known of a request now; what is not is estimated by the step model.

        Args:
            entry: a request that has left to its server.
            model: estimates how long its prompt takes.
            blind_until: up to here it has been settled without its first token being known.
        """
        assert entry.released_at is not None
        joined, left = entry.released_at, entry.ended_at if entry.ended_at is not None else inf
        estimated = joined + model.first_token_s(entry.prompt_tokens)
        if entry.streamed:
            first = entry.first_token_at if entry.first_token_at is not None else inf
            seen = [at for at, count in entry.tokens for _ in range(count)]
        else:
            first, seen = min(estimated, left), None
        prefill = _prefill(joined, estimated, first, blind_until, entry.prompt_tokens)
        return cls(entry.id, joined, first, left, entry.prompt_tokens, prefill, entry.settled_tokens, seen, entry.server)

    def output(self, at: float, model: StepModel) -> float:
        """Output tokens up to an instant; without a stream, those of an unhindered one."""
        if self.seen is None:
            return max(at - self.first, 0.0) / model.step_s.base
        return self.earlier_tokens + bisect_right(self.seen, at)

    def prompt(self, start: float, end: float) -> float:
        """Prompt tokens computed between two instants. All pieces together never exceed the prompt."""
        return sum(
            tokens * max(min(end, until) - max(start, since), 0.0) / (until - since) for since, until, tokens in self.prefill
        )


def _prefill(joined: float, estimated: float, first: float, blind_until: float, tokens: int) -> Prefill:
    """Evenly from joining to the first token; what was settled before that was known stays as it was estimated."""
    if first == inf:
        return ((joined, max(estimated, joined + 1e-9), tokens),)
    if blind_until <= joined:
        return ((joined, max(first, joined + 1e-9), tokens),)
    part = min((blind_until - joined) / max(estimated - joined, 1e-9), 1.0)
    settled = (joined, min(blind_until, max(estimated, joined + 1e-9)), tokens * part)
    return (settled, (blind_until, first, tokens * (1 - part))) if first > blind_until else (settled,)


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
    interval: Interval,
    timelines: Iterable[Timeline],
    model: StepModel,
    idle_power_w: float,
    *,
    devices: int = 1,
    most_parts: int = MOST_PARTS,
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
        most_parts: requests times cuts, at most.
    """
    idle_uj = min(interval.energy_uj, round(idle_power_w * interval.seconds * 1e6))
    active_uj = interval.energy_uj - idle_uj
    there = [t for t in timelines if t.joined < interval.end_s and t.left > interval.start_s]
    joules = _weigh(interval, there, model, most_parts)
    wholes = [before + after for before, after in joules.values()]
    charged_uj = min(active_uj, int(sum(wholes) * 1e6 / devices * (1 + model.band)))
    shares = {timeline.id: Share() for timeline in there}
    for (id, (before, after)), amount in zip(joules.items(), apportion(charged_uj, wholes), strict=True):
        shares[id] = Share(amount, round(amount * (before / (before + after))) if amount else 0)
    requests_uj = sum(share.active_uj for share in shares.values())
    return Settlement(shares, idle_uj, active_uj - requests_uj)


def apportion(total: int, weights: Sequence[float]) -> list[int]:
    """Whole parts of `total` in proportion to the weights, adding up to it exactly; all zero without any weight."""
    whole = sum(weights)
    if whole <= 0:
        return [0] * len(weights)
    marks = [0, *(min(round(total * (running / whole)), total) for running in accumulate(weights))]
    marks[-1] = total
    return [after - before for before, after in pairwise(marks)]


def _weigh(
    interval: Interval, timelines: Sequence[Timeline], model: StepModel, most_parts: int
) -> dict[str, tuple[float, float]]:
    """Modelled joules of each request in the interval: before its first token, and after."""
    joules = {timeline.id: (0.0, 0.0) for timeline in timelines}
    batches: dict[str, list[Timeline]] = {}
    for timeline in timelines:
        batches.setdefault(timeline.server, []).append(timeline)
    for batch in batches.values():
        for start, end, members in _cuts(interval, batch, most_parts):
            for member, more in zip(members, weights(start, end, members, model), strict=True):
                before, after = joules[member.id]
                joules[member.id] = (before + more, after) if member.first > start else (before, after + more)
    return joules


def _cuts(interval: Interval, batch: Sequence[Timeline], most_parts: int) -> Iterator[tuple[float, float, list[Timeline]]]:
    """The interval cut wherever membership or a phase changes: from, to, and who is there all the time."""
    edges = _edges(interval, batch)
    if (len(edges) - 1) * len(batch) > most_parts:
        edges = _thinned(edges, max(most_parts // len(batch), FEWEST_CUTS))
        batch = [_snapped(timeline, edges) for timeline in batch]
    coming = deque(sorted(batch, key=lambda timeline: timeline.joined))
    there: list[Timeline] = []
    for start, end in pairwise(edges):
        while coming and coming[0].joined <= start:
            there.append(coming.popleft())
        there = [timeline for timeline in there if timeline.left >= end]
        if there:
            yield start, end, there


def _edges(interval: Interval, timelines: Sequence[Timeline]) -> list[float]:
    inside = {at for t in timelines for at in (t.joined, t.first, t.left) if interval.start_s < at < interval.end_s}
    return [interval.start_s, *sorted(inside), interval.end_s]


def _thinned(edges: Sequence[float], most: int) -> list[float]:
    """Those edges that are at least a `most`-th of the interval apart, first and last always."""
    gap = (edges[-1] - edges[0]) / most
    kept = [edges[0]]
    for at in edges[1:-1]:
        if kept[-1] + gap <= at <= edges[-1] - gap:
            kept.append(at)
    return [*kept, edges[-1]]


def _snapped(timeline: Timeline, edges: Sequence[float]) -> Timeline:
    """A timeline that changes at edges only, and covers what it did: it joins no later, and leaves no earlier."""

    def up(at: float) -> float:
        return edges[bisect_left(edges, at)] if edges[0] < at < edges[-1] else at

    joined = edges[bisect_right(edges, timeline.joined) - 1] if edges[0] < timeline.joined < edges[-1] else timeline.joined
    return replace(timeline, joined=joined, first=up(timeline.first), left=up(timeline.left))


def weights(start: float, end: float, members: Sequence[Timeline], model: StepModel) -> list[float]:
    """Modelled joules of each member of one batch in a cut; see the module's docstring for the formula."""
    before = [member.output(start, model) for member in members]
    prompts = [member.prompt(start, end) if member.first > start else 0.0 for member in members]
    seen = [None if m.seen is None else m.output(end, model) - had for m, had in zip(members, before, strict=True)]
    steps = _steps(end - start, [m.first <= start for m in members], seen, prompts, before, members, model)
    energy, joules = model.step_j, []
    for member, tokens, prompt, had in zip(members, seen, prompts, before, strict=True):
        decodes = member.first <= start
        if tokens is None:  # not streamed: its first token ends the prefill, then it gets one a step
            tokens = steps if decodes else float(member.first == end)
        read = tokens * (member.prompt_tokens + had + tokens / 2) if decodes else 0.0
        joules.append(
            steps * energy.base / len(members)
            + tokens * energy.per_sequence
            + prompt * energy.per_prompt_token
            + read * energy.per_context_token
        )
    return joules


def _steps(
    seconds: float,
    decodes: Sequence[bool],
    seen: Sequence[float | None],
    prompts: Sequence[float],
    outputs: Sequence[float],
    members: Sequence[Timeline],
    model: StepModel,
) -> float:
    """Steps in the cut: a stream that decodes gets one token a step; without one, as many as the model has time for."""
    streams = [tokens for decoding, tokens in zip(decodes, seen, strict=True) if decoding and tokens is not None]
    if streams:
        return max(streams)
    contexts = [m.prompt_tokens + had for m, decoding, had in zip(members, decodes, outputs, strict=True) if decoding]
    cost = model.step_s
    each = cost.base + cost.per_sequence * len(contexts) + cost.per_context_token * sum(contexts)
    # a prompt takes a step at the least, however long its tokens take
    at_least = max((p / m.prompt_tokens for p, m in zip(prompts, members, strict=True) if p > 0), default=0.0)
    return max((seconds - cost.per_prompt_token * sum(prompts)) / each, at_least)
