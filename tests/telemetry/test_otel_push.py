"""Telemetry as a collector sees it: OTLP over HTTP from the real SDK."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from telemetry import names
from telemetry.ledger import Entry
from telemetry.otel import pushes
from tests.telemetry.telling import METERED, Collector, attributes, collecting, entry, joules, scrape, telemetry, value

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as taken:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", taken.url)
        yield taken


def pushed(collector: Collector, *entries: Entry, environ: dict[str, str] | None = None) -> None:
    """Entries go through a Telemetry from start to shutdown."""
    with telemetry(METERED, {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **(environ or {})}) as running:
        for ended in entries:
            running.request_ended(ended)
            running.request_final(ended)


def test_metrics_are_pushed(collector: Collector) -> None:
    pushed(collector, entry(energy=joules(12.5)))
    (duration,) = collector.points(names.DURATION)
    assert (duration.count, duration.sum) == (1, 5.5)
    assert list(duration.explicit_bounds) == list(names.SECONDS)
    assert list(duration.bucket_counts) == [0] * 10 + [1] + [0] * 4
    assert not duration.HasField("min")
    assert duration.start_time_unix_nano <= duration.time_unix_nano
    (device,) = collector.points(names.HW_ENERGY)
    assert device.as_double == 123
    assert attributes(device) == {"hw.id": "GPU-1", "hw.type": "gpu", "energy.source": "counter"}
    assert collector.resources[0]["service.name"] == "paceline"
    assert collector.resources[0]["service.version"] == "1.2.3"
    kinds = {m.name: m.WhichOneof("data") for m in collector.metrics}
    expected = {"counter": "sum", "up_down_counter": "sum", "gauge": "gauge", "histogram": "histogram"}
    for name in names.ALL:
        assert kinds.get(name.name, expected[name.kind]) == expected[name.kind]
    sums = {m.name: m.sum.is_monotonic for m in collector.metrics if m.WhichOneof("data") == "sum"}
    assert sums["hw.energy"]
    assert not sums["paceline.energy.saved"]


def test_the_span_of_a_request(collector: Collector) -> None:
    parent = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
    pushed(collector, entry(energy=joules(12.5), **parent))
    (span,) = collector.spans
    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.trace_state) == (TRACE, PARENT, "vendor=1")
    assert (span.name, span.kind) == ("chat llama", span.SPAN_KIND_SERVER)
    start = 1_700_000_000 * 10**9
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (start, start + 5_500_000_000)
    assert [(e.name, e.time_unix_nano - start) for e in span.events] == [("released", 1.25e9), ("first token", 1.5e9)]
    assert attributes(span) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "llama",
        "gen_ai.usage.input_tokens": 200,
        "gen_ai.usage.output_tokens": 41,
        "server.address": "10.0.0.1",
        "server.port": 8000,
        "http.response.status_code": 200,
        "paceline.request.id": "r1",
        "paceline.policy": "span",
        "paceline.tier": "interactive",
        "paceline.outcome": "policy",
        "paceline.held_s": 1.0,
        "paceline.queued_s": 0.25,
        "paceline.energy.joules": 12.5,
        "paceline.energy.prefill_joules": 1.0,
        "paceline.energy.uncertainty_joules": 0.0,
        "paceline.energy.timeline": "streamed",
        "energy.source": "counter",
        "energy.attribution.method": "shapley",
        "energy.scope": "gpu",
    }


def test_a_request_without_energy_has_a_span_without_energy(collector: Collector) -> None:
    pushed(collector, entry(prompt_estimated=True, output_estimated=True))
    assert not [key for key in attributes(collector.spans[0]) if "energy" in key or "usage" in key]


def test_the_energy_histogram_points_to_the_span(collector: Collector) -> None:
    pushed(collector, entry(energy=joules(12.5)))
    (point,) = collector.points(names.REQUEST_ENERGY)
    (exemplar,) = point.exemplars
    (span,) = collector.spans
    assert (exemplar.as_double, exemplar.trace_id, exemplar.span_id) == (12.5, span.trace_id, span.span_id)


def test_without_a_parent_a_trace_begins(collector: Collector) -> None:
    pushed(collector, entry(), entry("r2", traceparent="nonsense"))
    assert [span.parent_span_id for span in collector.spans] == [b"", b""]
    assert len({span.trace_id for span in collector.spans}) == 2


def test_what_the_caller_does_not_sample_is_not_sampled(collector: Collector) -> None:
    pushed(collector, entry(traceparent=f"00-{TRACE}-{PARENT}-00", energy=joules(12.5)))
    assert collector.spans == []
    (point,) = collector.points(names.REQUEST_ENERGY)
    assert (point.count, list(point.exemplars)) == (1, [])


def test_the_standard_sampler_is_honoured(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    pushed(collector, entry())
    assert collector.spans == []
    assert collector.points(names.DURATION)


@pytest.mark.parametrize(
    ("values", "failed"),
    [
        ({}, False),
        ({"status": 500}, True),
        ({"error": "upstreamerror"}, True),
        ({"error": "client_gone"}, False),
        ({"status": 429, "error": "overloaded"}, False),
        ({"status": 503, "error": "overloaded"}, True),
    ],
)
def test_only_what_the_server_did_wrong_is_an_error(collector: Collector, values: dict[str, Any], failed: bool) -> None:
    pushed(collector, entry(**values))
    assert (collector.spans[0].status.code == 2) == failed


def test_deltas_where_the_backend_wants_them(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "20")
    with telemetry(environ={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}) as running:
        for n in range(3):
            running.request_ended(entry())
            wait_for(lambda n=n: len(collector.points(names.DURATION)) > n)  # type: ignore[misc]
        assert value(scrape(running), "gen_ai_server_request_duration_seconds_count") == 3  # who scrapes wants the sum
    points = collector.points(names.DURATION)
    assert [(point.count, point.sum) for point in points] == [(1, 5.5)] * 3
    assert all(now.start_time_unix_nano >= then.time_unix_nano for then, now in pairwise(points))


def wait_for(happened: Callable[[], bool]) -> None:
    waits = threading.Event()
    for _ in range(500):
        if happened():
            return
        waits.wait(0.01)
    raise AssertionError("it did not happen in 5 s")


@pytest.mark.parametrize(
    ("environ", "metrics", "traces"),
    [
        ({}, False, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False, False),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:4318/v1/metrics"}, True, False),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, False, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, True, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_METRICS_EXPORTER": "prometheus"}, False, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_METRICS_EXPORTER": "prometheus, otlp"}, True, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "True"}, False, False),
    ],
)
def test_the_standard_variables_decide(environ: dict[str, str], metrics: bool, traces: bool) -> None:
    assert (pushes("metrics", environ), pushes("traces", environ)) == (metrics, traces)


def test_a_grpc_port_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert pushes("traces", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    assert "http/protobuf" in caplog.text


def test_the_environment_names_the_service(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"OTEL_SERVICE_NAME": "edge", "OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=pod-7,team=llm"}
    for key, text in told.items():
        monkeypatch.setenv(key, text)
    pushed(collector, entry(), environ=told)
    found = collector.resources[0]
    assert (found["service.name"], found["service.instance.id"], found["team"]) == ("edge", "pod-7", "llm")


def test_a_collector_that_is_away_costs_no_request(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.1")
    with telemetry(environ={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}) as running:
        running.request_ended(entry())
        running.request_final(entry())
        assert value(scrape(running), "gen_ai_server_request_duration_seconds_count") == 1
    assert "Failed to export" in caplog.text
