"""Work that may wait fills what interactive traffic leaves free, at its expense only within a bound.

While somebody interactive is in flight the engine runs anyway, and one more sequence costs joules only for itself (0.02 J a
step against a base of 2.4, on an H200): flex and batch *ride along*. What that costs the others is time a token, so they ride
only as far as the step model says that it rises by at most `slowdown` over what it would be without them. Half of that is for
their decoding,

    sum over deferrables in flight of (per_sequence + per_context_token * context)  <=  slowdown/2 * step of the others alone,

and half for their prompts, which lengthen single steps: after prompts of P seconds were let go, none follows for
P / (slowdown/2). One release has at most `prompt_tokens`; a longer prompt waits for quiet. Both bounds are of the mean token.

Nobody rides who would run on by himself after the others have ended, since then the base is his to pay: with one interactive
request in flight only those who end about when it does ride, and they leave once its prompt is computed. With more in flight,
others will come.

In *quiet*, when nobody interactive is in flight, they run for themselves and should be many: they wait until one of them must
leave, or are as many as may run at all, then all leave, and those who come while the first one runs, as in Batch+
(`policies/span.py`). As many as may run is here what one interactive request, which may come any moment, could bear: the whole
of `slowdown`, for their prompts are in nobody's way. It also limits the saving, since so many share a base: a burst of a
thousand costs fewer joules at once, and then first tokens wait for ten seconds (simulated).

With several servers the bound is that of the fullest, for who goes where is the placement's choice. Without a step model,
so many `sequences` of them are in flight at most. Nobody rides for whom there is no slot: whoever has left his hold counts in
no bound until he is in flight, so at full servers all would leave it. A request whose deadline has come leaves, whatever that
costs: where more background work comes than the bound lets pass, that is what happens to the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from math import inf, nextafter

from policies.base import Decision, InFlight, Policy, Queue, ServerState, View, Waiting
from policies.part import DEFERRABLE, PROMPT, Part, ask, sooner
from policies.span import Span
from telemetry.cost import StepModel

MANY = 2  # interactive requests in flight, of which others will probably come before the last has ended
RUN_ON = 1.25  # a run may be so many times as long as its company's
LOOKED_AT = 256  # of those who wait, the oldest, when it is asked who fits


@dataclass(frozen=True, slots=True)
class Remembered:
    """The inner policy's memory, who set off a group in quiet, and until when prompts have to pause."""

    inner: object = None
    flag: str | None = None
    pause_until: float = -inf

    def pausing(self, until: float) -> Remembered:
        return replace(self, pause_until=max(self.pause_until, until))


@dataclass(frozen=True, slots=True)
class Valley:
    """Priority and interactive requests leave by another policy; flex and batch ride along with them, or wait for quiet.

    Attributes:
        policy: for priority and interactive requests.
        slowdown: how much longer the others' tokens may take for it, relative: 0.1 is a tenth.
        prompt_tokens: of flex and batch, let go at once and not computed yet, at most.
        sequences: of flex and batch in flight, at most, when there is no step model.
    """

    policy: Policy = field(default_factory=Span)
    slowdown: float = 0.1
    prompt_tokens: int = 1024
    sequences: int = 8

    def __post_init__(self) -> None:
        if not 0 < self.slowdown < inf:
            raise ValueError("slowdown must be greater than 0, and finite")
        if self.prompt_tokens < 1:
            raise ValueError("prompt_tokens must be at least 1")
        if self.sequences < 1:
            raise ValueError("sequences must be at least 1")

    def decide(self, view: View, memory: object) -> Decision:
        known = memory if isinstance(memory, Remembered) else Remembered()
        talk = Part(view.waiting, PROMPT)
        others = ask(self.policy, view, talk, known.inner)
        waiting = Part(view.waiting, DEFERRABLE)
        if not len(waiting):
            return Decision(others.release, others.wake_at, replace(known, inner=others.memory))
        talking = [flight for flight in view.in_flight.values() if flight.waiting.tier in PROMPT]
        if others.release and view.model is not None and len(talking) < MANY:  # whose prompts go first
            known = known.pausing(view.now + view.model.first_token_s(talk.prompt_tokens))
        leaving, known = self._leaving(view, waiting, talking, known, quiet=not talking and not others.release)
        wake_at = known.pause_until if known.pause_until > view.now else None
        return Decision([*others.release, *leaving], sooner(others.wake_at, wake_at), replace(known, inner=others.memory))

    def _leaving(
        self, view: View, waiting: Queue, talking: Sequence[InFlight], known: Remembered, *, quiet: bool
    ) -> tuple[Sequence[str], Remembered]:
        """Who of flex and batch leaves, and what to remember of it."""
        due = sorted(waiting.due_before(nextafter(view.now, inf)), key=lambda one: (one.deadline, one.arrived_at, one.id))
        longest_s = inf if quiet else company_s(talking, view)
        paused = view.now < known.pause_until
        along, full = ([], False) if paused else self._fitting(view, due, longest_s, quiet=quiet)
        flag = known.flag if known.flag in view.in_flight else None
        if quiet and flag is None:
            along = along if due or full else []
            flag = next((one.id for one in (*due, *along)), None)
        leaving = {one.id: one for one in (*due, *along)}
        pause_s = self._pause_s(leaving.values(), view.model, quiet=quiet)
        return list(leaving), replace(known.pausing(view.now + pause_s), flag=flag)

    def _fitting(self, view: View, due: Sequence[Waiting], longest_s: float, *, quiet: bool) -> tuple[list[Waiting], bool]:
        """Who may leave besides those who must, and whether there was no room for one more."""
        left = self._left(view, self.slowdown if quiet else self.slowdown / 2) - sum(_needs(one, view.model) for one in due)
        prompt_tokens = self.prompt_tokens - sum(one.prompt_tokens for one in due)
        slots = _slots(view) - sum(one.sequences for one in due)
        ids, fitting, full = {one.id for one in due}, list[Waiting](), False
        for one in islice(chain.from_iterable(view.waiting.of(tier) for tier in DEFERRABLE), LOOKED_AT):
            if left <= 0 or slots <= 0:
                return fitting, True
            if one.id in ids or (view.model is not None and alone_s(one, view.model) > longest_s):
                continue
            alone = quiet and not fitting and not due  # however long its prompt is
            if _needs(one, view.model) > left:
                full = True
            elif one.prompt_tokens <= prompt_tokens or alone:
                fitting.append(one)
                left -= _needs(one, view.model)
                prompt_tokens -= one.prompt_tokens
                slots -= one.sequences
        return fitting, full

    def _left(self, view: View, share: float) -> float:
        """What flex and batch may still take, of the fullest server: seconds of each step, or sequences without a model."""
        names = [server.name for server in view.servers if server.healthy and server.state is ServerState.AWAKE]
        loads = {name: _Load() for name in names}
        for flight in view.in_flight.values():
            loads.setdefault(flight.server, _Load()).add(flight.waiting, view.model)
        if view.model is None:
            return self.sequences - sum(load.taken for load in loads.values())
        return min((load.left_s(view.model, share) for load in loads.values()), default=0.0)

    def _pause_s(self, leaving: Iterable[Waiting], model: StepModel | None, *, quiet: bool) -> float:
        """For how long no prompt shall follow those of `leaving`."""
        prompts_s = sum(one.prompt_tokens for one in leaving) * (model.step_s.per_prompt_token if model else 0.0)
        return prompts_s if quiet else prompts_s / (self.slowdown / 2)


@dataclass(slots=True)
class _Load:
    """What is in flight at a server: sequences and context of the others, and what flex and batch take."""

    sequences: int = 0
    context_tokens: int = 0
    taken: float = 0.0

    def add(self, waiting: Waiting, model: StepModel | None) -> None:
        if waiting.tier in DEFERRABLE:
            self.taken += _needs(waiting, model)
        else:
            self.sequences += waiting.sequences
            self.context_tokens += waiting.sequences * waiting.prompt_tokens

    def left_s(self, model: StepModel, share: float) -> float:
        return share * model.step_s(max(self.sequences, 1), 0, self.context_tokens) - self.taken


def _slots(view: View) -> float:
    """Slots that are free and nobody's."""
    return sum(server.free for server in view.servers) - view.ready_sequences


def _needs(waiting: Waiting, model: StepModel | None) -> float:
    """Seconds that a request's decoding adds to each step, its context as long as it will be; sequences without a model."""
    if model is None:
        return waiting.sequences
    context_tokens = waiting.prompt_tokens + waiting.output_tokens
    return waiting.sequences * (model.step_s.per_sequence + model.step_s.per_context_token * context_tokens)


def company_s(talking: Sequence[InFlight], view: View) -> float:
    """How long a request that leaves now may run, lest it runs on by itself; infinite where that is not known, or unlikely."""
    if view.model is None or len(talking) >= MANY:
        return inf
    ends = [flight.released_at + alone_s(flight.waiting, view.model) for flight in talking]
    return RUN_ON * (max(ends, default=view.now) - view.now)


def alone_s(waiting: Waiting, model: StepModel) -> float:
    return model.alone_s(waiting.prompt_tokens, round(waiting.output_tokens))
