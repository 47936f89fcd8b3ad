"""OpenTelemetry: metrics to scrape and to push, a span for each request; the only importer of its SDK and of Prometheus.

OTLP over HTTP is pushed when OpenTelemetry's standard variables name an endpoint, and all of them mean what they always
mean. Nothing global is set, so several proxies can live in one process. A span is made after its request has ended, when
its joules are known, with the times at which things happened.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from threading import Lock, Thread
from typing import Any
from uuid import uuid4

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, Exemplar, MeterProvider
from opentelemetry.sdk.metrics import Histogram as HistogramInstrument
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, format_span_id, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import CollectorRegistry, samples
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics import exposition as openmetrics

from telemetry import names, tally
from telemetry.attributes import error_type, events, of_span, server_failed
from telemetry.gauges import SERIES, Gauges, Values
from telemetry.ledger import Entry
from telemetry.names import Kind, Name
from telemetry.tally import Distribution, Look, Point, Requests, Tallies

log = logging.getLogger("paceline.otel")

SCOPE = "paceline"
W3C = TraceContextTextMapPropagator()
ROOT = Context()
LOOKED: ContextVar[Gauges | None] = ContextVar("looked", default=None)  # by whoever renders now


@dataclass(slots=True)
class Telemetry:
    """Where the proxy tells what happened, and where it is looked at. All but `render` and `shutdown` is one thread's."""

    tallies: Tallies
    _requests: Requests
    _registry: CollectorRegistry
    _meters: MeterProvider
    _spans: TracerProvider | None  # None: nobody asked for traces
    _tracer: Tracer | None
    _ticks: Distribution
    _read: Callable[[], Gauges]
    _rendering: Lock = field(default_factory=Lock)

    @classmethod
    def start(cls, read: Callable[[], Gauges], environ: Mapping[str, str], *, version: str = "") -> Telemetry:
        """Begin to export.

        Args:
            read: what is exported as it is when somebody looks; called in any thread, for each metric that is pushed.
            environ: decides whether OTLP is pushed. (The SDK reads its own settings from the process's environment.)
            version: Paceline's.
        """
        tallies, registry = Tallies(), CollectorRegistry()
        readers: list[MetricReader] = [_Scrape(Look(tallies), registry)]
        if pushes("metrics", environ):
            readers.append(_Push(Look(tallies), OTLPMetricExporter()))
        resource = _resource(environ, version)
        meters = MeterProvider(readers, resource, AlwaysOffExemplarFilter(), shutdown_on_exit=False)
        _observe(meters.get_meter(SCOPE, version), lambda: LOOKED.get() or read(), tallies)
        spans = None
        if pushes("traces", environ):
            spans = TracerProvider(resource=resource, shutdown_on_exit=False)  # its sampler is OTEL_TRACES_SAMPLER's
            spans.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        tracer = spans.get_tracer(SCOPE, version) if spans else None
        return cls(tallies, Requests(tallies), registry, meters, spans, tracer, tallies.distribution(names.TICK, {}), read)

    def look(self) -> Gauges:
        """What `render` shall tell as it is now."""
        return self._read()

    def render(self, accept: str = "", looked: Gauges | None = None) -> tuple[bytes, str]:
        """All metrics and their content type: OpenMetrics for whoever accepts it, for only that has exemplars, else text.

        Of many series it takes a tenth of a second, in which tokens would be seen late, and their joules be nobody's. So any
        thread may do it, with what was `looked` at in the one in which all else happens.
        """
        with self._rendering:
            before = LOOKED.set(looked or self._read())
            try:
                return self._render(accept)
            finally:
                LOOKED.reset(before)

    def _render(self, accept: str) -> tuple[bytes, str]:
        if "application/openmetrics-text" not in accept:
            return generate_latest(self._registry), CONTENT_TYPE_LATEST
        collector: Any = _WithExemplars(self._registry, self.tallies)  # it asks for no more than `collect`
        body: bytes = openmetrics.generate_latest(collector)  # type: ignore[no-untyped-call]
        return body, openmetrics.CONTENT_TYPE_LATEST

    def shutdown(self) -> None:
        """Push what is left, and stop. It may block for seconds; metrics and traces, whose collectors may differ, do not wait
        for each other.
        """
        spans = Thread(target=self._spans.shutdown, daemon=True) if self._spans is not None else None
        if spans is not None:
            spans.start()
        self._meters.shutdown()
        if spans is not None:
            spans.join()

    # --- what happens -------------------------------------------------------------------------------------------

    def released(self, outcome: str, policy: str = "") -> None:
        """A request's stay in the room ended, however."""
        self.tallies.count(names.RELEASES, {names.OUTCOME: outcome, names.POLICY: policy})

    def group(self, size: int, policy: str = "") -> None:
        """So many left at one instant."""
        self.tallies.distribution(names.GROUP_SIZE, {names.POLICY: policy}).add(size)

    def retried(self, reason: str) -> None:
        """A request that a server did not take waits for one once more."""
        self.tallies.count(names.RETRIES, {names.REASON: reason})

    def refused(self, kind: str) -> None:
        """A request got an error of ours."""
        self.tallies.count(names.REFUSALS, {names.ERROR: kind})

    def fault(self, policy: str = "") -> None:
        """A policy or a placement raised."""
        self.tallies.count(names.FAULTS, {names.POLICY: policy})

    def shadow_waits(self, strategy: str) -> Distribution:
        """Where one thread adds up how long a shadow's requests wait."""
        return self.tallies.distribution(names.SHADOW_WAIT, {names.STRATEGY: strategy})

    def tick(self, seconds: float) -> None:
        """A decision for all took so long."""
        self._ticks.add(seconds)

    def request_ended(self, entry: Entry) -> None:
        """The response has left."""
        self._requests.ended(entry)

    def late(self, entry: Entry) -> None:
        """It missed its deadline."""
        self._requests.late(entry)

    def request_final(self, entry: Entry) -> None:
        """Its energy is final, or will never be known. Follows `request_ended`."""
        span = self._span(entry) if self._tracer is not None else None
        if span is None or not span.is_recording():
            self._requests.energy(entry, None)
            return
        context = span.get_span_context()
        entry.span = (context.trace_id, context.span_id)
        self._requests.energy(entry, (context.trace_id, context.span_id))
        _describe(span, entry)
        span.end(_unix_ns(entry, entry.ended_at or entry.arrived_at))

    def _span(self, entry: Entry) -> Span:
        """Begun with its arrival; a span that the sampler drops gets no attributes, which would be for nothing."""
        assert self._tracer is not None
        context = ROOT
        if entry.traceparent:
            context = W3C.extract({"traceparent": entry.traceparent, "tracestate": entry.tracestate}, ROOT)
        name = f"{entry.operation} {entry.model}" if entry.model else entry.operation
        return self._tracer.start_span(name, context, SpanKind.SERVER, start_time=_unix_ns(entry, entry.arrived_at))


# --- what is set up --------------------------------------------------------------------------------------------------


def pushes(signal: str, environ: Mapping[str, str]) -> bool:
    """Whether the standard variables ask for OTLP of "metrics" or "traces"."""
    upper = signal.upper()
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if not (environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or environ.get(f"OTEL_EXPORTER_OTLP_{upper}_ENDPOINT")):
        return False
    exporters = environ.get(f"OTEL_{upper}_EXPORTER") or "otlp"
    if "otlp" not in (exporter.strip() for exporter in exporters.split(",")):
        return False
    protocol = environ.get(f"OTEL_EXPORTER_OTLP_{upper}_PROTOCOL") or environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"
    )
    if protocol != "http/protobuf":
        log.warning("OTLP is pushed as http/protobuf, not as %s: the endpoint must be the collector's HTTP port", protocol)
    return True


def _resource(environ: Mapping[str, str], version: str) -> Resource:
    """Who we are, unless the environment says it. Replicas differ by instance, or they would write the same series."""
    told = environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    ours = {"service.version": version, "service.instance.id": str(uuid4())}
    if not environ.get("OTEL_SERVICE_NAME"):
        ours["service.name"] = "paceline"
    return Resource.create({key: value for key, value in ours.items() if f"{key}=" not in told})


def _observe(meter: Meter, read: Callable[[], Gauges], tallies: Tallies) -> None:
    """Instruments that ask when somebody looks."""

    def gauge(series: Callable[[Gauges], Values]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return lambda options: [Observation(value, attributes) for value, attributes in series(read())]

    def count(name: Name) -> Callable[[CallbackOptions], Iterable[Observation]]:
        # `list` is one step to other threads, a loop over a dict that grows is not
        return lambda options: [Observation(value, dict(key)) for key, value in list(tallies.counts.get(name, {}).items())]

    callbacks = {name: gauge(series) for name, series in SERIES.items()}
    callbacks |= {name: count(name) for name in names.ALL if name.kind is Kind.COUNTER and name not in SERIES}
    for name, callback in callbacks.items():
        create = {
            Kind.COUNTER: meter.create_observable_counter,
            Kind.UP_DOWN: meter.create_observable_up_down_counter,
        }.get(name.kind, meter.create_observable_gauge)
        create(name.name, [callback], name.unit, name.description)


# --- histograms: added up by tally.py, handed on by the SDK's readers ------------------------------------------------


def _joined(data: MetricsData, look: Look) -> MetricsData:
    """What the SDK has collected, and the distributions, in one scope: two of a name would overwrite each other."""
    temporality = AggregationTemporality.DELTA if look.delta else AggregationTemporality.CUMULATIVE
    now_ns = time.time_ns()
    histograms = [
        Metric(name.name, name.description, name.unit, Histogram([_data_point(p, now_ns) for p in points], temporality))
        for name, points in look.points(now_ns)
    ]
    resources = []
    for resource in data.resource_metrics:
        scopes = [
            replace(scope, metrics=[*scope.metrics, *histograms]) if scope.scope.name == SCOPE else scope
            for scope in resource.scope_metrics
        ]
        resources.append(replace(resource, scope_metrics=scopes))
    return MetricsData(resources)


def _data_point(point: Point, now_ns: int) -> HistogramDataPoint:
    return HistogramDataPoint(
        attributes=dict(point.attributes),
        start_time_unix_nano=point.since_unix_ns,
        time_unix_nano=now_ns,
        count=sum(point.counts),
        sum=point.sum,
        bucket_counts=point.counts,
        explicit_bounds=point.bounds,
        min=None,  # type: ignore[arg-type]  # optional in OTLP, and not kept
        max=None,  # type: ignore[arg-type]
        exemplars=[Exemplar({}, seen.value, seen.unix_ns, seen.span_id, seen.trace_id) for seen in point.exemplars],
    )


class _Scrape(PrometheusMetricReader):
    """What `render` reads."""

    def __init__(self, look: Look, registry: CollectorRegistry) -> None:
        super().__init__(scope_info_enabled=False, registry=registry)
        self._look = look

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
        super()._receive_metrics(_joined(metrics_data, self._look), timeout_millis, **kwargs)


@dataclass(slots=True)
class _WithExemplars:
    """A registry as OpenMetrics shows it: on each bucket the latest request that fell into it and was traced.

    The SDK's exporter leaves exemplars out.
    """

    registry: CollectorRegistry
    tallies: Tallies

    def collect(self) -> Iterable[Family]:
        found = dict(self._found())
        for family in self.registry.collect():
            if family.type == "histogram":
                family.samples = [self._with(sample, found) for sample in family.samples]
            yield family

    def _found(self) -> Iterable[tuple[tuple[str, frozenset[tuple[str, str]]], samples.Exemplar]]:
        """By the sample's name and labels."""
        for name, series in list(self.tallies.distributions.items()):
            bounds = [*(str(bound) for bound in name.buckets), "+Inf"]
            for key, distribution in list(series.items()):
                labels = {attribute.replace(".", "_"): str(value) for attribute, value in key}
                for bucket, seen in list(distribution.exemplars.items()):
                    of = frozenset({**labels, "le": bounds[bucket]}.items())
                    yield (names.exported(name, "bucket"), of), _exemplar(seen)

    @staticmethod
    def _with(sample: samples.Sample, found: Mapping[Any, samples.Exemplar]) -> samples.Sample:
        exemplar = found.get((sample.name, frozenset(sample.labels.items())))
        return sample if exemplar is None else sample._replace(exemplar=exemplar)


def _exemplar(seen: tally.Exemplar) -> samples.Exemplar:
    labels = {"trace_id": format_trace_id(seen.trace_id), "span_id": format_span_id(seen.span_id)}
    return samples.Exemplar(labels, seen.value, seen.unix_ns / 1e9)


class _Push(PeriodicExportingMetricReader):
    """What pushes OTLP, every OTEL_METRIC_EXPORT_INTERVAL."""

    def __init__(self, look: Look, exporter: OTLPMetricExporter) -> None:
        self._look = look  # before the thread starts
        super().__init__(exporter)
        look.delta = (self._preferred_temporality or {}).get(HistogramInstrument) is AggregationTemporality.DELTA

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
        super()._receive_metrics(_joined(metrics_data, self._look), timeout_millis, **kwargs)


# --- spans -----------------------------------------------------------------------------------------------------------


def _unix_ns(entry: Entry, at: float) -> int:
    """A monotonic instant of the request, in wall time."""
    # a float of wall nanoseconds would round to 256 of them
    return int(entry.arrived_unix_s * 1e9) + int((at - entry.arrived_at) * 1e9)


def _describe(span: Span, entry: Entry) -> None:
    span.set_attributes(of_span(entry))
    for event, at in events(entry):
        span.add_event(event, timestamp=_unix_ns(entry, at))
    if server_failed(entry):
        span.set_status(StatusCode.ERROR, error_type(entry))
