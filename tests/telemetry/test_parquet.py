"""Parquet files of the ledger, read back by pyarrow."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from telemetry.factors import GRAMS, NO_FACTORS, Factors, Rate
from telemetry.parquet import SCHEMA, ParquetFile
from telemetry.records import record
from tests.telemetry.telling import entry, joules


def test_what_was_written_can_be_read_with_its_types_and_its_unknowns(tmp_path: Path) -> None:
    file = ParquetFile(tmp_path / "a.parquet")
    records = [
        record(entry("metered", energy=joules(10)), Factors(Rate.constant(GRAMS, 56.0, "the grid"))),
        record(entry("unmetered", energy=joules(0, None)), NO_FACTORS),
    ]
    file.write(records[:1])
    file.write(records[1:])
    assert (file.pending, list(tmp_path.iterdir())) == (2, [])
    file.finish()
    table = pq.read_table(file.path)
    assert table.schema.equals(SCHEMA)
    assert table.to_pylist() == records
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_what_could_not_be_finished_is_finished_later(tmp_path: Path) -> None:
    directory = tmp_path / "gone"
    directory.write_text("a file is in the way")
    file = ParquetFile(directory / "a.parquet")
    file.write([record(entry("r", energy=joules(1)), NO_FACTORS)])
    with pytest.raises(OSError):
        file.finish()
    directory.unlink()
    file.finish()
    assert pq.read_table(file.path).num_rows == 1
