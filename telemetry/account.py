"""The books of one energy domain: which intervals are settled, who was charged, and what was left over."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from statistics import median
from typing import overload

from telemetry.attribution import Timeline, settle
from telemetry.cost import StepModel
from telemetry.ledger import Entry
from telemetry.snapshot import Interval

SETTLE_AFTER_S = 0.2  # by then the tokens of an interval have been seen
LOST_AFTER_S = 60.0  # a meter that has been silent for so long after a request's end will not tell of it
CALM_S = 1.0  # a device goes on drawing more for a while after its last request
QUIET_INTERVALS = 50  # of which idle power is the median
HISTORY = 36_000  # settlements remembered: an hour of one device


@dataclass(frozen=True, slots=True)
class Totals:
    """Microjoules since the start, up to an instant; `counted` is the sum of the others."""

    at_s: float = -inf
    counted_uj: int = 0
    requests_uj: int = 0
    idle_uj: int = 0
    unattributed_uj: int = 0

    def plus(self, at_s: float, requests_uj: int, idle_uj: int, unattributed_uj: int) -> Totals:
        return Totals(
            at_s,
            self.counted_uj + requests_uj + idle_uj + unattributed_uj,
            self.requests_uj + requests_uj,
            self.idle_uj + idle_uj,
            self.unattributed_uj + unattributed_uj,
        )

    def minus(self, other: Totals) -> Totals:
        return Totals(
            self.at_s,
            self.counted_uj - other.counted_uj,
            self.requests_uj - other.requests_uj,
            self.idle_uj - other.idle_uj,
            self.unattributed_uj - other.unattributed_uj,
        )

    def towards(self, later: Totals, part: float) -> Totals:
        """What the totals were `part` of the way to later ones."""

        def between(a: int, b: int) -> int:
            return a + round((b - a) * part)

        requests = between(self.requests_uj, later.requests_uj)
        idle = between(self.idle_uj, later.idle_uj)
        unattributed = between(self.unattributed_uj, later.unattributed_uj)
        at_s = self.at_s + (later.at_s - self.at_s) * part
        return Totals(at_s, requests + idle + unattributed, requests, idle, unattributed)


class History(Sequence[Totals]):
    """Totals in order of time, 32 octets each, so that an hour of them is no weight; the oldest are forgotten."""

    def __init__(self) -> None:
        self._at_s = array("d")
        self._uj = array("q")  # requests, idle and unattributed, one after the other

    def __len__(self) -> int:
        return len(self._at_s)

    @overload
    def __getitem__(self, index: int) -> Totals: ...
    @overload
    def __getitem__(self, index: slice) -> list[Totals]: ...
    def __getitem__(self, index: int | slice) -> Totals | list[Totals]:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        requests, idle, unattributed = self._uj[3 * at : 3 * at + 3]
        return Totals(self._at_s[at], requests + idle + unattributed, requests, idle, unattributed)

    def append(self, totals: Totals) -> None:
        self._at_s.append(totals.at_s)
        self._uj.extend((totals.requests_uj, totals.idle_uj, totals.unattributed_uj))
        if len(self) > 2 * HISTORY:
            del self._at_s[:HISTORY]
            del self._uj[: 3 * HISTORY]


@dataclass(frozen=True, slots=True)
class IdlePower:
    """A device's watts with nobody in flight, and what that is based on: the profile, or seconds of quiet."""

    watts: float
    basis: str  # "profile" or "learnt"
    quiet_s: float = 0.0


@dataclass(slots=True)
class _Device:
    settled_until: float = inf  # before the first interval nothing is owed
    totals: History = field(default_factory=History)
    quiet: deque[Interval] = field(default_factory=lambda: deque(maxlen=QUIET_INTERVALS))


@dataclass(slots=True)
class Account:
    """One set of devices and the servers on them. Everything happens in one thread, and instants are handed in."""

    model: StepModel
    devices: int = 1
    _pending: list[Interval] = field(default_factory=list)
    _by_device: dict[str, _Device] = field(default_factory=dict)
    _entries: dict[str, Entry] = field(default_factory=dict)
    _last_busy: float = -inf
    _blind: dict[str, float] = field(default_factory=dict)  # by id: settled until then without a first token known

    def join(self, entry: Entry) -> None:
        """A request left to one of the domain's servers."""
        self._entries[entry.id] = entry

    def leave(self, entry: Entry) -> None:
        """It went to a server of another domain."""
        self._entries.pop(entry.id, None)

    def add(self, intervals: Sequence[Interval]) -> None:
        """Intervals that the monitor has found, each device's in order of time."""
        self._pending += intervals

    def settle(self, now: float) -> list[Entry]:
        """Settle what ended long enough ago, once and for all; returns the requests of which no more will be known."""
        due = [interval for interval in self._pending if interval.end_s + SETTLE_AFTER_S <= now]
        if not due:
            return self._give_up(now)
        self._pending = [interval for interval in self._pending if interval.end_s + SETTLE_AFTER_S > now]
        start_s, end_s = min(interval.start_s for interval in due), max(interval.end_s for interval in due)
        timelines = [
            Timeline.of(entry, self.model, self._blind.get(entry.id, -inf))
            for entry in self._entries.values()
            if entry.released_at is not None and entry.released_at < end_s and (entry.ended_at or inf) > start_s
        ]
        for interval in sorted(due, key=lambda interval: interval.end_s):
            self._settle(interval, timelines)
        return self._forget() + self._give_up(now)

    def _settle(self, interval: Interval, timelines: Sequence[Timeline]) -> None:
        device = self._by_device.setdefault(interval.device, _Device())
        self._learn(device, interval, timelines)
        result = settle(interval, timelines, self.model, self._idle_power(device).watts, devices=self._device_count)
        for id, share in result.shares.items():
            energy = self._entries[id].energy
            energy.active_uj += share.active_uj
            energy.prefill_uj += share.prefill_uj
            energy.source = interval.source
        requests_uj = sum(share.active_uj for share in result.shares.values())
        if not device.totals:
            device.totals.append(Totals(interval.start_s))
        device.totals.append(device.totals[-1].plus(interval.end_s, requests_uj, result.idle_uj, result.unattributed_uj))
        device.settled_until = interval.end_s

    @property
    def _device_count(self) -> int:
        return max(len(self._by_device), self.devices)

    def _learn(self, device: _Device, interval: Interval, timelines: Sequence[Timeline]) -> None:
        """An interval in which nobody was there, and nobody shortly before, tells idle power."""
        if any(t.joined < interval.end_s and t.left > interval.start_s for t in timelines):
            self._last_busy = max(self._last_busy, interval.end_s)
        elif interval.start_s >= self._last_busy + CALM_S:
            device.quiet.append(interval)

    def _idle_power(self, device: _Device) -> IdlePower:
        if len(device.quiet) < 5:
            return IdlePower(self.model.idle_power_w / self._device_count, "profile")
        watts = median(interval.power_w for interval in device.quiet)
        return IdlePower(watts, "learnt", sum(interval.seconds for interval in device.quiet))

    def _forget(self) -> list[Entry]:
        """Requests that no interval to come can touch are final; of the others, settled tokens are dropped."""
        until = self.settled_until
        final = [e for e in self._entries.values() if e.ended_at is not None and e.ended_at <= until]
        for entry in final:
            entry.energy.final = True
            entry.tokens.clear()
            del self._entries[entry.id]
        for entry in self._entries.values():
            settled = bisect_left(entry.tokens, (until, inf))
            entry.settled_tokens += sum(count for _, count in entry.tokens[:settled])
            del entry.tokens[:settled]
        self._blind = {
            e.id: until if e.streamed and e.first_token_at is None else self._blind.get(e.id, -inf)
            for e in self._entries.values()
        }
        return final

    def _give_up(self, now: float) -> list[Entry]:
        """A meter that stands still must not keep requests for ever: what is known of them is all that will be."""
        lost = [e for e in self._entries.values() if e.ended_at is not None and e.ended_at + LOST_AFTER_S <= now]
        for entry in lost:
            entry.tokens.clear()
            entry.energy.source = None  # a part of its joules is not its joules
            del self._entries[entry.id]
        return lost

    # --- what can be seen ---------------------------------------------------------------------------------------

    @property
    def settled_until(self) -> float:
        """Up to here every joule has been given to somebody; -infinity before the first interval."""
        return min((device.settled_until for device in self._by_device.values()), default=-inf)

    @property
    def totals(self) -> Totals:
        """All devices since the start."""
        latest = [device.totals[-1] for device in self._by_device.values() if device.totals]
        return _sum(latest, self.settled_until)

    def idle_powers(self) -> list[IdlePower]:
        return [self._idle_power(device) for device in self._by_device.values()]

    def between(self, since_s: float, until_s: float) -> Totals | None:
        """Microjoules between two instants, prorated within an interval; None while `until_s` is not settled."""
        if not self._by_device or until_s > self.settled_until:
            return None
        parts = [
            _at(device.totals, until_s).minus(_at(device.totals, since_s))
            for device in self._by_device.values()
            if device.totals
        ]
        return _sum(parts, until_s)


def _at(history: Sequence[Totals], at_s: float) -> Totals:
    """The totals at an instant, between the settlements around it."""
    after = bisect_left(history, at_s, key=lambda totals: totals.at_s)
    if after == 0:
        return history[0]
    before, later = history[after - 1], history[min(after, len(history) - 1)]
    if later.at_s <= before.at_s:
        return later
    return before.towards(later, (at_s - before.at_s) / (later.at_s - before.at_s))


def _sum(parts: Sequence[Totals], at_s: float) -> Totals:
    return Totals(
        at_s,
        sum(part.counted_uj for part in parts),
        sum(part.requests_uj for part in parts),
        sum(part.idle_uj for part in parts),
        sum(part.unattributed_uj for part in parts),
    )
