"""What a kilowatt-hour stands for in grams of CO2 or in money: one value, or a file of values over time."""

from __future__ import annotations

import csv
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import inf, isfinite
from pathlib import Path

UJ_PER_KWH = 3.6e12
GRAMS = "g"  # of CO2 equivalent


@dataclass(frozen=True, slots=True)
class Factor:
    """What one kilowatt-hour stands for, and who says so.

    Attributes:
        unit: grams of CO2 equivalent, or a currency.
    """

    unit: str
    per_kwh: float
    source: str

    def of(self, energy_uj: int) -> float:
        """What so many microjoules stand for."""
        return energy_uj / UJ_PER_KWH * self.per_kwh


@dataclass(frozen=True, slots=True)
class Rate:
    """Factors over time. A value holds until the next, at most for `step_s`; where none holds, the factor is unknown.

    Attributes:
        since_unix_s: when each value begins, in order.
        per_kwh: the values; None says that it is unknown from then on.
    """

    unit: str
    source: str
    since_unix_s: Sequence[float]
    per_kwh: Sequence[float | None]
    step_s: float = inf

    @classmethod
    def constant(cls, unit: str, per_kwh: float, source: str) -> Rate:
        return cls(unit, source, (-inf,), (per_kwh,))

    def at(self, unix_s: float) -> Factor | None:
        """The factor at an instant; None where it is unknown, never the nearest."""
        index = bisect_right(self.since_unix_s, unix_s) - 1
        if index < 0 or unix_s >= self.since_unix_s[index] + self.step_s:
            return None
        value = self.per_kwh[index]
        return None if value is None else Factor(self.unit, value, self.source)


@dataclass(frozen=True, slots=True)
class Factors:
    """What is configured; None: nobody said, so it is unknown."""

    carbon: Rate | None = None
    price: Rate | None = None

    def at(self, unix_s: float) -> Mapping[str, Factor]:
        """The factors known at an instant, by "carbon" and "price"."""
        rates = (("carbon", self.carbon), ("price", self.price))
        return {name: factor for name, rate in rates if rate is not None and (factor := rate.at(unix_s)) is not None}


NO_FACTORS = Factors()


def read_rate(file: Path, unit: str, source: str, step_s: float, least: float = -inf) -> Rate:
    """The rate in a CSV file of two columns: when (ISO 8601 with an offset, or Unix seconds), and how much a kWh.

    A first line that is no value is a header. An empty value says that none is known from then on.

    Args:
        file: where it is.
        unit: of the values.
        source: who says so.
        step_s: how long a value holds when no other follows.
        least: no value may be below it.

    Raises:
        ValueError: the file cannot be read, or a line of it is wrong; names the file and the line.
    """
    lines = _Lines(least)
    try:
        if file.exists() and not file.is_file():
            raise OSError("is no regular file")  # a device or a pipe may never end, and the proxy waits
        with file.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.reader(text)
            for row in reader:
                try:
                    lines.add(row, first=reader.line_num == 1)
                except ValueError as error:
                    raise ValueError(f"{file}, line {reader.line_num}: {error}") from None
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: {error}") from error
    if not lines.since:
        raise ValueError(f"{file}: holds no value")
    return Rate(unit, source, tuple(lines.since), tuple(lines.values), step_s)


@dataclass(slots=True)
class _Lines:
    least: float
    since: list[float] = field(default_factory=list)
    values: list[float | None] = field(default_factory=list)

    def add(self, row: Sequence[str], first: bool) -> None:
        cells = [cell.strip() for cell in row]
        if not any(cells):
            return
        if len(cells) != 2:
            raise ValueError(f"must have two columns, a time and a value (it has {len(cells)})")
        if first and not any(_is_value(cell) for cell in cells):
            return  # the header
        at, value = _time(cells[0]), self._value(cells[1])
        if self.since and at <= self.since[-1]:
            raise ValueError(f"{cells[0]} is not later than the line before")
        self.since.append(at)
        self.values.append(value)

    def _value(self, cell: str) -> float | None:
        if not cell:
            return None
        if not _is_value(cell):
            raise ValueError(f"{cell!r} is not a number")
        if float(cell) < self.least:
            raise ValueError(f"{cell} is less than {self.least:g}")
        return float(cell)


def _time(cell: str) -> float:
    if _is_value(cell):
        return float(cell)
    try:
        at = datetime.fromisoformat(cell)
    except ValueError:
        raise ValueError(f"{cell!r} is neither an ISO 8601 time nor Unix seconds") from None
    if at.tzinfo is None:
        raise ValueError(f"{cell!r} says no offset from UTC; write one, such as Z")
    return at.timestamp()


def _is_value(cell: str) -> bool:
    try:
        return isfinite(float(cell))
    except ValueError:
        return False
