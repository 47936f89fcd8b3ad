"""Grams and money of joules: by one value, by a file of values, and unknown where nobody said."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from telemetry.factors import GRAMS, Factor, Factors, Rate, read_rate

HOUR = 3600.0
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()


def read(path: Path, text: str, least: float = 0.0) -> Rate:
    path.write_text(text)
    return read_rate(path, GRAMS, "the grid", HOUR, least)


def value(rate: Rate, unix_s: float) -> float | None:
    factor = rate.at(unix_s)
    return None if factor is None else factor.per_kwh


def test_a_kilowatt_hour_is_3600_kilojoules() -> None:
    assert Factor(GRAMS, 56.0, "me").of(3_600_000 * 1_000_000) == pytest.approx(56.0)
    assert Factor("EUR", 0.21, "me").of(1_000_000) == pytest.approx(0.21 / 3.6e6)


def test_one_value_holds_always() -> None:
    rate = Rate.constant("EUR", 0.21, "the contract")
    assert rate.at(0.0) == rate.at(4e9) == Factor("EUR", 0.21, "the contract")


def test_a_value_of_a_file_holds_until_the_next_and_unknown_is_never_the_nearest(tmp_path: Path) -> None:
    rate = read(
        tmp_path / "intensity.csv",
        "datetime,gCO2/kWh\n2026-11-24T12:00:00Z,50\n2026-11-24T14:00:00+01:00,60\n2026-11-24T15:00Z,70\n2026-11-24T15:30Z,\n",
    )
    assert value(rate, NOON - 0.001) is None  # before the file
    assert value(rate, NOON) == value(rate, NOON + HOUR - 0.001) == 50
    assert value(rate, NOON + HOUR) == 60
    assert value(rate, NOON + 2 * HOUR) is None  # a line of the hourly file is missing
    assert value(rate, NOON + 3 * HOUR) == 70
    assert value(rate, NOON + 3.5 * HOUR) is None  # an empty value: unknown from here on
    assert value(rate, NOON + 9 * HOUR) is None  # after the file


def test_unix_time_no_header_and_a_byte_order_mark(tmp_path: Path) -> None:
    rate = read(tmp_path / "unix.csv", f"\ufeff{NOON:.0f}, 50.5\n{NOON + 60}, 0\n\n")
    assert (value(rate, NOON), value(rate, NOON + 60)) == (50.5, 0)


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("when,g\n2026-11-24T12:00:00,50\n", 2, "says no offset from UTC"),
        ("yesterday,50\n", 1, "neither an ISO 8601 time nor Unix seconds"),
        ("2026-11-24T12:00Z,50\n2026-11-24T11:00Z,50\n", 2, "not later than the line before"),
        ("2026-11-24T12:00Z,50\n2026-11-24T12:00Z,50\n", 2, "not later than the line before"),
        ("1,50\n2,-1\n", 2, "-1 is less than 0"),
        ("1,50\n2,many\n", 2, "'many' is not a number"),
        ("1,nan\n", 1, "'nan' is not a number"),
        ("1,50,60\n", 1, "must have two columns"),
        ("1\n", 1, "must have two columns"),
    ],
)
def test_what_is_wrong_is_told_with_its_file_and_line(tmp_path: Path, text: str, line: int, told: str) -> None:
    file = tmp_path / "intensity.csv"
    with pytest.raises(ValueError) as raised:
        read(file, text)
    assert str(raised.value).startswith(f"{file}, line {line}: ")
    assert told in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"when,g\n", b"\xff\xfe1,2\n"])
def test_a_file_that_holds_nothing_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "intensity.csv"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"intensity\.csv: "):
        read_rate(file, GRAMS, "the grid", HOUR)
    with pytest.raises(ValueError, match=r"missing\.csv"):
        read_rate(tmp_path / "missing.csv", GRAMS, "the grid", HOUR)


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null", "/tmp"])
def test_what_may_never_end_is_not_read(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: is no regular file"):
        read_rate(Path(name), GRAMS, "the grid", HOUR)


def test_prices_may_be_negative(tmp_path: Path) -> None:
    file = tmp_path / "price.csv"
    file.write_text("1,-0.02\n")
    assert value(read_rate(file, "EUR", "the exchange", HOUR), 1.0) == -0.02


def test_only_what_is_known_at_an_instant_is_told() -> None:
    hour = Rate("EUR", "the exchange", (0.0,), (0.2,), HOUR)
    factors = Factors(Rate.constant(GRAMS, 56.0, "me"), hour)
    assert factors.at(10.0).keys() == {"carbon", "price"}
    assert factors.at(HOUR).keys() == {"carbon"}
    assert not Factors().at(10.0)
