"""A continuous-batching engine sans I/O: jobs and instants go in, steps and joules come out.

Each step decodes one token of every running sequence and spends what is left of the step's token budget on waiting
prompts, first come first served, in chunks: how vLLM's scheduler and TGI's flash models work. `telemetry/cost.py` says
how long a step takes and what it costs. `simulate` runs this in simulated time; `bench` serves it over HTTP.

An instant is whole: what is submitted at the very instant at which a step starts is still in that step, so a step's
composition is settled only when time has moved past its start.

`advance` goes step by step, for whoever wants every token; `leap` skips the steps in which nobody starts or ends
(`policies/stretch.py`), which gives the same instants and joules to the last bit for a small part of the work. Both ways
share one state, so they stand in one file, though it is a long one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import chain, takewhile
from math import inf

from policies.stretch import Stretch
from telemetry.cost import StepModel


@dataclass(frozen=True, slots=True)
class Job:
    """One sequence: its lengths in tokens, the output's known in advance."""

    id: str
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A job that ended, and the joules (net of idle) that its steps' Shapley values add up to."""

    id: str
    energy_j: float


@dataclass(frozen=True, slots=True)
class Step:
    """One step's end. Every job started in an earlier step and not ended before this one got one token."""

    at: float
    started: tuple[str, ...]  # got their first token
    ended: tuple[Finished, ...]  # got their last token


@dataclass(slots=True)
class _Running:
    job: Job
    computed: int = 0  # prompt tokens computed so far
    energy_j: float = 0.0
    joined_step: int = 0  # decode steps done, and base shares summed, when it began to decode
    joined_base_j: float = 0.0
    cancelled: bool = False


@dataclass(slots=True)
class _Composed:
    """A step's composition: its end and energy, and each prompt's slice."""

    start: float
    end: float
    energy_j: float
    participants: int
    slices: list[tuple[_Running, int]]


@dataclass(slots=True)
class Engine:
    """The state of one engine; its clock moves only by `advance`."""

    model: StepModel
    clock: float = 0.0  # end of the last step, or when it was last seen idle
    steps: int = 0
    _energy_j: float = 0.0  # everything drawn up to `clock`
    _arriving: deque[tuple[float, _Running]] = field(default_factory=deque)
    _prompts: deque[_Running] = field(default_factory=deque)  # admitted to the batch, prompt not fully computed
    _jobs: dict[str, _Running] = field(default_factory=dict)
    _decoding: int = 0
    _context: int = 0  # tokens that the decoding jobs will read in the next step
    _base_j: float = 0.0  # sum over steps of base / participants
    _ends: list[tuple[int, int, _Running]] = field(default_factory=list)  # (step of the last token, tie-break, job)
    _order: int = 0
    _composed: _Composed | None = None
    _settled: bool = False  # the composition can change no more
    _leaving: list[_Running] = field(default_factory=list)  # cancelled while decoding; they go at the step's end
    _stretch: Stretch | None = None  # of the steps under way, while nobody starts, ends or leaves
    _rest: list[tuple[float, float]] = field(default_factory=list)  # from when on, how many watts without work; else idle power

    def submit(self, job: Job, now: float) -> None:
        """Take a job at `now`, which is not before anything advanced to.

        Raises:
            ValueError: the id is in use, or a length is not positive.
        """
        if job.id in self._jobs or job.prompt_tokens < 1 or job.output_tokens < 1:
            raise ValueError(f"job {job.id!r}: ids are unique and lengths positive")
        self._settle(now)
        running = _Running(job)
        self._jobs[job.id] = running
        self._arriving.append((now + self.model.request_s, running))
        self._recompose()

    def cancel(self, id: str, now: float) -> None:
        """Forget a job; one that decodes leaves the batch at the end of the step under way."""
        self._settle(now)
        running = self._jobs.pop(id, None)
        if running is None:
            return
        running.cancelled = True
        if running.computed >= running.job.prompt_tokens:
            self._leaving.append(running)
            if not self._settled:
                self._let_go()
        self._recompose()

    def sleep(self, now: float) -> float | None:
        """Fall asleep; when it will be. None: it cannot, or has work."""
        if self.model.sleep_power_w is None or self._jobs:
            return None
        self.advance(now)
        self._rest = [(now, self.model.idle_power_w), (now + self.model.sleep_s, self.model.sleep_power_w)]
        return now + self.model.sleep_s

    def wake(self, now: float) -> float:
        """Wake; when it can work again. Waking's joules are spread evenly over its time, or drawn at once."""
        self.advance(now)
        wake_s = self.model.wake_s
        if wake_s:
            self._rest = [(now, self.model.idle_power_w + self.model.wake_j / wake_s), (now + wake_s, self.model.idle_power_w)]
        else:
            self._rest = []
            self._energy_j += self.model.wake_j
        return now + wake_s

    def _rest_j(self, since: float, until: float) -> float:
        """Joules of a time without work."""
        if not self._rest:
            return self.model.idle_power_w * (until - since)
        ends = [at for at, _ in self._rest[1:]] + [inf]
        spans = ((watts, max(begins, since), min(end, until)) for (begins, watts), end in zip(self._rest, ends, strict=True))
        return sum(watts * max(end - begins, 0.0) for watts, begins, end in spans)

    @property
    def in_flight(self) -> int:
        return len(self._jobs)

    @property
    def waiting(self) -> int:
        """Jobs that are in no batch yet."""
        return sum(not running.cancelled for _, running in self._arriving)

    @property
    def next_at(self) -> float | None:
        """When the next step ends if nothing else is submitted; None when there is nothing to do."""
        composed = self._compose()
        return composed.end if composed else None

    @property
    def next_event_at(self) -> float | None:
        """An instant before which nobody starts or ends if nothing else is submitted; None when there is nothing to do.

        It is the end of a step or, when a job comes while others decode, of the step before that job's first.
        """
        composed = self._compose()
        if composed is None:
            return None
        stretch = self._quiet(composed)
        return composed.end if stretch is None else stretch.end(self._steps_to_event(stretch))

    def advance(self, until: float) -> list[Step]:
        """All steps that end at or before `until`, in order."""
        return self._run(until, every=True)

    def leap(self, until: float) -> list[Step]:
        """The same, but only the steps in which somebody started or ended."""
        return self._run(until, every=False)

    def _run(self, until: float, *, every: bool) -> list[Step]:
        done: list[Step] = []
        while True:
            composed = self._compose()
            if composed is None or composed.start >= until:
                break
            if not every and self._skip(composed, until):
                continue
            self._settled = True
            if composed.end > until:
                break
            step = self._finish(composed)
            if every or step.started or step.ended:
                done.append(step)
        if self._composed is None and until > self.clock:
            self._energy_j += self._rest_j(self.clock, until)
            self.clock = until
        return done

    def _quiet(self, composed: _Composed) -> Stretch | None:
        """The stretch that a step belongs to; None: somebody starts or leaves in it."""
        return None if composed.slices or self._leaving else self._stretch

    def _steps_to_event(self, stretch: Stretch) -> int:
        """So many of its steps until somebody's last token, or until somebody else may come in with the next."""
        while self._ends[0][2].cancelled:
            heappop(self._ends)
        steps = self._ends[0][0] - stretch.steps
        room = min(self.model.max_sequences, self.model.max_step_tokens) - self._decoding
        if room > 0 and self._arriving and self._arriving[0][0] < stretch.end(steps):
            steps = min(steps, stretch.steps_before(self._arriving[0][0]))
        return steps

    def _skip(self, composed: _Composed, until: float) -> bool:
        """Leap over whole steps in which nobody starts or ends; False when there is none."""
        stretch = self._quiet(composed)
        if stretch is None:
            return False
        done = self.steps - stretch.steps
        ahead = self._steps_to_event(stretch)
        ends = stretch.steps + ahead >= self._ends[0][0]  # that step is somebody's last
        steps = min(ahead - ends, stretch.steps_by(until)) - done
        if steps <= 0:
            return False
        self._decode(stretch, steps)
        self._composed, self._settled = None, False
        return True

    def _decode(self, stretch: Stretch, steps: int) -> None:
        """So many more steps of a stretch have been done."""
        self.steps += steps
        self._context += steps * self._decoding
        done = self.steps - stretch.steps
        self.clock, self._energy_j, self._base_j = stretch.end(done), stretch.energy_at(done), stretch.base_at(done)

    def energy_j(self, at: float) -> float:
        """Joules drawn from the start until `at`, idle power included; `at` is not before the last `advance`."""
        composed = self._compose()
        if composed is None or at <= composed.start:
            return self._energy_j + self._rest_j(self.clock, at)
        energy = self._energy_j + self._rest_j(self.clock, composed.start) + self.model.idle_power_w * (at - composed.start)
        return energy + composed.energy_j * min((at - composed.start) / (composed.end - composed.start), 1.0)

    def _settle(self, now: float) -> None:
        """A step that started before `now` takes in nobody else."""
        composed = self._compose()
        if composed is not None and composed.start < now:
            if composed.end <= now:
                raise ValueError(f"advance({now}) first: a step ended at {composed.end}")
            self._settled = True

    def _recompose(self) -> None:
        if not self._settled:
            self._composed = None

    def _compose(self) -> _Composed | None:
        """The step that is under way or comes next, as far as is known."""
        if self._composed is not None:
            return self._composed
        start = self._next_start()
        if start is None:
            return None
        budget = self.model.max_step_tokens - self._decoding
        slices = list(self._slices(start, budget)) if self._prompts or self._arriving else []
        if not slices:
            self._composed = self._compose_decoding(start)
            return self._composed
        prompt = sum(tokens for _, tokens in slices)
        sequences = self._decoding + sum(r.computed + tokens >= r.job.prompt_tokens for r, tokens in slices)
        seconds = self.model.step_s(sequences, prompt, self._context)
        energy = self.model.step_j(sequences, prompt, self._context)
        self._composed = _Composed(start, start + seconds, energy, self._decoding + len(slices), slices)
        return self._composed

    def _compose_decoding(self, start: float) -> _Composed:
        if self._stretch is None:
            self._stretch = Stretch(self.model, start, self.steps, self._energy_j, self._base_j, self._decoding, self._context)
        end = self._stretch.end(self.steps + 1 - self._stretch.steps)
        energy = self.model.step_j(self._decoding, 0, self._context)
        return _Composed(start, end, energy, self._decoding, [])

    def _next_start(self) -> float | None:
        while self._arriving and self._arriving[0][1].cancelled:
            self._arriving.popleft()
        while self._prompts and self._prompts[0].cancelled:
            self._prompts.popleft()
        if self._decoding or self._prompts:
            return self.clock
        if self._arriving:
            return max(self.clock, self._arriving[0][0])
        return None

    def _slices(self, start: float, budget: int) -> Iterator[tuple[_Running, int]]:
        """Each waiting prompt's part of the step, first come first served."""
        seats = self.model.max_sequences - self._decoding
        arrived = takewhile(lambda arriving: arriving[0] <= start, self._arriving)
        for running in chain(self._prompts, (running for _, running in arrived)):
            if budget <= 0 or seats <= 0:
                return
            if running.cancelled:
                continue
            tokens = min(running.job.prompt_tokens - running.computed, budget)
            budget -= tokens
            seats -= 1
            yield running, tokens

    def _finish(self, step: _Composed) -> Step:
        share = self.model.step_j.base / step.participants
        if self._stretch is not None and not step.slices:
            self._decode(self._stretch, 1)
        else:
            self._energy_j += self._rest_j(self.clock, step.start) + self.model.idle_power_w * (step.end - step.start)
            self._energy_j += step.energy_j
            self._rest = []
            self.clock = step.end
            self.steps += 1
            self._base_j += share
            self._context += self._decoding  # each decoding job's context grew by the token it got
        ended = [self._end(running) for running in self._due() if not running.cancelled]
        started = []
        for running, tokens in step.slices:
            running.computed += tokens
            running.energy_j += share + self.model.step_j.per_prompt_token * tokens
            if running.computed >= running.job.prompt_tokens and not running.cancelled:
                started.append(running.job.id)
                ended += self._begin_decoding(running)
        if step.slices:
            self._advance_prompts({id(running) for running, _ in step.slices})
        if step.slices or ended:
            self._stretch = None
        self._composed, self._settled = None, False
        self._let_go()
        return Step(step.end, tuple(started), tuple(ended))

    def _due(self) -> Iterator[_Running]:
        while self._ends and self._ends[0][0] <= self.steps:
            yield heappop(self._ends)[2]

    def _begin_decoding(self, running: _Running) -> list[Finished]:
        """The prompt is computed and the first token is out; a job of one token ends with it."""
        job = running.job
        running.energy_j += self.model.step_j.per_sequence
        if job.output_tokens == 1:
            del self._jobs[job.id]
            return [Finished(job.id, running.energy_j)]
        running.joined_step, running.joined_base_j = self.steps, self._base_j
        self._decoding += 1
        self._context += job.prompt_tokens + 1
        self._order += 1
        heappush(self._ends, (self.steps + job.output_tokens - 1, self._order, running))
        return []

    def _advance_prompts(self, sliced: set[int]) -> None:
        """Prompts that had a slice are in the batch; those that are done leave the queue of prompts."""
        while self._arriving and (id(self._arriving[0][1]) in sliced or self._arriving[0][1].cancelled):
            self._prompts.append(self._arriving.popleft()[1])
        self._prompts = deque(r for r in self._prompts if r.computed < r.job.prompt_tokens and not r.cancelled)

    def _end(self, running: _Running) -> Finished:
        del self._jobs[running.job.id]
        return Finished(running.job.id, self._stop_decoding(running))

    def _stop_decoding(self, running: _Running) -> float:
        steps = self.steps - running.joined_step
        first = running.job.prompt_tokens + 1
        self._decoding -= 1
        self._context -= first + steps
        running.energy_j += (
            self._base_j
            - running.joined_base_j
            + self.model.step_j.per_sequence * steps
            + self.model.step_j.per_context_token * (steps * first + steps * (steps - 1) / 2)
        )
        return running.energy_j

    def _let_go(self) -> None:
        for running in self._leaving:
            self._stop_decoding(running)
            self._stretch = None
        self._leaving.clear()
