"""Seeded traffic on an engine whose every joule is known: what each request got and when, and what it really used."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop
from math import inf
from random import Random

from bench.arrivals import Load, Planned
from policies.engine import Engine, Job, Step
from telemetry.cost import StepModel

IN_BURST_S = 0.015  # mean distance of two requests of one burst


@dataclass(frozen=True, slots=True)
class Shape:
    """Lengths as specs of `bench/draws.py`: means and deviations are those of Azure's LLM inference traces of 2023."""

    prompt_tokens: str
    output_tokens: str
    longest_prompt: int


SHAPES: Mapping[str, Shape] = {
    "chat": Shape("lognormal:1155:0.99", "lognormal:211:0.86", 14_000),
    "code": Shape("lognormal:2048:1.36", "lognormal:28:0.85", 7_437),
}


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests of one shape at one rate.

    Attributes:
        burst: requests that come together, in the mean; 1 is Poisson.
        cancelled: the share of clients that mean to leave before the end.
    """

    shape: str
    rate: float
    duration_s: float
    burst: float = 1.0
    cancelled: float = 0.05


@dataclass(slots=True)
class Served:
    """One request as the engine served it.

    Attributes:
        token_at: ends of the steps that gave it a token.
        used_j: what its steps' Shapley values add up to; the truth.
    """

    job: Job
    submitted_at: float
    token_at: array[float] = field(default_factory=lambda: array("d"))
    ended_at: float = inf
    cancelled: bool = False
    used_j: float = 0.0


@dataclass(frozen=True, slots=True)
class Run:
    """All requests, and the engine's cumulative joules, which grow evenly between the instants that are kept."""

    served: list[Served]
    at_s: array[float]
    energy_j: array[float]

    @property
    def ended_at(self) -> float:
        return self.at_s[-1]

    @property
    def mean_batch(self) -> float:
        """Requests in flight, in the mean over the time in which there were any, by and large."""
        first = min(one.submitted_at for one in self.served)
        return sum(one.ended_at - one.submitted_at for one in self.served) / (self.ended_at - first)

    def counted_j(self, at: float, idle_power_w: float) -> float:
        """What a perfect counter would show."""
        before = bisect_right(self.at_s, at) - 1
        if before < 0 or before + 1 == len(self.at_s):
            edge = max(before, 0)
            return self.energy_j[edge] + idle_power_w * (at - self.at_s[edge])
        start, end = self.at_s[before], self.at_s[before + 1]
        low, high = self.energy_j[before], self.energy_j[before + 1]
        return low + (high - low) * (at - start) / (end - start)


@dataclass
class TellingEngine(Engine):
    """An engine that also tells what cancelled jobs have used, which nobody else asks for."""

    used_by_cancelled: dict[str, Callable[[], float]] = field(default_factory=dict)

    def cancel(self, id: str, now: float) -> None:
        running = self._jobs.get(id)
        super().cancel(id, now)
        if running is not None:
            self.used_by_cancelled[id] = lambda: running.energy_j


def serve(traffic: Traffic, model: StepModel, seed: int) -> Run:
    """Serve it all, and keep what happened."""
    return _Serving(traffic, seed, TellingEngine(model)).run()


@dataclass(slots=True)
class _Serving:
    traffic: Traffic
    seed: int
    engine: TellingEngine
    events: list[tuple[float, int, Callable[[float], None]]] = field(default_factory=list)
    served: dict[str, Served] = field(default_factory=dict)
    decoding: dict[str, Served] = field(default_factory=dict)

    def run(self) -> Run:
        for number, planned in enumerate(plan(self.traffic, self.seed)):
            self._expect(planned, number)
        heapify(self.events)
        at_s, energy_j = array("d", [0.0]), array("d", [0.0])
        while self.events or self.engine.next_at is not None:
            step_at = self.engine.next_at
            now = min(self.events[0][0] if self.events else inf, inf if step_at is None else step_at)
            for step in self.engine.advance(now):
                self._see(step)
            while self.events and self.events[0][0] <= now:
                heappop(self.events)[2](now)
            if now > at_s[-1]:
                at_s.append(now)
                energy_j.append(self.engine.energy_j(now))
        for id, used_j in self.engine.used_by_cancelled.items():
            self.served[id].used_j = used_j()
        return Run(list(self.served.values()), at_s, energy_j)

    def _expect(self, planned: Planned, number: int) -> None:
        job = Job(f"r{number}", planned.prompt_tokens, planned.output_tokens)
        random = Random(f"{self.seed}/leave/{number}")
        self.events.append((planned.at_s, 3 * number, lambda now: self._submit(job, now)))
        # power rises when the engine has taken the request in, which must be an instant that is kept
        self.events.append((planned.at_s + self.engine.model.request_s, 3 * number + 1, lambda now: None))
        if random.random() < self.traffic.cancelled:
            leaves_at = planned.at_s + random.random() * self.engine.model.alone_s(job.prompt_tokens, job.output_tokens)
            self.events.append((leaves_at, 3 * number + 2, lambda now: self._cancel(job.id, now)))

    def _submit(self, job: Job, now: float) -> None:
        self.served[job.id] = Served(job, now)
        self.engine.submit(job, now)

    def _cancel(self, id: str, now: float) -> None:
        if self.served[id].ended_at == inf:
            self.engine.cancel(id, now)
            self.decoding.pop(id, None)
            self.served[id].ended_at, self.served[id].cancelled = now, True

    def _see(self, step: Step) -> None:
        self.decoding.update((id, self.served[id]) for id in step.started)
        for one in self.decoding.values():
            one.token_at.append(step.at)
        for finished in step.ended:
            one = self.decoding.pop(finished.id)
            one.ended_at, one.used_j = step.at, finished.energy_j


def plan(traffic: Traffic, seed: int) -> list[Planned]:
    """Each request's instant and lengths."""
    shape = SHAPES[traffic.shape]
    load = Load(
        rate=traffic.rate,
        duration_s=traffic.duration_s,
        prompt_tokens=shape.prompt_tokens,
        output_tokens=shape.output_tokens,
        seed=seed,
    )
    planned = load.plan()
    instants = _bursts([one.at_s for one in planned], traffic.burst, Random(f"{seed}/bursts"))
    return [
        Planned(at_s, min(one.prompt_tokens, shape.longest_prompt), one.output_tokens)
        for at_s, one in zip(instants, planned, strict=True)
    ]


def _bursts(instants: list[float], mean: float, random: Random) -> Iterator[float]:
    """The same number of instants at the same rate, moved together; lengths of bursts are geometric."""
    at = -inf
    for instant in instants:
        at = instant if random.random() < 1 / mean else max(at, 0.0) + random.expovariate(1 / IN_BURST_S)
        yield at
