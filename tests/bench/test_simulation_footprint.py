"""Grams: each interval's joules times what a kilowatt-hour stands for then, and nothing for what nobody knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.draws import BadSpec
from bench.simulation.footprint import changes, covered_s, even, rate_for, weigh
from bench.simulation.run import Setting, perform
from bench.simulation.strategies import pairings
from policies.base import Tier, Waiting
from policies.simulate import Arrival
from telemetry.factors import Rate
from tests.bench.simulating import MODEL, report, simulate

BEGAN = 1_700_000_000.0
TWO_HOURS = Rate("g", "file", (BEGAN - 100.0, BEGAN + 10.0), (360.0, 36.0))
SLEEPY = "sleepy after_s=1 placement.name=pack placement.params.knee=2"


def crowd(count: int = 60, slack: float = 40.0) -> list[Arrival]:
    tiers = (Tier.FLEX, Tier.INTERACTIVE)
    return [
        Arrival(Waiting(f"r{n}", n * 0.4, n * 0.4 + slack * (n % 2 == 0), 20 + n % 7, 40, tiers[n % 2]), 5 + 9 * (n % 5))
        for n in range(count)
    ]


def values(path: Path, began: float = 0.0, header: str = "when,gCO2/kWh\n") -> Path:
    path.write_text(f"{header}{began},360\n{began + 10},36\n{began + 20},720\n")
    return path


def test_a_constant_value_is_all_joules_times_it_and_changes_no_other_figure() -> None:
    chosen = pairings(["span", "passthrough"], ["spread", SLEEPY], [], [])
    plain = Setting(crowd(), MODEL, servers=3, wall_offset_s=BEGAN)
    told = perform(Setting(**{**_fields(plain), "rate": Rate.constant("g", 360.0, "me")}), chosen, bound=False).strategies
    for one, without in zip(told, perform(plain, chosen, bound=False).strategies, strict=True):
        assert one.footprint is not None
        assert without.footprint is None
        assert (one.energy_j, one.latency, one.until_s) == (without.energy_j, without.latency, without.until_s)
        assert one.footprint.amount == pytest.approx(one.energy_j / 1e4, rel=1e-6)  # 3.6 MJ a kilowatt-hour
        assert one.footprint.unknown_j == 0.0


def _fields(setting: Setting) -> dict[str, Any]:
    return {name: getattr(setting, name) for name in Setting.__slots__}


def test_readings_at_changes_alter_nothing_and_idle_joules_count_when_they_are_drawn() -> None:
    setting = Setting([Arrival(Waiting("a", 12.0, 12.0, 20, 40), 20)], MODEL, wall_offset_s=BEGAN, rate=TWO_HOURS)
    (straight,) = perform(setting, pairings([], [], [], []), bound=False).strategies
    assert straight.footprint is not None
    first_j = 10.0 * 20.0  # idle alone until the value falls
    assert straight.footprint.amount == pytest.approx((first_j * 360 + (straight.energy_j - first_j) * 36) / 3.6e6, rel=1e-6)


def test_runs_are_levelled_in_grams_as_in_joules() -> None:
    """Who ends earlier is charged the idle grams until all have ended."""
    setting = Setting(crowd(30), MODEL, wall_offset_s=BEGAN, rate=TWO_HOURS)
    straight, held = perform(setting, pairings(["window every_s=30"], [], [], []), bound=False).strategies
    assert straight.until_s == held.until_s
    alone = perform(setting, pairings([], [], [], []), bound=False).strategies[0]
    assert straight.footprint is not None
    assert alone.footprint is not None
    more_j = straight.energy_j - alone.energy_j
    assert more_j > 0
    assert straight.footprint.amount - alone.footprint.amount == pytest.approx(more_j * 36 / 3.6e6, rel=1e-4)


def test_work_that_waits_for_clean_hours_has_fewer_grams(tmp_path: Path) -> None:
    file = values(tmp_path / "carbon.csv", BEGAN - 5.0)
    chosen = pairings([f"carbon file={file}"], [], [], [])
    rate = rate_for(None, [one.build().policy for one in chosen])
    assert rate is not None
    setting = Setting(crowd(20), MODEL, wall_offset_s=BEGAN, rate=rate)
    straight, carbon = perform(setting, chosen, bound=False).strategies
    assert straight.footprint is not None
    assert carbon.footprint is not None
    assert carbon.footprint.amount < straight.footprint.amount
    assert rate.unit == "gCO2"


def test_what_nobody_knows_is_told_as_unknown() -> None:
    rate = Rate("g", "file", (0.0, 10.0, 30.0), (360.0, None, 720.0), step_s=20.0)
    assert changes(rate, 5.0) == [5.0, 15.0, 25.0, 45.0]
    told = even(rate, 0.0, 0.0, 60.0, 60.0)
    assert told.unknown_j == pytest.approx(20.0 + 10.0)  # the empty value, and after the last
    assert told.amount == pytest.approx((10 * 360 + 20 * 720) / 3.6e6)
    assert covered_s(rate, 0.0, 60.0) == pytest.approx(30.0)
    assert even(rate, 0.0, 5.0, 5.0, 0.0) == weigh(rate, 0.0, [])


@pytest.mark.parametrize(
    ("header", "asked", "unit"),
    [
        ("when,gCO2/kWh\n", True, "gCO2"),
        ("time,eur_per_kwh\n", False, "eur"),
        ("time,value\n", True, "g"),
        ("", False, "units"),
    ],
)
def test_the_unit_is_the_headers(tmp_path: Path, header: str, asked: bool, unit: str) -> None:
    file = values(tmp_path / "f.csv", header=header)
    policies = [one.build().policy for one in pairings([f"ordered policy.name=carbon policy.params.file={file}"], [], [], [])]
    rate = rate_for(file if asked else None, policies)
    assert rate is not None
    assert rate.unit == unit


def test_the_command_tells_grams_in_the_table_and_in_the_report(tmp_path: Path) -> None:
    file = values(tmp_path / "carbon.csv")
    asked = ("--rate", 1, "--requests", 30, "--tiers", "flex=0.5,interactive=0.5", "--slack", "flex=15", "--no-bound")
    shown = simulate(*asked, "--policy", f"carbon file={file}")
    assert shown.exit_code == 0, shown.output
    assert "gCO2/request" in shown.stdout
    assert "each interval's joules, idle ones too, times what" in shown.stdout
    told = report(*asked, "--carbon", file)
    assert told["kwh"] == {"unit": "gCO2", "source": str(file)}
    for one in told["strategies"]:
        assert one["footprint_per_request"] == pytest.approx(one["footprint"]["amount"] / one["completed"])
    assert "footprint" in report(*asked)["strategies"][0]
    assert report(*asked)["strategies"][0]["footprint"] is None


def test_values_of_another_time_are_an_error_and_began_mends_it(tmp_path: Path) -> None:
    file = values(tmp_path / "carbon.csv", BEGAN)
    refused = simulate("--requests", 5, "--carbon", file)
    assert refused.exit_code == 1
    assert "has no value from 1970-01-01 00:00:00+00:00" in refused.output
    assert "--began WHEN" in refused.output
    told = report("--requests", 5, "--carbon", file, "--began", "2023-11-14T22:13:20Z")
    assert (told["began_unix_s"], told["strategies"][0]["footprint"]["unknown_j"]) == (BEGAN, 0.0)
    beside = report("--requests", 5, "--policy", f"carbon file={file}")
    assert beside["kwh"] is None
    assert any("has no value from 1970" in remark for remark in beside["remarks"])


def test_joules_without_a_value_are_remarked(tmp_path: Path) -> None:
    file = tmp_path / "carbon.csv"
    file.write_text("0,100\n10,\n")
    told = report("--rate", 1, "--requests", 30, "--carbon", file)
    assert told["strategies"][0]["footprint"]["unknown_j"] > 0
    assert any("joules are in none: the file has no value" in remark for remark in told["remarks"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--carbon", "no-such.csv"], "no-such.csv"),
        (["--began", "tomorrow"], "write ISO 8601 with an offset"),
        (["--began", "2026-01-01T00:00"], "write ISO 8601 with an offset"),
        (["--began", "nan"], "write ISO 8601 with an offset"),
    ],
)
def test_what_cannot_be_read_is_said(arguments: list[str], said: str) -> None:
    result = simulate("--requests", 3, *arguments)
    assert (result.exit_code, said in result.output) == (1, True)


def test_two_files_need_a_choice(tmp_path: Path) -> None:
    one, two = (values(tmp_path / name) for name in ("a.csv", "b.csv"))
    policies = [pair.build().policy for pair in pairings([f"carbon file={one}", f"carbon file={two}"], [], [], [])]
    with pytest.raises(BadSpec, match="look at 2 files; --carbon FILE says which"):
        rate_for(None, policies)
    assert rate_for(one, policies) is not None
