"""The thread in which shadows run: off the event loop, never more than its share of a core, and off for good once it fails.

Python runs one thread at a time, so a thread that computes makes the event loop wait. This one computes for a millisecond at
a time and then sleeps, so that the loop waits for a millisecond at most, and seldom.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

from policies.base import Action
from policies.lived import AS_RUN, STRAIGHT, Lived, Tended, Totals
from policies.shadow import Episode
from policies.simulate import Served
from policies.strategy import Strategy
from telemetry.cost import StepModel
from telemetry.tally import Distribution

log = logging.getLogger("paceline.shadow")

SLICE_S = 0.001
MOST_OPEN = 100_000  # requests of one pool that are kept for what is still to come


@dataclass(frozen=True, slots=True)
class Batch:
    """What became known of one pool since the last look.

    Attributes:
        servers: that are in use, and their slots. When these, or strategies, change, all rooms begin anew.
        until: nobody comes or leaves before it who is not told now, or was before.
        afresh: something was left out, so all rooms begin anew.
        asleep: servers that slept before this batch.
        wall_offset_s: what to add for seconds since the epoch.
    """

    pool: str
    servers: Mapping[str, int | None]
    strategies: Mapping[str, Strategy]
    in_force: str
    lived: Sequence[Lived]
    tended: Sequence[Tended]
    until: float
    wall_offset_s: float
    afresh: bool = False
    asleep: Set[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Compared:
    """What is known so far; never changed, so that any thread may read it."""

    until: float = 0.0  # monotonic seconds
    strategies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    saved_by: Mapping[str, float] = field(default_factory=dict)
    episodes: int = 0
    left_out: int = 0


@dataclass(slots=True)
class Comparing:
    """Runs batches in order.

    Attributes:
        share: most of one core.
        waits: where a strategy's waits are counted; asked for in the loop's thread, before its first batch.
        on_decision: told the strategy and each request that leaves with it.
        compared: what is known so far.
        fault: why it has ended; empty while it works.
    """

    model: StepModel
    share: float
    on_decision: Callable[[str, Served, float], None] | None = None
    waits: dict[str, Distribution] = field(default_factory=dict)
    compared: Compared = field(default_factory=Compared)
    fault: str = ""
    busy: bool = False
    worked_s: float = 0.0
    _batches: SimpleQueue[Sequence[Batch] | None] = field(default_factory=SimpleQueue)
    _episodes: dict[str, Episode] = field(default_factory=dict)
    _described: dict[str, str] = field(default_factory=dict)
    _totals: dict[str, Totals] = field(default_factory=dict)
    _thread: Thread | None = None
    _closing: Event = field(default_factory=Event)
    _slice_began: float = 0.0
    _begun: int = 0
    _left_out: int = 0

    def put(self, batches: Sequence[Batch]) -> None:
        """Compare; the thread is started with the first. Not while it is busy."""
        self.busy = True
        if self._thread is None:
            # a daemon: somebody's policy that never answers shall not keep the process
            self._thread = Thread(target=self._run, name="paceline-shadow", daemon=True)
            self._thread.start()
        self._batches.put(batches)

    def close(self) -> None:
        """Stop, in the middle of a batch if need be. It may block for as long as one decision takes."""
        self._closing.set()
        if self._thread is not None:
            self._batches.put(None)
            self._thread.join(timeout=1.0)

    def failed(self, error: BaseException) -> None:
        """Off until the next start."""
        if not self.fault:
            self.fault = f"{type(error).__name__}: {error}"
            log.error("shadows have failed and are off; requests are not touched by that", exc_info=error)

    def _run(self) -> None:
        try:
            while (batches := self._batches.get()) is not None and not self._closing.is_set():
                self._slice_began = time.thread_time()
                for batch in batches:
                    self._compare(batch)
                for gone in set(self._episodes) - {batch.pool for batch in batches}:
                    del self._episodes[gone]
                self._publish(max(batch.until for batch in batches))
                self._breathe(at_once=True)
                self.busy = False
        except _Closing:
            pass
        except BaseException as error:  # whatever it is: shadows may fail, requests may not
            self.failed(error)
        self._episodes.clear()

    def _compare(self, batch: Batch) -> None:
        episode = self._episodes.get(batch.pool)
        if episode is None or batch.afresh or not _same(episode, batch):
            episode = self._begin(batch, episode)
        episode.in_force = batch.in_force
        episode.feed(batch.lived, batch.tended)
        for _ in episode.advance(max(batch.until, episode.now)):
            self._breathe()
        if episode.open > MOST_OPEN:
            self._left_out += episode.unfinished
            del self._episodes[batch.pool]

    def _begin(self, batch: Batch, former: Episode | None) -> Episode:
        """Rooms without anybody. Who was in the former ones is left out: they end nowhere."""
        self._left_out += former.unfinished if former is not None else 0
        self._begun += 1
        for name in (STRAIGHT, AS_RUN):
            self._totals.setdefault(name, Totals())
        for name, strategy in batch.strategies.items():
            if self._described.get(name) != (described := str(strategy.describe())):
                self._described[name], self._totals[name] = described, Totals()
        for name in set(self._totals) - {STRAIGHT, AS_RUN, *batch.strategies}:
            del self._totals[name]
        arrivals = [lived.waiting.arrived_at for lived in batch.lived]
        began = former.now if former is not None else min([*arrivals, batch.until])
        episode = Episode(self.model, batch.servers, batch.strategies, self._totals, began, batch.wall_offset_s, batch.in_force)
        episode.on_release = self._decided(batch.wall_offset_s)
        episode.feed([], [Tended(began, server, Action.SLEEP) for server in batch.asleep])
        self._episodes[batch.pool] = episode
        return episode

    def _decided(self, wall_offset_s: float) -> Callable[[str, Served], None]:
        def told(name: str, served: Served) -> None:
            if name in self.waits:
                self.waits[name].add(served.wait_s)
            if self.on_decision is not None:
                self.on_decision(name, served, wall_offset_s)

        return told

    def _breathe(self, *, at_once: bool = False) -> None:
        """Sleep as long as the share asks for what was worked."""
        if self._closing.is_set():
            raise _Closing
        worked_s = time.thread_time() - self._slice_began
        if worked_s >= SLICE_S or at_once:
            self.worked_s += worked_s
            if self.share < 1:
                self._closing.wait(worked_s * (1 / self.share - 1))
            self._slice_began = time.thread_time()

    def _publish(self, until: float) -> None:
        told = {name: describe(totals) for name, totals in self._totals.items()}
        as_run = self._totals.get(AS_RUN, Totals())
        self.compared = Compared(until, told, dict(as_run.saved_by), self._begun, self._left_out)


class _Closing(Exception):
    """Nobody wants to know any more."""


def _same(episode: Episode, batch: Batch) -> bool:
    return episode.servers == batch.servers and episode.strategies == batch.strategies


def describe(totals: Totals) -> dict[str, Any]:
    """What a strategy came to, as JSON; joules are modelled."""
    return {
        "requests": totals.requests,
        "compared": totals.compared,
        "energy_j": totals.energy_j,
        "active_j": totals.active_j,
        "saved_j": totals.saved_j,
        "saved_share_of_active": totals.saved_j / totals.straight_j if totals.straight_j else None,
        "wait_s": quantiles(totals.waits_s),
        "ttft_s": quantiles(totals.ttfts_s),
        "late": totals.late,
        "releases": dict(totals.releases),
        "faults": totals.faults,
    }


def quantiles(values: Iterable[float]) -> dict[str, float] | None:
    """Half of them are no more than `p50`, 99 of a hundred no more than `p99`; None: there are none."""
    known = sorted(values)
    if not known:
        return None
    return {"p50": known[(len(known) - 1) // 2], "p99": known[-(-(len(known) - 1) * 99 // 100)], "max": known[-1]}
