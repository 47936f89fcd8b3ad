"""Makes one run against a server, and counts what was done and drawn in its window.

A batch is watched through one sequence: it is sent after the others and asked for fewer tokens, so from its tenth part to
its end all decode together, and every token of it is one step of the engine (unless the engine speculates). The others are
not streamed, so that neither side spends its time on events.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import ceil

from bench.calibration.asking import Asker, NotAnswered, Told
from bench.calibration.outcome import Outcome
from bench.calibration.plan import FEWEST_PROMPTS, LEAD_S, LOOPS, REST, SHORT_TOKENS, SKIPPED, Pace, Run
from bench.calibration.window import NoWindow, Progress, Span, work
from telemetry.monitor import Monitor

PILOT_TOKENS, PILOT_PROMPT = 48, 512


@dataclass(slots=True)
class Bench:
    """A server and the meter of its devices."""

    asker: Asker
    monitor: Monitor
    pace: Pace
    max_step_tokens: int

    async def make(self, run: Run) -> Outcome:
        """One run; whatever the server does ends in the outcome."""
        outcome = Outcome()
        self.monitor.intervals()  # what was before is nothing to us
        try:
            makers = {"idle": self._idle, "decode": self._decode, "prefill": self._prefill, "mixed": self._mixed}
            span, done = await makers[run.kind](run, outcome)
            seen = self.monitor.intervals()
            outcome.work = work(run.id, span, seen, done)
            for one in seen:
                outcome.source = one.source.weaker(outcome.source)
        except NotAnswered as error:
            outcome.note(str(error))
            outcome.final = error.refused
        except NoWindow as error:
            outcome.note(f"nothing counted: {error}")
            outcome.final = not self.monitor.lost
        return outcome

    async def _idle(self, run: Run, outcome: Outcome) -> tuple[Span, list[Progress]]:
        await asyncio.sleep(REST * self.pace.window_s)
        start_s = time.monotonic()
        await asyncio.sleep(1.15 * self.pace.window_s)
        return Span(start_s, time.monotonic()), []

    async def _decode(self, run: Run, outcome: Outcome) -> tuple[Span, list[Progress]]:
        async with self._others(run, outcome) as ended:
            watched = await self.asker.stream(self._watched(run))
        return self._batch(run, outcome, watched, ended)

    async def _mixed(self, run: Run, outcome: Outcome) -> tuple[Span, list[Progress]]:
        """Prompts of one token each beside a batch; their steps are the batch's own."""
        prompts, over = Progress(), asyncio.Event()
        ready = [self._bodies(run) for _ in range(LOOPS)]
        async with self._others(run, outcome) as ended, asyncio.TaskGroup() as group:
            watching = group.create_task(self.asker.stream(self._watched(run)))
            for bodies in ready:
                group.create_task(self._prompts(run, bodies, prompts, outcome, over.is_set))
            try:
                watched = await watching
            finally:
                over.set()
        span, done = self._batch(run, outcome, watched, ended)
        return span, [*done, prompts]

    async def _prefill(self, run: Run, outcome: Outcome) -> tuple[Span, list[Progress]]:
        """One prompt after the other, so that each pays for a whole step, and the engine waits for the next request."""
        prompts, ready, started_s = Progress(), self._bodies(run), time.monotonic()
        ends_s = started_s + 1.15 * self.pace.window_s
        await self._prompts(run, ready, prompts, outcome, lambda: len(prompts) > FEWEST_PROMPTS and time.monotonic() > ends_s)
        return Span(*prompts.between(2)), [prompts]

    def _watched(self, run: Run) -> bytes:
        return self.asker.body(run.prompt_tokens, self.pace.output_tokens(run), stream=True)

    @asynccontextmanager
    async def _others(self, run: Run, outcome: Outcome) -> AsyncIterator[list[Told]]:
        """All sequences of a batch but the watched one; they may end after it."""
        ended: list[Told] = []
        asked = self.pace.longer_tokens(run)
        bodies = [self.asker.body(run.prompt_tokens, asked) for _ in range(run.batch - 1)]

        async def one(body: bytes) -> None:
            ended.append(await self.asker.whole(body))

        try:
            async with asyncio.TaskGroup() as group:
                for body in bodies:
                    group.create_task(one(body))
                await asyncio.sleep(LEAD_S)
                yield ended
        except BaseExceptionGroup as errors:
            unanswered, others = errors.split(NotAnswered)
            if unanswered is None or others is not None:
                raise
            raise _first(unanswered) from errors
        outcome.lengths("outputs", asked, [told.usage.output_tokens for told in ended])
        outcome.lengths("prompts", run.prompt_tokens, [told.usage.prompt_tokens for told in ended])

    def _batch(self, run: Run, outcome: Outcome, watched: Told, ended: Sequence[Told]) -> tuple[Span, list[Progress]]:
        asked, tokens = self.pace.output_tokens(run), watched.tokens
        total = watched.usage.output_tokens or tokens[-1][1]
        outcome.lengths("the watched output", asked, [total])
        outcome.cached(watched.usage)
        scale = total / tokens[-1][1]  # an engine may put several tokens into one event without saying how many
        if scale != 1:
            outcome.note(f"{tokens[-1][1]} events brought {total} tokens")
        prompt_tokens = watched.usage.prompt_tokens or run.prompt_tokens
        steps = Progress()
        for at_s, seen in tokens:
            k = seen * scale
            # in the step that makes its token k + 1, a sequence reads its prompt and k tokens
            steps.add(at_s, (k, k * run.batch, 0.0, run.batch * (prompt_tokens * k + (k * k - k) / 2), 0.0))
        begin = next(at_s for at_s, seen in tokens if seen * scale >= SKIPPED * total)
        end = min([watched.ended_at_s, *(told.ended_at_s for told in ended)])
        if end < watched.ended_at_s:
            outcome.note("some of the batch ended before the watched one, and its window there")
        if end <= begin:
            raise NoWindow(f"the server never had {run.batch} sequences of {run.prompt_tokens} tokens at once")
        return Span(begin, end), [steps]

    def _bodies(self, run: Run) -> list[bytes]:
        """For one client; made before they are needed, since a long one takes milliseconds."""
        tokens = run.prompt_tokens if run.kind == "prefill" else run.beside_tokens
        return [self.asker.body(tokens, 1) for _ in range(self.pace.prompts(run))]

    async def _prompts(self, run: Run, ready: list[bytes], done: Progress, outcome: Outcome, over: Callable[[], bool]) -> None:
        """Sends prompts one after the other; beside a batch they are in its steps, and alone they make their own."""
        alone = run.kind == "prefill"
        tokens = run.prompt_tokens if alone else run.beside_tokens
        steps = ceil(tokens / self.max_step_tokens) if alone else 0
        told: list[int | None] = []
        if not done:
            done.add(time.monotonic(), done.last)
        while not over():
            answer = await self.asker.whole(ready.pop() if ready else self.asker.body(tokens, 1))
            told.append(answer.usage.prompt_tokens)
            computed = (answer.usage.prompt_tokens or tokens) - (answer.usage.cached_tokens or 0)
            before = done.last
            done.add(answer.ended_at_s, (before[0] + steps, before[1] + 1, before[2] + computed, before[3], before[4] + alone))
            outcome.cached(answer.usage)
        outcome.lengths("prompts", tokens, told)


def _first(errors: BaseExceptionGroup[NotAnswered]) -> NotAnswered:
    """One error of a group that may hold groups."""
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


async def pilot(asker: Asker) -> tuple[float, float]:
    """Seconds of a step of one sequence, and of a prompt of `PILOT_PROMPT` tokens, after one of each to warm up.

    Raises:
        NotAnswered: the server does not serve.
    """
    for _ in range(2):
        told = await asker.stream(asker.body(SHORT_TOKENS, PILOT_TOKENS, stream=True))
        body, began_s = asker.body(PILOT_PROMPT, 1), time.monotonic()
        prompt_s = (await asker.whole(body)).ended_at_s - began_s
    (first_s, first), (last_s, last) = told.tokens[0], told.tokens[-1]
    if last - first < 4:
        raise NotAnswered(f"asked for {PILOT_TOKENS} tokens, the server made {last}: too few to see its steps")
    return (last_s - first_s) / (last - first), prompt_s
