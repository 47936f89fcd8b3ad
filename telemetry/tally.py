"""What requests add up to, per set of attributes: histograms and counts that cost a microsecond to add to.

The OpenTelemetry SDK asks 8 microseconds for one value of a histogram, and a request has eight of them; that would be a
quarter of what the whole proxy may cost. So they are added up here, and `telemetry/otel.py` hands them to the SDK's
readers when somebody looks. One thread adds, any thread may read.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from telemetry import names
from telemetry.attributes import Attributes, error_type, of_energy, of_gen_ai, of_request
from telemetry.ledger import Entry
from telemetry.names import Name

LIMIT = 2000  # sets of attributes of one metric, the SDK's own default; whatever comes after is one series
OVERFLOW: Attributes = {"otel.metric.overflow": True}
MODELS = 100  # clients choose models' names; those after the first so many are one
OTHER = "_OTHER"


class Exemplar(NamedTuple):
    """One value and the span in which it was seen."""

    value: float
    unix_ns: int
    trace_id: int
    span_id: int


class Distribution:
    """How often a value fell into each bucket, and the sum of all."""

    __slots__ = ("bounds", "counts", "exemplars", "since_unix_ns", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.since_unix_ns = time.time_ns()
        self.exemplars: dict[int, Exemplar] = {}  # the latest of each bucket

    def add(self, value: float, trace: tuple[int, int] | None = None) -> None:
        bucket = bisect_left(self.bounds, value)
        self.counts[bucket] += 1
        self.sum += value
        if trace is not None:
            self.exemplars[bucket] = Exemplar(value, time.time_ns(), *trace)


Key = tuple[tuple[str, str | int], ...]


@dataclass(frozen=True, slots=True)
class Total:
    """One count whose place is known, so that adding to it costs next to nothing."""

    series: dict[Key, float]
    key: Key

    def add(self, amount: float) -> None:
        self.series[self.key] = self.series.get(self.key, 0) + amount


@dataclass(slots=True)
class Tallies:
    """All distributions and counts by metric and attributes."""

    distributions: dict[Name, dict[Key, Distribution]] = field(default_factory=dict)
    counts: dict[Name, dict[Key, float]] = field(default_factory=dict)

    def distribution(self, name: Name, attributes: Mapping[str, str | int]) -> Distribution:
        """Found or made; the caller may keep it."""
        series = self.distributions.setdefault(name, {})
        key = _key(series, attributes)
        if key not in series:
            series[key] = Distribution(name.buckets)
        return series[key]

    def total(self, name: Name, attributes: Mapping[str, str | int]) -> Total:
        """Found or made; the caller may keep it."""
        series = self.counts.setdefault(name, {})
        return Total(series, _key(series, attributes))

    def count(self, name: Name, attributes: Mapping[str, str | int]) -> None:
        self.total(name, attributes).add(1)


def _key(series: Mapping[Key, object], attributes: Mapping[str, str | int]) -> Key:
    key = tuple(attributes.items())
    return key if key in series or len(series) < LIMIT else tuple(OVERFLOW.items())


class Point(NamedTuple):
    """One distribution as somebody sees it."""

    attributes: Key
    since_unix_ns: int
    counts: tuple[int, ...]
    sum: float
    bounds: tuple[float, ...]
    exemplars: list[Exemplar]


@dataclass(slots=True)
class Look:
    """One reader of distributions: sees all since the start or, with `delta`, what was added since it last looked."""

    tallies: Tallies
    delta: bool = False
    _seen: dict[Distribution, Point] = field(default_factory=dict)

    def points(self, now_unix_ns: int) -> Iterator[tuple[Name, list[Point]]]:
        """Metrics to which something was added."""
        # `list` is one step to the thread that adds, a loop over a dict that grows is not
        for name, series in list(self.tallies.distributions.items()):
            points = [self._point(key, distribution, now_unix_ns) for key, distribution in list(series.items())]
            if points := [point for point in points if any(point.counts)]:
                yield name, points

    def _point(self, key: Key, found: Distribution, now_unix_ns: int) -> Point:
        point = Point(key, found.since_unix_ns, tuple(found.counts), found.sum, found.bounds, list(found.exemplars.values()))
        if not self.delta:
            return point
        before = self._seen.get(found)
        self._seen[found] = point._replace(since_unix_ns=now_unix_ns)
        if before is None:
            return point
        return point._replace(
            since_unix_ns=before.since_unix_ns,
            counts=tuple(now - then for now, then in zip(point.counts, before.counts, strict=True)),
            sum=point.sum - before.sum,
            exemplars=[exemplar for exemplar in point.exemplars if exemplar.unix_ns >= before.since_unix_ns],
        )


@dataclass(frozen=True, slots=True)
class _Request:
    """The distributions that requests of one kind add to."""

    duration: Distribution
    first_token: Distribution
    per_token: Distribution
    input_tokens: Distribution
    output_tokens: Distribution
    held: Distribution
    queued: Distribution


@dataclass(frozen=True, slots=True)
class _Energy:
    """What the joules of requests of one kind add to."""

    active: Distribution
    uncertainty: Distribution
    tokens: Total
    methods: tuple[Total, Total, Total]  # by the method in force, by tokens, by time


@dataclass(slots=True)
class Models:
    """Names of models that are told apart: the first so many that are asked for."""

    _known: set[str] = field(default_factory=set)

    def label(self, model: str) -> str:
        if model in self._known:
            return model
        if len(self._known) >= MODELS:
            return OTHER
        self._known.add(model)
        return model


@dataclass(slots=True)
class Requests:
    """Adds each request to its distributions, found by what tells requests apart."""

    tallies: Tallies
    _models: Models = field(default_factory=Models)
    _requests: dict[tuple[str, ...], _Request] = field(default_factory=dict)
    _energies: dict[tuple[str, ...], _Energy] = field(default_factory=dict)

    def ended(self, entry: Entry) -> None:
        """The answer is out; what is not known of it is left out, never zero."""
        request = self._of(entry)
        if (duration_s := entry.duration_s) is not None:
            request.duration.add(duration_s)
        if (ttft_s := entry.ttft_s) is not None:
            request.first_token.add(ttft_s)
        if (tpot_s := entry.tpot_s) is not None:
            request.per_token.add(tpot_s)
        if entry.prompt_tokens and not entry.prompt_estimated:
            request.input_tokens.add(entry.prompt_tokens)
        if entry.output_tokens and not entry.output_estimated:
            request.output_tokens.add(entry.output_tokens)
        if entry.released_at is not None:
            request.held.add(entry.held_s)
            request.queued.add(entry.queued_s)

    def late(self, entry: Entry) -> None:
        """It missed its deadline."""
        self.tallies.count(names.LATE, of_request(entry, self._models.label(entry.model)))

    def energy(self, entry: Entry, trace: tuple[int, int] | None) -> None:
        """Its joules are final. Unknown ones add nothing."""
        energy = entry.energy
        if energy.source is None:
            return
        to, active_j = self._energy_of(entry, energy.source), energy.active_uj / 1e6
        to.active.add(active_j, trace)
        if active_j > 0:
            to.uncertainty.add(energy.uncertainty_j / active_j)
        to.tokens.add(entry.output_tokens)
        for method, uj in zip(to.methods, (energy.active_uj, energy.tokens_uj, energy.time_uj), strict=True):
            method.add(uj / 1e6)

    def _energy_of(self, entry: Entry, source: str) -> _Energy:
        model, energy = self._models.label(entry.model), entry.energy
        key = (*_ours(entry), model, entry.server, source, energy.method, energy.scope)
        found = self._energies.get(key)
        if found is None:
            found = self._make_energy(of_request(entry, model), of_energy(energy))
            if len(self._energies) < LIMIT:
                self._energies[key] = found
        return found

    def _make_energy(self, ours: Attributes, known: Attributes) -> _Energy:
        tier = {key: value for key, value in ours.items() if key == names.TIER}
        split = {key: value for key, value in ours.items() if key in names.METHOD_ENERGY.attributes} | known
        methods = (split, split | {names.METHOD: "tokens"}, split | {names.METHOD: "time"})
        force, tokens, time_ = (self.tallies.total(names.METHOD_ENERGY, of) for of in methods)
        return _Energy(
            self.tallies.distribution(names.REQUEST_ENERGY, ours | known),
            self.tallies.distribution(names.ENERGY_UNCERTAINTY, tier | known),
            self.tallies.total(names.OUTPUT_TOKENS, ours | known),
            (force, tokens, time_),
        )

    def _of(self, entry: Entry) -> _Request:
        model, error = self._models.label(entry.model), error_type(entry)
        key = (entry.operation, entry.dialect, model, entry.server, *_ours(entry), error)
        found = self._requests.get(key)
        if found is None:
            found = self._make(of_gen_ai(entry, model), of_request(entry, model))
            if len(self._requests) < LIMIT:
                self._requests[key] = found
        return found

    def _make(self, gen_ai: Attributes, ours: Attributes) -> _Request:
        of = self.tallies.distribution
        return _Request(
            of(names.DURATION, gen_ai),
            of(names.FIRST_TOKEN, gen_ai),
            of(names.PER_TOKEN, gen_ai),
            of(names.TOKEN_USAGE, gen_ai | {names.TOKEN_TYPE: "input"}),
            of(names.TOKEN_USAGE, gen_ai | {names.TOKEN_TYPE: "output"}),
            of(names.QUEUE_WAIT, ours | {names.WAIT: "hold"}),
            of(names.QUEUE_WAIT, ours | {names.WAIT: "capacity"}),
        )


def _ours(entry: Entry) -> tuple[str, str, str, str, str]:
    return entry.policy, entry.tier, entry.tenant, entry.experiment, entry.arm
