"""Totals by tenant, model, policy and tier, and what is nobody's, against the requests that they are made of."""

from __future__ import annotations

from typing import Any

import pytest

from telemetry.factors import GRAMS, Factor, Factors, Rate
from telemetry.gauges import DomainTotals
from telemetry.ledger import Energy, Entry
from telemetry.records import factors_of
from telemetry.snapshot import Scope, Source
from telemetry.tally import LIMIT, MODELS, OTHER
from telemetry.usage import KEYS, Usage
from tests.telemetry.telling import entry, joules

KWH_J = 3.6e6
CARBON = Factor(GRAMS, 100.0, "the grid")
PRICE = Factor("EUR", 0.2, "the contract")
BOTH = {"carbon": CARBON, "price": PRICE}


def usage_of(*entries: Entry, factors: dict[str, Factor] | None = None) -> Usage:
    usage = Usage()
    for one in entries:
        usage.add(one, factors or {})
    return usage


def only(groups: list[dict[str, Any]]) -> dict[str, Any]:
    [group] = groups
    return group


def test_requests_and_tokens_are_told_apart_by_any_of_the_keys() -> None:
    usage = usage_of(
        entry(tenant="a", model="x", output_tokens=10),
        entry(tenant="a", model="y", output_tokens=20, output_estimated=True),
        entry(tenant="b", model="x", status=500, prompt_estimated=True),
    )
    assert [(g["tenant"], g["requests"]) for g in usage.by(["tenant"])] == [("a", 2), ("b", 1)]
    assert [(g["model"], g["tenant"]) for g in usage.by(["model", "tenant"])] == [("x", "a"), ("x", "b"), ("y", "a")]
    assert len(usage.by(KEYS)) == 3
    everything = only(usage.by([]))
    assert (everything["requests"], everything["completed"], everything["failed"]) == (3, 2, 1)
    assert (everything["prompt_tokens"], everything["prompt_tokens_estimated"]) == (600, 200)
    assert (everything["output_tokens"], everything["output_tokens_estimated"]) == (71, 20)


def test_joules_are_added_up_by_where_they_come_from() -> None:
    host = Energy(active_uj=500_000, source=Source.COUNTER, method="time_equal", scope=Scope.HOST, final=True)
    usage = usage_of(
        entry(energy=joules(2), host_energy=host), entry(energy=joules(3)), entry(energy=joules(7, Source.SIMULATED))
    )
    energy = {(e["source"], e["scope"]): e for e in only(usage.by([]))["energy"]}
    assert {key: (e["requests"], e["active_j"]) for key, e in energy.items()} == {
        ("counter", "gpu"): (2, 5.0),
        ("counter", "host"): (1, 0.5),
        ("simulated", "gpu"): (1, 7.0),
    }
    assert energy["counter", "gpu"]["prefill_j"] == 2.0


def test_uncertainties_are_not_taken_to_cancel_out() -> None:
    doubtful = joules(2)
    doubtful.doubt.counts_j = 0.5
    usage = usage_of(*(entry(energy=doubtful) for _ in range(4)))
    assert only(only(usage.by([]))["energy"])["uncertainty_j"] == pytest.approx(4 * doubtful.uncertainty_j)
    assert doubtful.uncertainty_j > 0


def test_unknown_is_counted_and_adds_no_joules() -> None:
    part = Energy(active_uj=4_000_000)
    never = entry(released_at=None, policy="", server="", status=429, energy=Energy())
    told = only(usage_of(entry(energy=part), never, factors=BOTH).by([]))
    assert (told["energy"], told["energy_unknown"], told["energy_unknown_j"]) == ([], 1, 4.0)
    assert (told["never_left"], told["prompt_tokens"]) == (1, 200)


def test_grams_and_money_name_their_source_and_the_joules_that_they_stand_for() -> None:
    usage = usage_of(entry(energy=joules(2)), factors=BOTH)
    usage.add(entry(energy=joules(3)), {"price": Factor("CHF", 0.3, "another contract")})
    energy = only(only(usage.by([]))["energy"])
    assert energy["carbon"] == [{"g": pytest.approx(200 / KWH_J), "source": "the grid", "of_j": 2.0}]
    assert energy["price"] == [
        {"amount": pytest.approx(0.4 / KWH_J), "currency": "EUR", "source": "the contract", "of_j": 2.0},
        {"amount": pytest.approx(0.9 / KWH_J), "currency": "CHF", "source": "another contract", "of_j": 3.0},
    ]


def test_what_is_nobodys_is_worth_what_it_was_when_it_was_settled() -> None:
    usage = Usage()

    def totals(counted: int, idle: int, unattributed: int) -> DomainTotals:
        return DomainTotals("gpus", Source.COUNTER, counted * 1_000_000, idle * 1_000_000, unattributed * 1_000_000)

    usage.settled([totals(10, 4, 1)], {"carbon": CARBON})
    usage.settled([totals(20, 6, 1)], {})
    usage.settled([totals(30, 9, 2)], {"carbon": Factor(GRAMS, 200.0, "the grid")})
    told = only(usage.domains([totals(30, 9, 2)]))
    assert (told["counted_j"], told["requests_j"]) == (30, 19)
    assert told["idle"]["energy_j"] == 9
    assert told["idle"]["carbon"] == [{"g": pytest.approx((4 * 100 + 3 * 200) / KWH_J), "source": "the grid", "of_j": 7.0}]
    assert only(told["unattributed"]["carbon"])["of_j"] == 2.0


def test_clients_cannot_make_groups_without_end() -> None:
    models = usage_of(*(entry(model=str(n)) for n in range(MODELS + 50)))
    assert len(models.by(["model"])) == MODELS + 1
    assert next(g for g in models.by(["model"]) if g["model"] == OTHER)["requests"] == 50
    groups = usage_of(*(entry(tenant=str(n)) for n in range(LIMIT + 50)))
    assert len(groups.by(KEYS)) == LIMIT + 1
    assert sum(g["requests"] for g in groups.by(["tier"])) == LIMIT + 50


def test_the_factor_of_a_request_is_that_of_its_end_and_there_is_none_before() -> None:
    factors = Factors(Rate(GRAMS, "the grid", (0.0, 1_700_000_005.0), (1.0, 2.0)))
    assert factors_of(entry(), factors)["carbon"].per_kwh == 2.0
    assert not factors_of(entry(ended_at=None), factors)
