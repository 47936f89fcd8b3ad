"""What one request's record holds, what is unknown in it, and what is never in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from telemetry.factors import GRAMS, NO_FACTORS, Factors, Rate
from telemetry.ledger import Energy
from telemetry.records import COLUMNS, LONGEST_TEXT, record, tell
from telemetry.snapshot import Scope, Source
from telemetry.uncertainty import Doubt
from tests.telemetry.telling import entry, joules

FACTORS = Factors(Rate.constant(GRAMS, 360.0, "the grid"), Rate.constant("EUR", 0.36, "the contract"))
HOST = Energy(active_uj=2_000_000, source=Source.COUNTER, method="time_equal", scope=Scope.HOST, final=True)
UNKNOWN = Energy()


def test_a_record_of_everything_lacks_nothing() -> None:
    told = record(
        entry(energy=joules(10), host_energy=HOST, tenant="t", error="timeout", experiment="try", arm="control"), FACTORS
    )
    assert [name for name, value in told.items() if value is None] == []
    assert [type(value) for value in told.values()] == [column.kind for column in COLUMNS]


def test_each_part_of_the_uncertainty_has_a_column() -> None:
    paths = {column.path for column in COLUMNS}
    assert {f"energy.uncertainty.{part}" for part in Doubt().parts()} <= paths


def test_the_page_tells_of_each_column() -> None:
    page = (Path(__file__).parents[2] / "docs/ledger.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert rows == [f"| `{column.name}` | {column.kind.__name__} | {column.meaning} |" for column in COLUMNS]


def test_times_joules_grams_and_money() -> None:
    told = record(entry(energy=joules(10), host_energy=HOST), FACTORS)
    assert told["ended_unix_s"] == 1_700_000_005.5
    assert (told["energy_active_j"], told["energy_prefill_j"], told["energy_decode_j"]) == (10, 1, 9)
    assert (told["carbon_g"], told["carbon_host_g"]) == (pytest.approx(0.001), pytest.approx(0.0002))
    assert told["carbon_source"] == "the grid"
    assert (told["price_amount"], told["price_currency"]) == (pytest.approx(1e-6), "EUR")
    assert told["error"] is None


def test_carbon_and_price_name_where_their_joules_come_from() -> None:
    told = tell(entry(energy=joules(10, Source.MODELLED)), FACTORS)
    assert told["carbon"] == {
        "g": pytest.approx(0.001),
        "host_g": None,
        "g_per_kwh": 360.0,
        "source": "the grid",
        "energy_source": "modelled",
    }
    assert told["price"] == {
        "amount": pytest.approx(1e-6),
        "host_amount": None,
        "currency": "EUR",
        "per_kwh": 0.36,
        "source": "the contract",
        "energy_source": "modelled",
    }


@pytest.mark.parametrize("energy", [UNKNOWN, Energy(active_uj=5, source=Source.COUNTER, final=False)])
def test_what_is_not_known_or_not_final_has_neither_grams_nor_a_price(energy: Energy) -> None:
    told = tell(entry(energy=energy), FACTORS)
    assert (told["carbon"], told["price"]) == (None, None)


def test_the_factor_is_that_of_the_end() -> None:
    rate = Rate(GRAMS, "the grid", (0.0, 1_700_000_005.0), (1.0, 2.0))
    assert record(entry(energy=joules(10)), Factors(rate))["carbon_g_per_kwh"] == 2.0


def test_unknown_is_absent_and_never_zero() -> None:
    told = record(entry(energy=UNKNOWN, first_token_at=None), NO_FACTORS)
    assert told["ttft_s"] is None
    assert all(told[column.name] is None for column in COLUMNS if column.name.startswith(("energy", "host", "carbon", "price")))


def test_what_clients_and_servers_choose_is_bounded() -> None:
    told = record(entry(model="\ud800" + "m" * 9999, output_tokens=10**30, energy=joules(1)), NO_FACTORS)
    assert isinstance(told["model"], str)
    assert len(told["model"]) == LONGEST_TEXT
    assert told["model"].startswith("?m")
    assert told["output_tokens"] is None


def test_no_prompt_no_answer_no_header_is_told() -> None:
    """Nothing of them is in an entry but its trace context, which is a header's."""
    secret = entry(energy=joules(1), traceparent="00-secret", tracestate="secret")
    assert "secret" not in json.dumps([record(secret, FACTORS), tell(secret, FACTORS)])
    private = ("prompt", "answer", "text", "key", "header", "body", "content")
    named = [c.name for c in COLUMNS if any(word in c.name for word in private)]
    assert named == ["prompt_tokens", "prompt_tokens_estimated"]
