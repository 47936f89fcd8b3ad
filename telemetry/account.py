"""The books of one energy domain: which intervals are settled, who was charged, and what was left over."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from statistics import median

from telemetry.attribution import Settlement, Share, modelled_j, settle, settle_by_time
from telemetry.cost import StepModel
from telemetry.ledger import Energy, Entry
from telemetry.snapshot import Interval, Scope, Source
from telemetry.timeline import NOTHING, Done, Timeline, origin, timelines
from telemetry.totals import History, Totals, at, together
from telemetry.uncertainty import BLINDNESS, LEAST_BLINDNESS, METER_ERRORS, UNIFORM, Doubt

SETTLE_AFTER_S = 0.2  # by then the tokens of an interval have been seen
LOST_AFTER_S = 60.0  # a meter that has been silent for so long after a request's end will not tell of it
CALM_S = 1.0  # a device goes on drawing more for a while after its last request
QUIET_INTERVALS = 50  # of which idle power is the median
LEAST_MINUTES = 10  # with quiet in them, of which the least idle power is remembered
NEIGHBOUR = 1.15  # so many times it: a warm card draws a tenth more, and what draws more than that is somebody else
FOREIGN = 2.0  # so many times the profile's idle power is nobody's idle power: somebody whom we do not see is there
SEED_ERROR = 0.1  # relative standard error of a profile's idle power: cards differ, and warm ones draw more
LATEST = 10  # intervals that tell how often a meter tells
LEARNT_ERROR = 0.02  # ... and of a learnt one, at the least


@dataclass(frozen=True, slots=True)
class IdlePower:
    """A device's watts with nobody in flight, and what that is based on.

    Attributes:
        basis: "profile" where nobody has been away yet; "learnt" from seconds of quiet; "least" where the latest quiet draws so
            much more than others of the last minutes that somebody else must be there; "foreign" where somebody else is there
            whenever nobody of ours is, and it is the profile's.
        quiet_w: what it draws with nobody of ours in flight, where that is not taken for idle power; 0: it is, or is not known.
        error_w: standard error.
    """

    watts: float
    basis: str
    quiet_s: float = 0.0
    error_w: float = 0.0
    quiet_w: float = 0.0


@dataclass(slots=True)
class _Device:
    settled_until: float = inf  # before the first interval nothing is owed
    totals: History = field(default_factory=History)
    latest: Totals = field(default_factory=Totals)  # replaced whole, so that any thread may read it
    quiet: deque[Interval] = field(default_factory=lambda: deque(maxlen=QUIET_INTERVALS))
    least: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=LEAST_MINUTES))  # idle watts, minute by minute
    foreign_w: float = 0.0  # in the latest interval in which somebody computed there, and nobody of ours
    foreign_at: float = -inf  # its end
    owed_j: float = 0.0  # that quiet intervals lacked of idle energy, for their edges are not exactly known
    counted_uj: int = 0  # all intervals that were handed in and settled
    fractions: dict[str, float] = field(default_factory=dict)  # who had which part of the latest interval's active energy
    active_w: float = 0.0  # in the latest interval


@dataclass(slots=True)
class Account:
    """One set of devices and the servers on them. Everything happens in one thread, and instants are handed in.

    Attributes:
        model: of a step; nothing bounds a host's joules by it.
        devices: that share the model's cost.
        scope: GPUs are split by the model, hosts by time.
        waits_s: a meter that has been silent for so long is not waited for.
        most_parts: what one settlement may cost, see `attribution.settle`.
        blindness: relative error of timelines that nobody saw, as it has turned out.
        modelled_total_j: what the model says of all shares together.
        conservation_error_uj: what the meters counted, less what requests, idle and unattributed got, each added up apart;
            anything but 0 is a fault.
    """

    model: StepModel
    devices: int = 1
    scope: Scope = Scope.GPU
    waits_s: float = LOST_AFTER_S
    most_parts: int | None = None
    blindness: float = BLINDNESS
    modelled_total_j: float = 0.0
    conservation_error_uj: int = 0
    _pending: list[Interval] = field(default_factory=list)
    _by_device: dict[str, _Device] = field(default_factory=dict)
    _entries: dict[str, Entry] = field(default_factory=dict)
    _last_busy: float = -inf
    _done: dict[str, Done] = field(default_factory=dict)  # by id: what has been charged of prompts
    _charged_uj: dict[str, int] = field(default_factory=dict)  # to requests that are not final
    _closed_uj: int = 0  # to those that are, or that left

    def join(self, entry: Entry) -> None:
        """A request left to one of the domain's servers."""
        self._entries[entry.id] = entry

    def leave(self, entry: Entry) -> None:
        """It went to a server of another domain; what it was charged here stays with it."""
        if self._entries.pop(entry.id, None) is not None:
            self._close(entry)

    def holds(self, entry: Entry) -> bool:
        """Whether more may become known of the request's joules."""
        return entry.id in self._entries

    def add(self, intervals: Sequence[Interval]) -> None:
        """Intervals that the monitor has found, each device's in order of time."""
        self._pending += intervals

    def settle(self, now: float) -> list[Entry]:
        """Settle what ended long enough ago, once and for all; returns the requests of which no more will be known."""
        due = [interval for interval in self._pending if interval.end_s + SETTLE_AFTER_S <= now]
        if not due:
            return self._give_up(now)
        self._pending = [interval for interval in self._pending if interval.end_s + SETTLE_AFTER_S > now]
        there = self._timelines(min(i.start_s for i in due), max(i.end_s for i in due))
        for interval in sorted(due, key=lambda interval: interval.end_s):
            self._settle(interval, there)
        self._remember(there)
        final = self._forget()
        self.conservation_error_uj = self._check()
        return final + self._give_up(now)

    def modelled_j(self, start_s: float, end_s: float) -> float:
        """What the model says was used between two instants, idle power included."""
        active_j = modelled_j(start_s, end_s, self._timelines(start_s, end_s), self.model)
        return active_j + self.model.idle_power_w * (end_s - start_s)

    def _timelines(self, start_s: float, end_s: float) -> list[Timeline]:
        there = [
            entry
            for entry in self._entries.values()
            if entry.released_at is not None and entry.released_at < end_s and (entry.ended_at or inf) > start_s
        ]
        return timelines(there, self.model, self._done)

    def _settle(self, interval: Interval, timelines: Sequence[Timeline]) -> None:
        device = self._by_device.setdefault(interval.device, _Device())
        self._learn(device, interval, timelines)
        idle = self._idle_power(device)
        idle_w = idle.watts + (0.0 if timelines else device.owed_j / max(interval.seconds, 1e-9))
        if self.scope is Scope.GPU:
            result = settle(interval, timelines, self.model, idle_w, devices=self._device_count, most_parts=self.most_parts)
        else:
            result = settle_by_time(interval, timelines, self.model, idle_w)
        self._owe(device, interval, idle.watts, result if not timelines else None)
        by_id = {timeline.id: timeline for timeline in timelines}
        for id, share in result.shares.items():
            self._charge(interval, by_id[id], share)
        self._doubt(device, interval, result, by_id, idle)
        requests_uj = sum(share.active_uj for share in result.shares.values())
        if not device.totals:
            device.totals.append(Totals(interval.start_s))
        device.latest = device.totals[-1].plus(interval.end_s, requests_uj, result.idle_uj, result.unattributed_uj)
        device.totals.append(device.latest)
        device.counted_uj += interval.energy_uj
        device.settled_until = interval.end_s

    def _owe(self, device: _Device, interval: Interval, idle_w: float, quiet: Settlement | None) -> None:
        """In quiet times an interval that lacks idle energy lets a later one have so much more.

        An edge that is put too late moves joules from one interval to the next: what the one lacks, the other has too much, and
        that is nobody's. It cannot be more than both edges' doubt, so a neighbour is not hidden by it.
        """
        if quiet is None:
            device.owed_j = 0.0
            return
        lacks_j = idle_w * interval.seconds - quiet.idle_uj / 1e6
        most_j = idle_w * (interval.start_edge_s + interval.end_edge_s)
        device.owed_j = min(max(device.owed_j + lacks_j, 0.0), most_j)

    def _charge(self, interval: Interval, timeline: Timeline, share: Share) -> None:
        energy = self._energy(timeline.id)
        energy.active_uj += share.active_uj
        energy.prefill_uj += share.prefill_uj
        energy.tokens_uj += share.tokens_uj
        energy.time_uj += share.time_uj
        energy.source = interval.source.weaker(energy.source)
        self._charged_uj[timeline.id] = self._charged_uj.get(timeline.id, 0) + share.active_uj

    def _energy(self, id: str) -> Energy:
        entry = self._entries[id]
        if self.scope is Scope.GPU:
            return entry.energy
        if entry.host_energy is None:
            entry.host_energy = Energy(method="time_equal", scope=Scope.HOST)
        return entry.host_energy

    def _doubt(
        self, device: _Device, interval: Interval, result: Settlement, by_id: Mapping[str, Timeline], idle: IdlePower
    ) -> None:
        """What this settlement adds to the doubt of all who were there, now or just before."""
        seconds = max(interval.seconds, 1e-9)
        active_uj = max(interval.energy_uj - result.idle_uj, 1)
        active_w, step_s = active_uj / 1e6 / seconds, max(self.model.step_s.base, result.grain_s)
        fractions = {id: share.active_uj / active_uj for id, share in result.shares.items()}
        requests_uj = max(sum(share.active_uj for share in result.shares.values()), 1)
        modelled_j = sum(share.modelled_j for share in result.shares.values())
        all_idle = result.idle_uj == interval.energy_uj  # so nobody got anything, and idle power may be what took it
        power_w = (device.active_w + active_w) / 2
        unsure_uj = sum(share.active_uj for id, share in result.shares.items() if by_id[id].blind or by_id[id].guessed)
        missing_j = result.unattributed_uj / 1e6 / max(unsure_uj, 1)  # for each of their microjoules
        for id in fractions.keys() | device.fractions.keys():
            if id in self._entries:
                moved = fractions.get(id, 0.0) - device.fractions.get(id, 0.0)
                self._energy(id).doubt.edges_j2 += (power_w * interval.start_edge_s * moved * UNIFORM) ** 2
        for id, share in result.shares.items():
            timeline, doubt, part = by_id[id], self._energy(id).doubt, fractions[id]
            own_w = share.active_uj / 1e6 / max(share.seconds, step_s)
            if timeline.joined > interval.start_s:
                doubt.edges_j2 += (own_w * step_s * UNIFORM) ** 2
            if timeline.left <= interval.end_s:
                doubt.edges_j2 += (own_w * step_s * UNIFORM) ** 2 + (active_w * interval.end_edge_s * part * UNIFORM) ** 2
                del fractions[id]
            _add(doubt, share, self.model)
            self.modelled_total_j += share.modelled_j
            doubt.idle_j += idle.error_w * seconds * (share.modelled_j / modelled_j if all_idle and modelled_j else part)
            doubt.blindness = self.blindness
            doubt.assumed_prompt += share.prompt_tokens
            if timeline.blind and timeline.seen is None:
                doubt.assumed_tokens += share.tokens
                others = 1 - share.active_uj / requests_uj  # who was alone shared nothing, however many tokens it had
                doubt.unseen_j += (share.active_uj - share.prefill_uj) / 1e6 * others
            if timeline.blind or timeline.guessed:
                doubt.missing_j += missing_j * share.active_uj
            doubt.meter_j += METER_ERRORS.get(interval.source, 0.0) * share.active_uj / 1e6
            if interval.source is Source.MODELLED:
                doubt.model_j += self.model.band * share.active_uj / 1e6
        device.fractions, device.active_w = fractions, active_w

    @property
    def _device_count(self) -> int:
        return max(len(self._by_device), self.devices)

    def _learn(self, device: _Device, interval: Interval, timelines: Sequence[Timeline]) -> None:
        """An interval in which nobody was there, and nobody shortly before, tells idle power."""
        if any(t.joined < interval.end_s and t.left > interval.start_s for t in timelines):
            self._last_busy = max(self._last_busy, interval.end_s)
        elif interval.busy and interval.start_s >= self._last_busy + CALM_S:
            device.foreign_w, device.foreign_at = interval.power_w, interval.end_s
        elif interval.start_s >= max(self._last_busy, device.foreign_at) + CALM_S:
            device.quiet.append(interval)
            if len(device.quiet) >= 5:
                self._note(device, int(interval.end_s // 60), median(quiet.power_w for quiet in device.quiet))

    def _note(self, device: _Device, minute: int, watts: float) -> None:
        """Remember the least idle power of each of the last minutes that had a quiet time."""
        if device.least and device.least[-1][0] == minute:
            device.least[-1] = (minute, min(watts, device.least[-1][1]))
        else:
            device.least.append((minute, watts))

    def _idle_power(self, device: _Device) -> IdlePower:
        if len(device.quiet) < 5:
            return self._seed(device.foreign_w)
        powers = sorted(interval.power_w for interval in device.quiet)
        watts = median(powers)
        # the middle half of a normal distribution is 1.35 standard deviations wide
        spread_w = (powers[len(powers) * 3 // 4] - powers[len(powers) // 4]) / 1.35
        error_w = max(spread_w, LEARNT_ERROR * watts)
        least_w = min((watts for _, watts in device.least), default=watts)
        if self.scope is Scope.GPU and min(watts, least_w) > FOREIGN * self.model.idle_power_w:
            return self._seed(watts)
        if watts > NEIGHBOUR * max(least_w, self.model.idle_power_w / self._device_count * (self.scope is Scope.GPU)):
            error_w = max(LEARNT_ERROR * least_w, min(spread_w, watts - least_w))
            return IdlePower(least_w, "least", error_w=error_w, quiet_w=watts)
        return IdlePower(watts, "learnt", sum(interval.seconds for interval in device.quiet), error_w)

    def _seed(self, foreign_w: float) -> IdlePower:
        """What the profile says, where nothing has been learnt."""
        if self.scope is not Scope.GPU:
            return IdlePower(0.0, "unknown")
        watts = self.model.idle_power_w / self._device_count
        return IdlePower(watts, "foreign" if foreign_w else "profile", error_w=SEED_ERROR * watts, quiet_w=foreign_w)

    def _forget(self) -> list[Entry]:
        """Requests that no interval to come can touch are final; of the others, settled tokens are dropped."""
        until = self.settled_until
        final = [e for e in self._entries.values() if e.ended_at is not None and e.ended_at <= until]
        for entry in final:
            self._finish(entry)
        for entry in self._entries.values() if self.scope is Scope.GPU else ():
            settled = bisect_left(entry.tokens, (until, inf))
            entry.settled_tokens += sum(count for _, count in entry.tokens[:settled])
            del entry.tokens[:settled]
        self._done = {id: done for id, done in self._done.items() if id in self._entries}
        return final

    def _remember(self, there: Sequence[Timeline]) -> None:
        """What has been charged of prompts that are not through: the rest of them comes later, when more may be known."""
        until = self.settled_until
        for timeline in there:
            done = self._done.get(timeline.id, NOTHING)
            if timeline.joined < until and done.until < min(until, timeline.first):
                tokens = done.tokens + timeline.prompt(max(done.until, timeline.joined), until)
                self._done[timeline.id] = Done(until, tokens)

    def _finish(self, entry: Entry) -> None:
        energy = self._energy(entry.id)
        energy.final = True
        del self._entries[entry.id]
        self._close(entry)
        if self.scope is Scope.GPU:
            energy.timeline = origin(entry)
            self._doubt_counts(entry, energy.doubt)
            self._learn_blindness(entry, energy.doubt)
            entry.tokens.clear()

    def _doubt_counts(self, entry: Entry, doubt: Doubt) -> None:
        """The prompt was charged as it was taken to be; how long it is, and what of it was cached, may be told at the end."""
        if not entry.prompt_estimated and not doubt.guess_j:
            # less than was told is no error: the engine's haste had shown that there was a cache
            wrong = max(doubt.assumed_prompt - (entry.prompt_tokens - entry.cached_tokens), 0.0)
            doubt.counts_j += wrong * self.model.step_j.per_prompt_token

    def _learn_blindness(self, entry: Entry, doubt: Doubt) -> None:
        """A request's token count, told with its answer, says how wrong its timeline was taken to be while it ran."""
        if doubt.assumed_tokens <= 0 or entry.output_estimated or not entry.output_tokens:
            return
        wrong = abs(doubt.assumed_tokens - entry.output_tokens) / max(doubt.assumed_tokens, entry.output_tokens)
        doubt.counts_j += wrong * doubt.unseen_j
        self.blindness = max((0.95 * self.blindness**2 + 0.05 * wrong**2) ** 0.5, LEAST_BLINDNESS)

    def _close(self, entry: Entry) -> None:
        self._closed_uj += self._charged_uj.pop(entry.id, 0)

    def _give_up(self, now: float) -> list[Entry]:
        """A meter that stands still must not keep requests for ever: what is known of them is all that will be."""
        lost = [e for e in self._entries.values() if e.ended_at is not None and e.ended_at + self.waits_s <= now]
        for entry in lost:
            self._energy(entry.id).source = None  # a part of its joules is not its joules
            del self._entries[entry.id]
            self._close(entry)
            if self.scope is Scope.GPU:
                entry.tokens.clear()
        return lost

    # --- what can be seen ---------------------------------------------------------------------------------------

    @property
    def settled_until(self) -> float:
        """Up to here every joule has been given to somebody; -infinity before the first interval.

        A device that has been silent for long while others are heard is not waited for: what it draws is unknown.
        """
        untils = [device.settled_until for device in list(self._by_device.values())]
        newest = max(untils, default=-inf)
        return min((until for until in untils if until > newest - LOST_AFTER_S), default=-inf)

    @property
    def step_s(self) -> float:
        """How long the latest intervals of its slowest device are, seconds (their median); 0 before there are any."""
        latest = [device.totals[-LATEST - 1 :] for device in list(self._by_device.values()) if len(device.totals) > 1]
        return max((median(later.at_s - at.at_s for at, later in pairwise(totals)) for totals in latest), default=0.0)

    @property
    def totals(self) -> Totals:
        """All devices since the start; any thread may ask."""
        return together([device.latest for device in list(self._by_device.values())], self.settled_until)

    def _check(self) -> int:
        charged_uj = self._closed_uj + sum(self._charged_uj.values())
        totals = self.totals
        counted_uj = sum(device.counted_uj for device in self._by_device.values())
        return counted_uj - charged_uj - totals.idle_uj - totals.unattributed_uj

    def idle_powers(self) -> list[IdlePower]:
        return [self._idle_power(device) for device in self._by_device.values()]

    def between(self, since_s: float, until_s: float) -> Totals | None:
        """Microjoules between two instants, prorated within an interval; None while `until_s` is not settled."""
        if not self._by_device or until_s > self.settled_until:
            return None
        parts = [
            at(device.totals, until_s).minus(at(device.totals, since_s)) for device in self._by_device.values() if device.totals
        ]
        return together(parts, until_s)


def _add(doubt: Doubt, share: Share, model: StepModel) -> None:
    """The model's part in the doubt of a share."""
    base, sequence, prompt, context = share.moved_j
    doubt.base_j += base * model.step_j_error.base
    doubt.sequence_j += sequence * model.step_j_error.per_sequence
    doubt.prompt_j += prompt * model.step_j_error.per_prompt_token
    doubt.context_j += context * model.step_j_error.per_context_token
    doubt.blind_j += share.blind_j
    doubt.phase_j += share.phase_j
    doubt.guess_j += share.guess_j
    doubt.excess_j += share.active_uj / 1e6 - share.modelled_j
