"""When a request was in which phase, and when its tokens came: seen in its stream, told by the engine, or estimated."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

from telemetry.cost import StepModel
from telemetry.ledger import Entry

Prefill = tuple[tuple[float, float, float], ...]  # pieces: from, to, and the prompt tokens computed evenly in between

# A first token that comes sooner after another than in so much of the time that its prompt takes is of the same step: engines
# hand out the tokens of a large step one after the other.
SAME_STEP = 0.6


class Origin(StrEnum):
    """How a request's timeline is known; the later ones are the weaker ones."""

    STREAMED = "streamed"  # its tokens were seen
    TOLD = "told"  # the engine told its timings with the answer
    MODELLED = "modelled"  # the step model's estimate


@dataclass(frozen=True, slots=True)
class Timeline:
    """One request as attribution sees it; monotonic seconds.

    Attributes:
        first: its first token; infinity while none is known. Until then it prefills.
        left: infinity while it runs.
        prompt_tokens: all of them; each is read at each step.
        prefill: how the uncached part of its prompt was computed, or is estimated to be.
        earlier_tokens: output tokens before those of `seen`.
        seen: instants of its tokens; None when it was not streamed.
        server: whose batch it is in.
        per_s: of one that was not streamed: tokens a second after its first; None while nobody told how many there are,
            so that it is taken to get one a step.
        blind: its phases are an estimate.
        sequences: how many answers it asked for, each of which gets a token a step.
        guessed: nobody has told how long its prompt is.
        queued: its prompt was computed beside others, or after or before them, one behind the other.
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
    per_s: float | None = None
    blind: bool = False
    sequences: int = 1
    guessed: bool = False
    queued: bool = False

    def output(self, at: float, model: StepModel) -> float:
        """Output tokens up to an instant; without a stream or a count, those of an unhindered one."""
        if self.seen is not None:
            return self.earlier_tokens + bisect_right(self.seen, at)
        per_s = self.per_s if self.per_s is not None else self.sequences / model.step_s.base
        return max(min(at, self.left) - self.first, 0.0) * per_s

    def prompt(self, start: float, end: float) -> float:
        """Prompt tokens computed between two instants. All pieces together never exceed the prompt."""
        return sum(
            tokens * max(min(end, until) - max(start, since), 0.0) / (until - since) for since, until, tokens in self.prefill
        )


@dataclass(slots=True)
class Step:
    """When an engine began with some prompts, when their first tokens come or came, and how many tokens they have in it.

    Attributes:
        queued: other prompts are in it, or waited for its end: whose tokens were computed when is a guess.
        seen: its end was seen, so it does not grow.
    """

    began: float
    first: float
    tokens: float = 0.0
    queued: bool = False
    seen: bool = False


Pieces = Sequence[tuple[Step, float]]  # the steps of one prompt, and its tokens in each


@dataclass(slots=True)
class Line:
    """The prompts of one server: engines compute them first come, first served, as many in one step as its budget holds."""

    model: StepModel
    latest: Step = field(default_factory=lambda: Step(-inf, -inf))
    latest_seen: Step = field(default_factory=lambda: Step(-inf, -inf))
    _left: list[float] = field(default_factory=list)  # of those that have passed, in order

    def seen(self, joined: float, first: float, tokens: float) -> Pieces:
        """The steps of a prompt whose first token was seen."""
        # a step that nobody saw, and that was guessed to end later, was not before it
        before = self.latest if self.latest.seen or self.latest.first < first else self.latest_seen
        ready = min(joined + self.model.request_s, (joined + first) / 2)
        if first <= before.first + SAME_STEP * self._takes_s(tokens):
            before.first = max(before.first, first)
            return self._within(before, ready, first, tokens)
        early = self._early(before, ready, tokens)
        waited = ready < before.first < first
        before.queued = before.queued or waited
        self.latest = self.latest_seen = Step(before.first if waited else ready, first, tokens - early, waited, seen=True)
        return [(before, early), (self.latest, tokens - early)] if early > 0 else [(self.latest, tokens)]

    def expected(self, joined: float, tokens: float) -> Pieces:
        """The steps of a prompt whose first token nobody has seen, or not yet; the last may grow when others come into it."""
        ready, latest = joined + self.model.request_s, self.latest
        if latest.seen and ready < latest.first and self._had_time_for(latest) >= tokens:
            return self._within(latest, ready, latest.first, tokens)
        if latest.seen or ready > latest.began:
            self._next(max(ready, latest.first), tokens)
        pieces = []
        while tokens > 0:
            part = min(tokens, self.model.max_step_tokens - self.latest.tokens)
            if part <= 0:
                self._next(self.latest.first, tokens)
                continue
            self.latest.queued = self.latest.queued or self.latest.tokens > 0
            self.latest.tokens += part
            self.latest.first += self.model.step_s.per_prompt_token * part
            pieces.append((self.latest, part))
            tokens -= part
        return pieces

    def _within(self, step: Step, ready: float, first: float, tokens: float) -> Pieces:
        """One more prompt of a step that was seen."""
        step.tokens += tokens
        step.queued = True
        began = max(ready, step.began)
        return [(Step(began if began < first else ready, first, queued=True), tokens)]

    def _takes_s(self, tokens: float) -> float:
        return self.model.step_s.base + self.model.step_s.per_prompt_token * tokens

    def _had_time_for(self, step: Step) -> float:
        """Prompt tokens beyond those that are known of, by how long a step took."""
        seconds = step.first - step.began - self.model.step_s.base
        return min(seconds / max(self.model.step_s.per_prompt_token, 1e-12), self.model.max_step_tokens) - step.tokens

    def _early(self, step: Step, ready: float, tokens: float) -> float:
        """How much of a prompt was computed with those before it, whose step had no room for all of it."""
        if ready > step.began or tokens <= self.model.max_step_tokens - step.tokens:
            return 0.0
        return max(min(self._had_time_for(step), tokens - 1), 0.0)

    def _next(self, began: float, tokens: float) -> None:
        decoding = len(self._left) - bisect_right(self._left, began)
        each = self.model.step_s.per_sequence + self.model.step_s.per_context_token * tokens  # as long as this one
        waited = began == self.latest.first
        self.latest.queued = self.latest.queued or waited
        self.latest = Step(began, began + self.model.step_s.base + each * decoding, queued=waited)

    def passes(self, left: float) -> None:
        insort(self._left, left)


@dataclass(frozen=True, slots=True)
class Done:
    """What of a prompt has been charged already, and up to when: that stays."""

    until: float = -inf
    tokens: float = 0.0


NOTHING = Done()


def timelines(entries: Iterable[Entry], model: StepModel, done: Mapping[str, Done]) -> list[Timeline]:
    """What is known of requests now; what is not is estimated by the step model.

    Args:
        entries: requests that have left to their servers, in that order.
        model: estimates how long prompts take.
        done: by id: what has been charged of prompts.
    """
    lines: dict[str, Line] = {}
    begun = [(entry, _pieces(entry, lines.setdefault(entry.server, Line(model)))) for entry in entries]
    return [_timeline(entry, model, done.get(entry.id, NOTHING), pieces) for entry, pieces in begun]


def _pieces(entry: Entry, line: Line) -> Pieces:
    assert entry.released_at is not None
    tokens = max(entry.prompt_tokens - entry.cached_tokens, 1)
    if entry.streamed and entry.first_token_at is not None:
        pieces = line.seen(entry.released_at, entry.first_token_at, tokens)
    else:
        pieces = line.expected(entry.released_at, tokens)
    line.passes(entry.ended_at if entry.ended_at is not None else inf)
    return pieces


def _timeline(entry: Entry, model: StepModel, done: Done, pieces: Pieces) -> Timeline:
    assert entry.released_at is not None
    left = entry.ended_at if entry.ended_at is not None else inf
    # what has been charged from its release on stays so
    joined = min(pieces[0][0].began, left) if done.until <= entry.released_at else entry.released_at
    estimated = pieces[-1][0].first
    if entry.streamed:
        first = entry.first_token_at if entry.first_token_at is not None else inf
    else:
        joined, first = _unseen(entry, joined, estimated, left)
    tokens = computed(entry, model, first - entry.released_at)
    return Timeline(
        id=entry.id,
        joined=joined,
        first=first,
        left=left,
        prompt_tokens=entry.prompt_tokens,
        prefill=_prefill(pieces, joined, first if first < inf else estimated, done, tokens),
        earlier_tokens=entry.settled_tokens,
        seen=[at for at, count in entry.tokens for _ in range(count)] if entry.streamed else None,
        server=entry.server,
        per_s=None if entry.streamed else _per_s(entry, first, left),
        blind=first == inf if entry.streamed else entry.timings is None,
        sequences=entry.sequences,
        guessed=entry.prompt_estimated,
        queued=any(step.queued for step, _ in pieces),
    )


def origin(entry: Entry) -> Origin:
    """How a request's timeline was known when it was settled: what was told too late was not."""
    if entry.streamed:
        return Origin.STREAMED
    return Origin.MODELLED if entry.timings is None or entry.energy.doubt.assumed_tokens > 0 else Origin.TOLD


def computed(entry: Entry, model: StepModel, seconds: float) -> float:
    """Prompt tokens that were computed, rather than found in a prefix cache.

    What the engine tells is believed. Where it tells nothing in time, its haste does: more prompt tokens than there was time
    for before the first token, within the model's band, cannot have been computed.
    """
    tokens: float = max(entry.prompt_tokens - entry.cached_tokens, 0)
    if not entry.streamed or entry.cached_tokens or seconds == inf or model.step_s.per_prompt_token <= 0:
        return tokens
    fastest_s = model.step_s.per_prompt_token / (1 + model.band)
    return min(tokens, max(seconds / fastest_s, 1.0))


def _unseen(entry: Entry, joined: float, estimated: float, left: float) -> tuple[float, float]:
    """When one that was not streamed was begun with, and when its first token came."""
    timings = entry.timings
    if timings is None or left == inf:
        return joined, min(estimated, left)
    assert entry.released_at is not None
    if timings.queue_s is not None:
        joined = min(entry.released_at + timings.queue_s, left)
    if timings.decode_s is not None:
        return joined, max(left - timings.decode_s, joined)
    if timings.prefill_s is not None:
        return joined, min(joined + timings.prefill_s, left)
    return joined, min(max(estimated, joined), left)


def _per_s(entry: Entry, first: float, left: float) -> float | None:
    if left == inf or entry.output_estimated:
        return None
    return max(entry.output_tokens - entry.sequences, 0) / max(left - first, 1e-6)


def _prefill(pieces: Pieces, joined: float, until: float, done: Done, tokens: float) -> Prefill:
    """Evenly in each step up to the first token. What was charged before more was known stays, and the rest comes after it."""
    charged = done.until > joined
    since = done.until if charged else joined
    rest = max(tokens - done.tokens, 0.0) if charged else tokens
    coming = [
        (max(step.began, since), min(step.first, until), part / max(step.first - step.began, 1e-9)) for step, part in pieces
    ]
    coming = [(begin, end, per_s * (end - begin)) for begin, end, per_s in coming if end > begin]
    whole = sum(part for _, _, part in coming)
    if whole > 0:
        later = [(begin, end, part * rest / whole) for begin, end, part in coming]
    else:
        later = [(since, max(until, since + 1e-9), rest)] if until > since or not charged else []
    return ((joined, done.until, done.tokens), *later) if charged else tuple(later)
