"""Telemetry as Prometheus sees it, through the real SDK."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import get_ident
from typing import Any

import pytest

from telemetry import names, tally
from telemetry.gauges import Gauges
from telemetry.names import Name
from telemetry.otel import Telemetry
from telemetry.snapshot import Source
from tests.telemetry.telling import METERED, UNMETERED, entry, has, joules, scrape, telemetry, value


def test_a_request_is_in_every_histogram_once() -> None:
    with telemetry() as running:
        ended = entry(energy=joules(12.5))
        running.request_ended(ended)
        running.request_final(ended)
        seen = scrape(running)
    of = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "openai", "gen_ai_request_model": "llama"}
    of |= {"server_address": "10.0.0.1", "server_port": "8000"}
    assert value(seen, "gen_ai_server_request_duration_seconds_sum", **of) == 5.5
    assert value(seen, "gen_ai_server_request_duration_seconds_bucket", **of, le="5.12") == 0
    assert value(seen, "gen_ai_server_request_duration_seconds_bucket", **of, le="10.24") == 1
    assert value(seen, "gen_ai_server_time_to_first_token_seconds_sum", **of) == 1.5
    assert value(seen, "gen_ai_server_time_per_output_token_seconds_sum", **of) == pytest.approx(0.1)
    assert value(seen, "gen_ai_client_token_usage_sum", gen_ai_token_type="input") == 200
    assert value(seen, "gen_ai_client_token_usage_sum", gen_ai_token_type="output") == 41
    ours = {"paceline_policy": "span", "paceline_tier": "interactive", "gen_ai_request_model": "llama"}
    assert value(seen, "paceline_queue_wait_seconds_sum", **ours, paceline_wait="hold") == 1.0
    assert value(seen, "paceline_queue_wait_seconds_sum", **ours, paceline_wait="capacity") == 0.25
    how = {"energy_source": "counter", "energy_attribution_method": "shapley", "energy_scope": "gpu"}
    assert value(seen, "paceline_request_energy_joules_sum", **ours, **how) == 12.5
    assert value(seen, "paceline_request_energy_joules_count", **ours, **how) == 1
    assert value(seen, "paceline_request_energy_joules_bucket", **ours, **how, le="10.0") == 0
    assert value(seen, "paceline_request_energy_joules_bucket", **ours, **how, le="20.0") == 1


def test_what_is_unknown_is_absent_and_never_zero() -> None:
    with telemetry() as running:
        unknown = entry(prompt_estimated=True, output_estimated=True, streamed=False, first_token_at=None)
        running.request_ended(unknown)
        running.request_final(unknown)
        seen = scrape(running)
    assert value(seen, "gen_ai_server_request_duration_seconds_count") == 1
    for name in ("gen_ai_server_time", "gen_ai_client_token_usage", "paceline_request_energy"):
        assert not has(seen, name)


def test_without_a_meter_there_is_no_series_of_energy() -> None:
    with telemetry(UNMETERED) as running:
        running.request_ended(entry())
        running.request_final(entry())
        seen = scrape(running)
    for name in ("hw_", "paceline_meter", "paceline_counted", "paceline_idle", "paceline_unattributed", "paceline_request_"):
        assert not has(seen, name), name


def test_measured_zero_is_zero() -> None:
    with telemetry() as running:
        running.request_final(entry(energy=joules(0.0)))
        assert value(scrape(running), "paceline_request_energy_joules_count") == 1


def test_gauges_are_read_when_somebody_looks() -> None:
    now = METERED
    running = Telemetry.start(lambda: now, {})
    seen = scrape(running)
    assert value(seen, "hw_energy_joules_total", hw_id="GPU-1", hw_type="gpu", energy_source="counter") == 123
    assert value(seen, "hw_power_watts", hw_id="GPU-1") == 345.5
    assert value(seen, "paceline_meter_age_seconds", hw_id="GPU-1") == 0.5
    assert value(seen, "paceline_counted_energy_joules_total", paceline_domain="all", energy_source="counter") == 120
    assert value(seen, "paceline_idle_energy_joules_total", paceline_domain="all") == 20
    assert value(seen, "paceline_unattributed_energy_joules_total", paceline_domain="all") == 5
    assert value(seen, "paceline_energy_saved_joules", paceline_policy="span", energy_source="modelled") == -5
    assert value(seen, "paceline_shadow_energy_joules_total", paceline_strategy="as_run", energy_source="modelled") == 700
    assert value(seen, "paceline_queue_depth", paceline_wait="hold") == 3
    assert value(seen, "paceline_queue_depth", paceline_wait="capacity") == 2
    assert value(seen, "paceline_requests_in_flight", server_address="10.0.0.1", server_port="8000") == 7
    assert value(seen, "paceline_requests_in_flight", server_address="10.0.0.2", server_port="8000") == 0
    now = replace(METERED, held=9)
    assert value(scrape(running), "paceline_queue_depth", paceline_wait="hold") == 9
    running.shutdown()


def test_counts_of_the_room() -> None:
    with telemetry() as running:
        for _ in range(3):
            running.released("policy", "span")
        running.released("expired", "span")
        running.group(3, "span")
        running.fault("span")
        running.tick(0.0003)
        seen = scrape(running)
    assert value(seen, "paceline_release_count_total", paceline_outcome="policy", paceline_policy="span") == 3
    assert value(seen, "paceline_release_count_total", paceline_outcome="expired", paceline_policy="span") == 1
    assert value(seen, "paceline_group_size_bucket", paceline_policy="span", le="2.0") == 0
    assert value(seen, "paceline_group_size_bucket", paceline_policy="span", le="4.0") == 1
    assert value(seen, "paceline_policy_faults_total", paceline_policy="span") == 1
    assert value(seen, "paceline_scheduler_tick_seconds_sum") == 0.0003


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"status": 503}, "503"),
        ({"error": "client_gone"}, "client_gone"),
        ({"status": 429, "error": "overloaded", "server": "", "policy": "", "released_at": None}, "overloaded"),
    ],
)
def test_failures_say_why(values: dict[str, Any], error: str) -> None:
    with telemetry() as running:
        running.request_ended(entry(**values))
        seen = scrape(running)
    assert value(seen, "gen_ai_server_request_duration_seconds_count", error_type=error) == 1
    assert has(seen, "paceline_queue_wait") == ("released_at" not in values)  # who never left has no wait to tell


def allowed(name: Name) -> set[str]:
    return {attribute.replace(".", "_") for attribute in name.attributes} | {"le"}


def test_every_series_is_in_the_table_with_its_attributes() -> None:
    with telemetry(METERED) as running:
        for ended in (entry(energy=joules(1)), entry(status=500, error="", energy=joules(2, Source.SIMULATED))):
            running.request_ended(ended)
            running.request_final(ended)
        running.late(entry())
        running.released("policy", "span")
        running.group(1, "span")
        running.retried("busy")
        running.refused("unauthorized")
        running.fault("span")
        running.tick(0.1)
        running.shadow_waits("as_run").add(0.1)
        seen = scrape(running)
    found = set()
    for sample, labels in seen:
        if sample == "target_info":
            continue
        name = next(n for n in names.ALL if sample.startswith(n.name.replace(".", "_")))
        found.add(name)
        assert {key for key, _ in labels} <= allowed(name), sample
    assert found == set(names.ALL)


def test_several_proxies_in_one_process_do_not_mix() -> None:
    with telemetry() as one, telemetry() as other:
        one.request_ended(entry())
        assert has(scrape(one), "gen_ai_server_request_duration")
        assert not has(scrape(other), "gen_ai_server_request_duration")


def test_clients_cannot_flood_the_series() -> None:
    with telemetry() as running:
        for n in range(3 * tally.MODELS):
            running.request_ended(entry(model=f"model-{n}"))
        running.request_ended(entry(model="model-0"))
        seen = scrape(running)
    count = "gen_ai_server_request_duration_seconds_count"
    assert sum(name == count for name, _ in seen) == tally.MODELS + 1
    assert value(seen, count, gen_ai_request_model="model-0") == 2
    assert value(seen, count, gen_ai_request_model="_OTHER") == 2 * tally.MODELS


def test_beyond_the_limit_everything_is_one_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "LIMIT", 2)
    with telemetry() as running:
        for server in ("a", "b", "c", "d", "a"):
            running.request_ended(entry(server=server))
        for outcome in ("policy", "deadline", "fault", "drained"):
            running.released(outcome)
        seen = scrape(running)
    count = "gen_ai_server_request_duration_seconds_count"
    assert value(seen, count, server_address="a") == 2
    assert value(seen, count, otel_metric_overflow="true") == 2
    assert value(seen, "paceline_release_count_total", otel_metric_overflow="true") == 2


def test_what_was_looked_at_in_one_thread_is_told_in_others_whole_each_time() -> None:
    readers = []

    def read() -> Gauges:
        readers.append(get_ident())
        return METERED

    running = Telemetry.start(read, {})
    try:
        running.request_ended(entry())
        whole = {line for line in running.render()[0].splitlines() if not line.startswith(b"paceline_meter_age")}
        looked = running.look()
        with ThreadPoolExecutor(4) as threads:
            bodies = [body for body, _ in threads.map(lambda _: running.render("", looked), range(8))]
    finally:
        running.shutdown()
    assert all(whole <= set(body.splitlines()) for body in bodies)
    assert set(readers) == {get_ident()}


def test_a_disabled_sdk_says_nothing_and_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    with telemetry(METERED) as running:
        running.request_ended(entry(energy=joules(1)))
        running.request_final(entry(energy=joules(1)))
        assert scrape(running) == {}
