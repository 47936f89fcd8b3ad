"""A run settled as in production: the proxy sees what it would have seen, when it would have, and settles every 100 ms."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from math import exp, inf
from random import Random
from time import perf_counter

from bench.accuracy.metering import Metered
from bench.accuracy.traffic import Run, Served
from telemetry.account import Account
from telemetry.cost import StepModel
from telemetry.ledger import Entry, Timings
from telemetry.totals import Totals

SETTLE_EVERY_S = 0.1
SEEN_BY_MONITOR_S = 0.01  # after its end an interval is found at the next look


@dataclass(frozen=True, slots=True)
class Sight:
    """What a proxy sees of the truth.

    Attributes:
        streamed: the share of requests whose tokens are seen; of the others only the end is.
        wire_s: the mean time from the engine to the proxy; never less than half of it.
        guess: standard deviation of the logarithm of a prompt's estimated length; it is known once the request has ended.
        told: the engine tells with its answer how long it decoded.
        thinned: intervals with many requests are cut less finely, as in production.
    """

    streamed: float = 1.0
    wire_s: float = 0.0006
    guess: float = 0.2
    told: bool = False
    thinned: bool = True


@dataclass(frozen=True, slots=True)
class Charge:
    """One request: what it used, and what it was charged; joules."""

    used_j: float
    charged_j: float
    uncertainty_j: float
    tokens_j: float  # the same energy, split by tokens
    time_j: float  # ... and split equally
    streamed: bool
    cancelled: bool


@dataclass(frozen=True, slots=True)
class Settled:
    """A run's books; `unbalanced_uj` must be nothing."""

    charges: list[Charge]
    totals: Totals
    unbalanced_uj: int
    not_final: int
    intervals: int
    settling_s: float


def replay(run: Run, metered: Metered, sight: Sight, model: StepModel, seed: int) -> Settled:
    """Settle the run by a model, which may be another than the engine's own."""
    random = Random(f"{seed}/sight")
    seen = sorted((_Seen.of(one, sight, random) for one in run.served), key=lambda one: one.entry.arrived_at)
    account = Account(model, most_parts=None if sight.thinned else 10**9)
    settling_s = _settle_all(account, seen, metered, until=run.ended_at)
    counted_uj = sum(interval.energy_uj for interval in metered.intervals)
    totals, entries = account.totals, [one.entry for one in seen]
    parts_uj = sum(entry.energy.active_uj for entry in entries) + totals.idle_uj + totals.unattributed_uj
    return Settled(
        charges=[one.charge() for one in seen],
        totals=totals,
        unbalanced_uj=abs(counted_uj - parts_uj) + abs(counted_uj - totals.counted_uj),
        not_final=sum(not entry.energy.final for entry in entries),
        intervals=len(metered.intervals),
        settling_s=settling_s,
    )


def _settle_all(account: Account, seen: list[_Seen], metered: Metered, until: float) -> float:
    """Play it by the clock of the proxy; the seconds that settling took."""
    coming, intervals = iter(seen), iter(metered.intervals)
    next_one, interval = next(coming, None), next(intervals, None)
    here: list[_Seen] = []
    taken_s, now = 0.0, 0.0
    while now < until + 1.0 or interval is not None:
        now += SETTLE_EVERY_S
        while next_one is not None and next_one.entry.arrived_at <= now:
            account.join(next_one.entry)
            here.append(next_one)
            next_one = next(coming, None)
        here = [one for one in here if one.sees_more(now)]
        found = []
        while interval is not None and interval.end_s + max(interval.end_edge_s, SEEN_BY_MONITOR_S) <= now:
            found.append(interval)
            interval = next(intervals, None)
        account.add(found)
        began = perf_counter()
        account.settle(now)
        taken_s += perf_counter() - began
    began = perf_counter()
    account.settle(now + 10.0)
    return taken_s + perf_counter() - began


@dataclass(slots=True)
class _Seen:
    """One request, of which the proxy sees more and more."""

    served: Served
    entry: Entry
    seen_at: list[float]
    ends_at: float
    told: bool
    shown: int = 0

    @classmethod
    def of(cls, served: Served, sight: Sight, random: Random) -> _Seen:
        released = served.submitted_at - _wire_s(sight, random)
        job = served.job
        entry = Entry(job.id, released, 0.0, released_at=released, server="engine", streamed=random.random() < sight.streamed)
        entry.prompt_tokens = max(round(job.prompt_tokens * exp(random.gauss(0, sight.guess))), 1)
        seen_at = list(_in_order(at + _wire_s(sight, random) for at in served.token_at))
        if served.cancelled:  # the engine hears of it on the way that a request takes, and its last tokens reach nobody
            ends_at = max(served.ended_at - _wire_s(sight, random), released)
            del seen_at[bisect_right(seen_at, ends_at) :]
        else:
            ends_at = seen_at[-1] if entry.streamed else served.ended_at + _wire_s(sight, random)
        return cls(served, entry, seen_at, ends_at, sight.told)

    def sees_more(self, now: float) -> bool:
        """Show the entry what the proxy has seen by now; whether more will come."""
        if self.entry.streamed:
            upto = bisect_right(self.seen_at, now, self.shown)
            for at in self.seen_at[self.shown : upto]:
                self.entry.saw_tokens(at, 1)
            self.shown = upto
        if now < self.ends_at:
            return True
        if not self.served.cancelled:  # the counts come with the end of the answer
            self.entry.prompt_tokens, self.entry.prompt_estimated = self.served.job.prompt_tokens, False
            self.entry.output_tokens, self.entry.output_estimated = self.served.job.output_tokens, False
            if self.told:
                self.entry.timings = Timings(decode_s=self.served.token_at[-1] - self.served.token_at[0])
        self.entry.ended_at = self.ends_at
        return False

    def charge(self) -> Charge:
        energy = self.entry.energy
        return Charge(
            used_j=self.served.used_j,
            charged_j=energy.active_uj / 1e6,
            uncertainty_j=energy.uncertainty_j,
            tokens_j=energy.tokens_uj / 1e6,
            time_j=energy.time_uj / 1e6,
            streamed=self.entry.streamed,
            cancelled=self.served.cancelled,
        )


def _wire_s(sight: Sight, random: Random) -> float:
    return sight.wire_s / 2 + random.expovariate(2 / sight.wire_s) if sight.wire_s else 0.0


def _in_order(instants: Iterator[float]) -> Iterator[float]:
    latest = -inf
    for at in instants:
        latest = max(latest, at)
        yield latest
