"""The way from a panel to one request's trace: exemplars, as OpenMetrics and a real Prometheus have them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from bench.dashboards.stage import scraping
from telemetry.otel import Telemetry
from tests.telemetry.telling import METERED, Collector, collecting, entry, joules, telemetry
from tests.tools import tool

ACCEPT = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;q=0.5,*/*;q=0.1"
)
BUCKET = "paceline_request_energy_joules_bucket"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as taken:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{taken.url}/v1/traces")
        yield taken


@contextmanager
def traced(collector: Collector) -> Iterator[Telemetry]:
    """Two requests whose joules are known, and which were traced."""
    environ = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/v1/traces"}
    with telemetry(METERED, environ) as running:
        for ended in (entry("r1", energy=joules(12.5)), entry("r2", energy=joules(300.0), model="other")):
            running.request_ended(ended)
            running.request_final(ended)
        yield running


def test_openmetrics_has_each_requests_trace_on_its_bucket(collector: Collector) -> None:
    with traced(collector) as running:
        body, content_type = running.render(ACCEPT)
    assert content_type.startswith("application/openmetrics-text")
    families = list(text_string_to_metric_families(body.decode()))
    exemplars = {
        (sample.labels["gen_ai_request_model"], sample.labels["le"]): sample.exemplar
        for family in families
        for sample in family.samples
        if sample.exemplar
    }
    assert set(exemplars) == {("llama", "20.0"), ("other", "500.0")}
    spans = {dict_of(span)["paceline.request.id"]: span for span in collector.spans}
    for (model, bound), id in ((("llama", "20.0"), "r1"), (("other", "500.0"), "r2")):
        exemplar = exemplars[model, bound]
        assert exemplar.labels["trace_id"] == spans[id].trace_id.hex()
        assert exemplar.labels["span_id"] == spans[id].span_id.hex()


def test_both_formats_tell_the_same_samples(collector: Collector) -> None:
    with traced(collector) as running:
        text, openmetrics = running.render()[0].decode(), running.render(ACCEPT)[0].decode()

    def samples(body: str) -> set[str]:
        ages = ("#", "paceline_meter_age")
        return {line.partition(" # ")[0] for line in body.splitlines() if line and not line.startswith(ages)}

    assert samples(text) == samples(openmetrics)
    assert "trace_id" not in text


def test_without_traces_there_are_no_exemplars() -> None:
    with telemetry(METERED) as running:
        running.request_final(entry(energy=joules(12.5)))
        assert b"trace_id" not in running.render(ACCEPT)[0]


async def test_prometheus_leads_from_joules_to_the_trace(collector: Collector, tmp_path: Path) -> None:
    program = tool("prometheus")
    with traced(collector) as running, exposed(running) as target:
        async with scraping(tmp_path, program, target) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
            query = {"query": f"sum by (le) (rate({BUCKET}[1m]))", "start": str(time.time() - 60), "end": str(time.time() + 60)}
            found: list[Any] = []
            while not found:
                found = (await client.get("/api/v1/query_exemplars", params=query)).json()["data"]
                await asyncio.sleep(0.1)
    exemplars = [exemplar for series in found for exemplar in series["exemplars"]]
    assert {exemplar["value"] for exemplar in exemplars} == {"12.5", "300"}
    assert {exemplar["labels"]["trace_id"] for exemplar in exemplars} == {span.trace_id.hex() for span in collector.spans}


@contextmanager
def exposed(running: Telemetry) -> Iterator[str]:
    """What the admin port does with /metrics."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, content_type = running.render(self.headers.get("accept", ""))
            self.send_response(200)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def dict_of(span: Any) -> dict[str, str]:
    return {pair.key: pair.value.string_value for pair in span.attributes}
