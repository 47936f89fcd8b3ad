"""Pure: one counter interval and the timelines of who was there -> joules per request, idle and unattributed.

The requests of one server are one batch. Its time is cut wherever one of them joins, gets its first token or leaves, so
that membership is constant in each cut. In a cut of S estimated steps with B participants, prefilling ones included, the
step model charges each

    S * e_base / B  +  n * e_sequence  +  p * e_prompt_token  +  c * e_context_token

for its n output tokens, p uncached prompt tokens and c tokens of context read. That is the Shapley value (Shapley, 1953) of
the model's cost: the base is needed by every participant alike, and each adds its own parts. Two other splits of the same
joules are made beside it, by tokens and by time, to show how much an answer depends on the method.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from math import sqrt
from typing import NamedTuple

from telemetry.cost import StepModel
from telemetry.snapshot import Interval, Source
from telemetry.timeline import Timeline

# An interval is not cut into more parts than this for each 100 ms, requests times cuts: each costs about two microseconds, on
# the loop that serves. Where requests come and go faster, edges are moved together: cuts finer than an engine's step say
# nothing anyway. MOST_AT_ONCE bounds what long intervals can take of the loop in one piece.
MOST_PARTS, MOST_AT_ONCE, FEWEST_CUTS = 2000, 20_000, 8


@dataclass(frozen=True, slots=True)
class Share:
    """One request's part of an interval, net of idle; microjoules.

    Attributes:
        prefill_uj: what of `active_uj` is from before its first token.
        tokens_uj: what it would be if joules were split by tokens, prompt and output alike.
        time_uj: what it would be if joules were split equally among all who are there.
        modelled_j: what the model alone says.
        moved_j: by coefficient (base, sequence, prompt token, context token): joules that would move for a whole relative
            error of it.
        blind_j: what hangs on timelines that nobody has seen, prompts apart.
        phase_j: what hangs on when prompts were computed, where nobody has seen that or knows how long they are.
        guess_j: what would move if the lengths of prompts that were guessed were off by all of them.
        tokens: output tokens that it is taken to have got.
        prompt_tokens: those of its prompt that are taken to have been computed.
        seconds: how long it was there.
    """

    active_uj: int = 0
    prefill_uj: int = 0
    tokens_uj: int = 0
    time_uj: int = 0
    modelled_j: float = 0.0
    moved_j: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    blind_j: float = 0.0
    phase_j: float = 0.0
    guess_j: float = 0.0
    tokens: float = 0.0
    prompt_tokens: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Settlement:
    """One interval, split: the shares, idle and unattributed add up to the counter exactly.

    Attributes:
        grain_s: edges of timelines were moved by up to so much, since there were too many.
    """

    shares: Mapping[str, Share]
    idle_uj: int
    unattributed_uj: int
    grain_s: float = 0.0


class Weight(NamedTuple):
    """Modelled joules of one member in one cut, and the tokens that they are for."""

    base: float
    sequence: float
    prompt: float
    context: float
    prompt_tokens: float
    output_tokens: float

    @property
    def joules(self) -> float:
        return self.base + self.sequence + self.prompt + self.context


@dataclass(slots=True)
class _Part:
    """What one request adds up to in an interval."""

    base: float = 0.0
    sequence: float = 0.0
    prompt: float = 0.0
    context: float = 0.0
    before: float = 0.0  # joules before its first token
    prompt_tokens: float = 0.0
    output_tokens: float = 0.0
    alone_s: float = 0.0  # seconds, each divided by how many shared it
    seconds: float = 0.0

    def add(self, weight: Weight, seconds: float, members: int, prefills: bool) -> None:
        self.base += weight.base
        self.sequence += weight.sequence
        self.prompt += weight.prompt
        self.context += weight.context
        if prefills:
            self.before += weight.joules
        self.prompt_tokens += weight.prompt_tokens
        self.output_tokens += weight.output_tokens
        self.alone_s += seconds / members
        self.seconds += seconds

    @property
    def joules(self) -> float:
        return self.base + self.sequence + self.prompt + self.context


@dataclass(slots=True)
class _Weighed:
    """All parts of one interval, and how coarsely it was cut."""

    parts: dict[str, _Part] = field(default_factory=dict)
    grain_s: float = 0.0


def settle(
    interval: Interval,
    timelines: Iterable[Timeline],
    model: StepModel,
    idle_power_w: float,
    *,
    devices: int = 1,
    most_parts: int | None = None,
) -> Settlement:
    """Split one interval of one device's counter by the step model.

    Idle energy is idle power times the interval's length, at most what was counted. Of the rest, requests get no more
    than the model says they can have used, within its band; what lies beyond is unattributed. When less was counted than
    the model says, they share what was counted.

    Args:
        interval: between two steps of a counter.
        timelines: all requests that may have been there.
        model: what a step costs; net of idle.
        idle_power_w: of this device.
        devices: how many devices share the model's cost (tensor parallel), this one being one of them.
        most_parts: requests times cuts, at most; None: as many as the interval's length allows.
    """
    idle_uj = min(interval.energy_uj, round(idle_power_w * interval.seconds * 1e6))
    active_uj = interval.energy_uj - idle_uj
    there = _there(interval, timelines)
    weighed = _weigh(interval, there, model, most_parts or _most(interval))
    whole_j = sum(part.joules for part in weighed.parts.values())
    charged_uj = min(active_uj, int(whole_j * 1e6 / devices * (1 + model.band)))
    shares = _shares(there, weighed.parts, charged_uj, devices)
    requests_uj = sum(share.active_uj for share in shares.values())
    return Settlement(shares, idle_uj, active_uj - requests_uj, weighed.grain_s)


def settle_by_time(interval: Interval, timelines: Iterable[Timeline], model: StepModel, idle_power_w: float) -> Settlement:
    """Split one interval of a host's counter equally among all who are there at each instant.

    Nothing says what a request can have used of a host, so nothing bounds it: whatever else the host does beyond its idle
    power is shared as well. With nobody there it is unattributed.
    """
    idle_uj = min(interval.energy_uj, round(idle_power_w * interval.seconds * 1e6))
    active_uj = interval.energy_uj - idle_uj
    there = _there(interval, timelines)
    weighed = _weigh(interval, there, model, _most(interval))
    amounts = apportion(active_uj, [part.alone_s for part in weighed.parts.values()])
    shares = {
        id: Share(amount, time_uj=amount, seconds=part.seconds)
        for (id, part), amount in zip(weighed.parts.items(), amounts, strict=True)
    }
    return Settlement(shares, idle_uj, active_uj - sum(amounts), weighed.grain_s)


def modelled_j(start_s: float, end_s: float, timelines: Iterable[Timeline], model: StepModel) -> float:
    """Joules that the model says were used between two instants, net of idle."""
    interval = Interval("", start_s, end_s, 0, Source.MODELLED)
    parts = _weigh(interval, _there(interval, timelines), model, _most(interval)).parts
    return sum(part.joules for part in parts.values())


def apportion(total: int, weights: Sequence[float]) -> list[int]:
    """Whole parts of `total` in proportion to the weights, adding up to it exactly; all zero without any weight."""
    whole = sum(weights)
    if whole <= 0:
        return [0] * len(weights)
    marks = [0, *(min(round(total * (running / whole)), total) for running in accumulate(weights))]
    marks[-1] = total
    return [after - before for before, after in pairwise(marks)]


def _there(interval: Interval, timelines: Iterable[Timeline]) -> list[Timeline]:
    return [t for t in timelines if t.joined < interval.end_s and t.left > interval.start_s]


def _most(interval: Interval) -> int:
    return int(min(max(MOST_PARTS * interval.seconds / 0.1, MOST_PARTS), MOST_AT_ONCE))


def _shares(there: Sequence[Timeline], parts: Mapping[str, _Part], charged_uj: int, devices: int) -> dict[str, Share]:
    wholes = [part.joules for part in parts.values()]
    whole = sum(wholes)
    by_tokens = apportion(charged_uj, [part.prompt_tokens + part.output_tokens for part in parts.values()])
    by_time = apportion(charged_uj, [part.alone_s for part in parts.values()])
    each = apportion(charged_uj, wholes)
    if whole <= 0:
        return {timeline.id: Share() for timeline in there}
    base, sequence, prompt, context = (sum(getattr(p, name) for p in parts.values()) / whole for name in COEFFICIENTS)
    unseen = sum(part.joules - part.prompt for t, part in zip(there, parts.values(), strict=True) if t.blind) / whole
    unsure = sum(part.prompt for t, part in zip(there, parts.values(), strict=True) if t.blind or t.guessed) / whole
    # as parts of the whole, for a weight can be so small that its square is nothing
    guesses2 = sum((part.prompt / whole) ** 2 for t, part in zip(there, parts.values(), strict=True) if t.guessed)
    shares = {}
    for timeline, part, amount, tokens, time in zip(there, parts.values(), each, by_tokens, by_time, strict=True):
        joules, own = part.joules, amount / 1e6
        if joules <= 0:
            shares[timeline.id] = Share(amount, 0, tokens, time, seconds=part.seconds, tokens=part.output_tokens)
            continue
        # the first-order change of its share by each coefficient: d ln(share) / d ln(coefficient) is the part of its own
        # joules that comes from the coefficient, less the part of everybody's
        moved = (
            own * (part.base / joules - base),
            own * (part.sequence / joules - sequence),
            own * (part.prompt / joules - prompt),
            own * (part.context / joules - context),
        )
        fraction = joules / whole
        mates2 = guesses2 - (part.prompt / whole) ** 2 if timeline.guessed else guesses2
        own2 = (part.prompt / joules * (1 - fraction)) ** 2 if timeline.guessed else 0.0
        guess2 = own2 + max(mates2, 0.0)
        # an error of its own weight is shared with its mates, and it shares in theirs
        of_prompt = part.prompt / joules
        blind = own * ((1 - of_prompt) * (1 - fraction) if timeline.blind else unseen)
        # of prompts in a queue, all of one's joules may have been another's
        phase = own * (of_prompt * (1 - fraction * (not timeline.queued)) if timeline.blind or timeline.guessed else unsure)
        shares[timeline.id] = Share(
            active_uj=amount,
            prefill_uj=round(amount * (part.before / joules)),
            tokens_uj=tokens,
            time_uj=time,
            modelled_j=joules / devices,
            moved_j=moved,
            blind_j=blind,
            phase_j=phase,
            guess_j=own * sqrt(guess2),
            tokens=part.output_tokens,
            prompt_tokens=part.prompt_tokens,
            seconds=part.seconds,
        )
    return shares


COEFFICIENTS = ("base", "sequence", "prompt", "context")


def _weigh(interval: Interval, timelines: Sequence[Timeline], model: StepModel, most_parts: int) -> _Weighed:
    """What each request, batch by batch and cut by cut, adds up to in the interval; in the order of `timelines`."""
    weighed = _Weighed({timeline.id: _Part() for timeline in timelines})
    batches: dict[str, list[Timeline]] = {}
    for timeline in timelines:
        batches.setdefault(timeline.server, []).append(timeline)
    for batch in batches.values():
        edges = _edges(interval, batch)
        parts = sum(bisect_left(edges, t.left) - bisect_left(edges, t.joined) for t in batch)
        if parts > most_parts:
            cuts = max(len(edges) * most_parts // parts, FEWEST_CUTS)
            edges, weighed.grain_s = _thinned(edges, cuts), interval.seconds / cuts
            batch = [_snapped(timeline, edges) for timeline in batch]
        for start, end, members in _cuts(edges, batch):
            for member, weight in zip(members, weights(start, end, members, model), strict=True):
                weighed.parts[member.id].add(weight, end - start, len(members), prefills=member.first > start)
    return weighed


def _cuts(edges: Sequence[float], batch: Sequence[Timeline]) -> Iterator[tuple[float, float, list[Timeline]]]:
    """The interval cut wherever membership or a phase changes: from, to, and who is there all the time."""
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


def weights(start: float, end: float, members: Sequence[Timeline], model: StepModel) -> list[Weight]:
    """Modelled joules of each member of one batch in a cut; see the module's docstring for the formula."""
    before = [member.output(start, model) for member in members]
    prompts = [member.prompt(start, end) if member.first > start else 0.0 for member in members]
    told = [_told(member, start, end, had, model) for member, had in zip(members, before, strict=True)]
    steps = _steps(end - start, [m.first <= start for m in members], told, prompts, before, members, model)
    energy, weighed = model.step_j, []
    for member, tokens, prompt, had in zip(members, told, prompts, before, strict=True):
        decodes = member.first <= start
        if tokens is None:  # its first token ends the prefill, then it gets one a step
            tokens = (steps if decodes else float(member.first == end)) * member.sequences
        read = tokens * (member.prompt_tokens + had + tokens / 2) if decodes else 0.0
        weighed.append(
            Weight(
                steps * energy.base / len(members),
                tokens * energy.per_sequence,
                prompt * energy.per_prompt_token,
                read * energy.per_context_token,
                prompt,
                tokens,
            )
        )
    return weighed


def _told(member: Timeline, start: float, end: float, had: float, model: StepModel) -> float | None:
    """Output tokens in the cut that were seen, or that a count says; None where nobody knows."""
    if member.seen is None and member.per_s is None:
        return None
    tokens = member.output(end, model) - had
    return tokens + member.sequences if member.seen is None and member.first == end else tokens


def _steps(
    seconds: float,
    decodes: Sequence[bool],
    told: Sequence[float | None],
    prompts: Sequence[float],
    outputs: Sequence[float],
    members: Sequence[Timeline],
    model: StepModel,
) -> float:
    """Steps in the cut: a sequence that decodes gets one token a step; where none is seen, as many as there is time for."""
    streams = [n / m.sequences for m, decoding, n in zip(members, decodes, told, strict=True) if decoding and n is not None]
    if streams:
        return sum(streams) / len(streams)  # one that saw a token late sees another early
    contexts = [m.prompt_tokens + had for m, decoding, had in zip(members, decodes, outputs, strict=True) if decoding]
    cost = model.step_s
    each = cost.base + cost.per_sequence * len(contexts) + cost.per_context_token * sum(contexts)
    # a prompt takes a step at the least, however long its tokens take
    at_least = max((p / m.prompt_tokens for p, m in zip(prompts, members, strict=True) if p > 0), default=0.0)
    return max((seconds - cost.per_prompt_token * sum(prompts)) / each, at_least)
