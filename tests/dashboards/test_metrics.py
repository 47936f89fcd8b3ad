"""The metrics that dashboards and alerts asked for: what is late, tokens beside joules, other methods, bounds, ends."""

from __future__ import annotations

import pytest

from proxy.experiments.plan import FINISHED, STOPPED, TRIPPED
from telemetry import names, tally
from telemetry.ledger import Energy
from telemetry.snapshot import Source
from telemetry.uncertainty import Doubt
from tests.telemetry.telling import METERED, entry, has, joules, scrape, telemetry, value


def test_tokens_are_counted_with_the_joules_that_they_are_divided_into() -> None:
    with telemetry() as running:
        running.request_final(entry(energy=joules(12.5)))
        running.request_final(entry(energy=joules(7.5), output_tokens=9, output_estimated=True))
        running.request_final(entry(energy=joules(1.0, source=None)))  # nobody knows its joules: neither are its tokens here
        seen = scrape(running)
    of = {"paceline_policy": "span", "energy_source": "counter"}
    assert value(seen, "paceline_request_output_tokens_total", **of) == 50
    assert value(seen, "paceline_request_energy_joules_sum", **of) == 20


def test_the_same_joules_by_each_method() -> None:
    energy = Energy(active_uj=10_000_000, tokens_uj=12_000_000, time_uj=7_000_000, source=Source.COUNTER, final=True)
    with telemetry() as running:
        running.request_final(entry(energy=energy, tenant="a"))
        running.request_final(entry(energy=energy, tenant="a"))
        seen = scrape(running)
    of = {"paceline_tenant": "a", "paceline_tier": "interactive", "energy_scope": "gpu", "energy_source": "counter"}
    for method, told in (("shapley", 20), ("tokens", 24), ("time", 14)):
        assert value(seen, "paceline_method_energy_joules_total", energy_attribution_method=method, **of) == told


def test_uncertainty_is_told_as_a_share() -> None:
    energy = Energy(active_uj=10_000_000, source=Source.COUNTER, final=True, doubt=Doubt(meter_j=2.0))
    share = energy.uncertainty_j / 10
    assert share == pytest.approx(0.2)
    nothing = Energy(active_uj=0, source=Source.COUNTER, final=True)
    with telemetry() as running:
        running.request_final(entry(energy=energy))
        running.request_final(entry(energy=nothing))  # a share of nothing is none
        seen = scrape(running)
    assert value(seen, "paceline_energy_uncertainty_count", paceline_tier="interactive") == 1
    assert value(seen, "paceline_energy_uncertainty_sum", paceline_tier="interactive") == pytest.approx(share)


def test_who_was_late_is_told_by_whose_it_was() -> None:
    with telemetry() as running:
        running.late(entry(tenant="a"))
        running.late(entry(tenant="b", server="", policy=""))
        seen = scrape(running)
    assert value(seen, "paceline_request_late_total", paceline_tenant="a", server_address="10.0.0.1") == 1
    assert value(seen, "paceline_request_late_total", paceline_tenant="b") == 1


def test_bounds_are_told_where_there_are_any() -> None:
    with telemetry(METERED) as running:
        seen = scrape(running)
    assert value(seen, "paceline_queue_limit") == 100
    assert value(seen, "paceline_queue_body_limit_bytes") == 1000
    assert value(seen, "paceline_server_slots", server_address="10.0.0.1", paceline_server_group="default") == 8
    assert not [
        labels for called, labels in seen if called == "paceline_server_slots" and ("server_address", "10.0.0.2") in labels
    ]
    ended = {"paceline_experiment": "former", "paceline_end": "tripped"}
    assert value(seen, "paceline_experiment_ended_seconds", **ended) == 1_700_000_000
    with telemetry() as running:
        assert not has(scrape(running), "paceline_queue_limit")


def test_experiments_end_in_the_ways_that_metrics_know() -> None:
    assert set(names.ENDS) == {FINISHED, STOPPED, TRIPPED}


def test_counts_beside_joules_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "LIMIT", 3)
    with telemetry() as running:
        for tenant in "abcdef":
            running.request_final(entry(energy=joules(1), tenant=tenant))
        seen = scrape(running)
    told = [labels for called, labels in seen if called == "paceline_request_output_tokens_total"]
    assert len(told) == 4
    assert value(seen, "paceline_request_output_tokens_total", otel_metric_overflow="true") == 3 * 41
