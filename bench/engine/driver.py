"""Drives the engine model by real time: takes requests in, wakes at each step's end, hands its tokens to their streams.

With a speed of X the engine lives X seconds a wall second, and spends the model's joules in them: seen from outside, it
is X times as fast and draws X times the power, idle power too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.engine.counter import Counter
from bench.engine.flight import Flight, Track
from bench.engine.tally import LARGEST_LAG, Lag, Tally
from policies.engine import Engine, Finished, Job, Step
from telemetry.cost import StepModel

log = logging.getLogger("paceline.engine")

REMEMBERED = 5_000  # finished requests whose true energy can be asked for


class Asleep(Exception):
    """The engine sleeps, or is about to: it takes nobody in."""


class Overloaded(Exception):
    """More sequences at once than the engine takes."""


@dataclass(slots=True)
class Driver:
    """The engine, its clock, and everybody who is in it.

    Attributes:
        model: what a step costs.
        speed: engine seconds in a wall second.
        max_concurrent: sequences at once; more are refused. None: the engine queues them all.
        clock: wall seconds. Not the loop's, which uvloop rounds to milliseconds.
    """

    model: StepModel
    speed: float = 1.0
    max_concurrent: int | None = None
    clock: Callable[[], float] = time.monotonic
    closed: bool = False  # nobody is taken in
    lag: Lag = field(default_factory=Lag)
    tally: Tally = field(default_factory=Tally)
    truth: OrderedDict[str, float] = field(default_factory=OrderedDict)  # joules net of idle, by request id
    engine: Engine = field(init=False)
    counter: Counter = field(init=False)
    _epoch: float = field(init=False)
    _tracks: dict[str, Track] = field(default_factory=dict)
    _streaming: dict[str, Track] = field(default_factory=dict)  # those that get a token at the next step's end
    _serial: int = 0
    _running: int = 0
    _stepped_at: float = 0.0
    _armed_for: float | None = None
    _alarm: asyncio.TimerHandle | None = None
    _warned: bool = False

    def __post_init__(self) -> None:
        self.engine = Engine(self.model)
        self.counter = Counter(self.engine)
        self._epoch = self.clock()

    def now(self) -> float:
        """Engine seconds since the start."""
        return (self.clock() - self._epoch) * self.speed

    @property
    def in_flight(self) -> int:
        """Sequences."""
        return len(self._tracks)

    @property
    def reserved_tokens(self) -> int:
        """What all sequences will fill of the cache when they end."""
        return sum(track.job.prompt_tokens + track.job.output_tokens for track in self._tracks.values())

    def submit(self, prompts: Sequence[int], output_tokens: int, *, id: str = "", streamed: bool = False) -> Flight:
        """Take in one request: a sequence for each number of prompt tokens.

        Raises:
            Asleep: see there.
            Overloaded: none of them was taken.
        """
        if self.closed:
            raise Asleep
        self.tally.requests += 1
        if self.max_concurrent is not None and len(self._tracks) + len(prompts) > self.max_concurrent:
            self.tally.overloaded += 1
            raise Overloaded
        now = self.catch_up()
        self._serial += 1
        flight = Flight(id or f"request-{self._serial}", now, streamed, self._leave)
        self.tally.prompt_tokens += sum(prompts)
        for prompt_tokens in prompts:
            track = flight.add(Job(f"{self._serial}.{len(flight.tracks)}", prompt_tokens, output_tokens))
            self._tracks[track.job.id] = track
            self.engine.submit(track.job, now)
        self._arm()
        return flight

    def catch_up(self) -> float:
        """Let everything happen that has happened by now; the instant it is."""
        now = self.now()
        for step in self.counter.advance(now):
            self._deliver(step)
        return now

    def cancel_all(self) -> None:
        """Whoever is in the engine is cut off."""
        for flight in {id(track.flight): track.flight for track in self._tracks.values()}.values():
            flight.cancel()

    def stop(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm, self._armed_for = None, None

    def _deliver(self, step: Step) -> None:
        self.tally.output_tokens += self._running + len(step.started)
        for track in self._streaming.values():
            track.flight.token(track.index)
        for id in step.started:
            self._start(self._tracks[id])
        for finished in step.ended:
            self._end(finished, step.at)
        self._stepped_at = step.at

    def _start(self, track: Track) -> None:
        track.began_at = max(self._stepped_at, track.flight.arrived_at + self.model.request_s)
        self._running += 1
        if track.flight.streamed:
            self._streaming[track.job.id] = track
            track.flight.token(track.index)

    def _end(self, finished: Finished, at: float) -> None:
        track = self._forget(finished.id)
        track.ended_at, track.energy_j = at, finished.energy_j
        track.flight.ended()

    def _forget(self, id: str) -> Track:
        track = self._tracks.pop(id)
        self._streaming.pop(id, None)
        self._running -= track.began_at is not None
        return track

    def _leave(self, flight: Flight) -> None:
        """The flight's one end: handed over, or cancelled."""
        if not flight.gone:
            self._finish(flight)
            return
        self.tally.dropped += 1
        now = self.catch_up()
        for track in flight.tracks:
            if track.job.id in self._tracks:
                self._forget(track.job.id)
                self.engine.cancel(track.job.id, now)
        self._arm()

    def _finish(self, flight: Flight) -> None:
        self.tally.succeeded += 1
        self.truth.pop(flight.id, None)
        self.truth[flight.id] = flight.energy_j
        if len(self.truth) > REMEMBERED:
            self.truth.popitem(last=False)
        self.lag.late_s += (self.now() - flight.ended_at) / self.speed
        self.lag.served_s += (flight.ended_at - flight.arrived_at) / self.speed
        if self.lag.void and not self._warned:
            self._warned = True
            log.warning(
                "the wire is %.1f %% late, more than %.0f %%: this run is void", self.lag.share * 100, LARGEST_LAG * 100
            )

    def _arm(self) -> None:
        """Wake at the end of the step under way."""
        at = self.engine.next_at
        if at == self._armed_for:
            return
        self.stop()
        if at is not None:
            self._sleep(at)

    def _sleep(self, at: float) -> None:
        self._armed_for = at
        wait_s = max((at - self.now()) / self.speed, 0.0)
        self._alarm = asyncio.get_running_loop().call_later(wait_s, self._wake)

    def _wake(self) -> None:
        self._alarm, self._armed_for = None, None  # it may ring a little early; then it is set again
        self.catch_up()
        self._arm()
