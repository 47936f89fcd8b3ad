"""What the tests of telemetry share: requests that ended, gauges, and a collector that decodes OTLP."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from telemetry.gauges import (
    ConfigVersion,
    DomainTotals,
    EndedGauge,
    ExperimentGauge,
    Gauges,
    ServerGauge,
    ShadowGauge,
    ShadowTotals,
)
from telemetry.ledger import Energy, Entry
from telemetry.names import Name
from telemetry.otel import Telemetry
from telemetry.snapshot import DeviceState, Snapshot, Source


def entry(id: str = "r1", **values: Any) -> Entry:
    """A streamed chat: 1 s held, 0.25 s without a slot, first token at 1.5 s, 41 tokens in 5.5 s."""
    usual = {
        "operation": "chat",
        "dialect": "openai",
        "model": "llama",
        "streamed": True,
        "prompt_tokens": 200,
        "prompt_estimated": False,
        "output_tokens": 41,
        "output_estimated": False,
        "slack_s": 2.0,
        "server": "http://10.0.0.1:8000",
        "policy": "span",
        "outcome": "policy",
        "held_s": 1.0,
        "queued_s": 0.25,
        "released_at": 101.25,
        "first_token_at": 101.5,
        "ended_at": 105.5,
        "status": 200,
    }
    return Entry(id, 100.0, 1_700_000_000.0, **{**usual, **values})


def joules(joules: float, source: Source | None = Source.COUNTER) -> Energy:
    return Energy(active_uj=int(joules * 1e6), prefill_uj=1_000_000, source=source, final=True)


GPU = DeviceState("GPU-1", Source.COUNTER, 123_000_000, 345.5, 49.5, integrated_uj=122_000_000)
METERED = Gauges(
    now_s=50.0,
    held=3,
    ready=2,
    queue_limit=100,
    body_limit=1000,
    servers=(
        ServerGauge("http://10.0.0.1:8000", "default", 7, "closed", slots=8),
        ServerGauge("http://10.0.0.2:8000", "default", 0, "open"),
    ),
    telemetry=Snapshot(50.0, {"GPU-1": GPU}),
    config=ConfigVersion(3, "0123456789ab"),
    ledger_dropped=0,
    domains=[DomainTotals("all", Source.COUNTER, 120_000_000, 20_000_000, 5_000_000)],
    shadow=ShadowGauge([ShadowTotals("as_run", 700.0, -5.0, 9, 1, 0)], {"span": -5.0}, left_out=2, behind_s=1.5),
    ended=[EndedGauge("former", "tripped", 1_700_000_000.0)],
    experiments=[ExperimentGauge("try", "j_per_token", 6, -0.2, -0.3, -0.1, {"errors": "open"}, ("counter",))],
)
UNMETERED = Gauges(now_s=50.0, servers=(ServerGauge("http://10.0.0.1:8000", "default", 0, "closed"),))


@contextmanager
def telemetry(gauges: Gauges = UNMETERED, environ: dict[str, str] | None = None) -> Iterator[Telemetry]:
    running = Telemetry.start(lambda: gauges, environ or {}, version="1.2.3")
    try:
        yield running
    finally:
        running.shutdown()


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(running: Telemetry) -> Samples:
    body, content_type = running.render()
    assert content_type.startswith("text/plain")
    families = text_string_to_metric_families(body.decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(samples: Samples, name: str, **labels: str) -> float:
    """The one sample with that name and at least those labels."""
    found = [v for (n, have), v in samples.items() if n == name and labels.items() <= dict(have).items()]
    assert len(found) == 1, f"{len(found)} samples of {name} {labels}"
    return found[0]


def has(samples: Samples, name: str) -> bool:
    return any(sample.startswith(name) for sample, _ in samples)


@dataclass
class Collector:
    """Takes OTLP over HTTP, as a collector does."""

    url: str = ""
    metrics: list[Any] = field(default_factory=list)
    spans: list[Any] = field(default_factory=list)
    resources: list[dict[str, str]] = field(default_factory=list)

    def take(self, path: str, body: bytes) -> None:
        if path == "/v1/metrics":
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                self.resources.append(attributes(resource.resource))
                self.metrics += [metric for scope in resource.scope_metrics for metric in scope.metrics]
        if path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resources.append(attributes(resource.resource))
                self.spans += [span for scope in resource.scope_spans for span in scope.spans]

    def points(self, name: Name) -> list[Any]:
        return [p for m in self.metrics if m.name == name.name for p in getattr(m, m.WhichOneof("data")).data_points]


def attributes(thing: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in thing.attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector at work on a port of its own."""
    taken = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            taken.take(self.path, gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        taken.url = f"http://127.0.0.1:{server.server_port}"
        yield taken
        server.shutdown()
        thread.join()
