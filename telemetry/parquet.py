"""A file of the ledger as Parquet; the only importer of pyarrow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from telemetry.records import COLUMNS, Record

TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
SCHEMA = pa.schema([pa.field(column.name, TYPES[column.kind], nullable=column.name != "id") for column in COLUMNS])


class ParquetFile:
    """Records stay in memory, in columns, until the file is finished: one without its end is no Parquet file.

    So a disk that is full costs no record, and no other process ever sees half a file.
    """

    lost = False

    def __init__(self, path: Path) -> None:
        self.path, self.size, self.pending = path, 0, 0
        self._batches: list[pa.RecordBatch] = []

    def write(self, records: Sequence[Record]) -> None:
        batch = pa.RecordBatch.from_pylist(records, schema=SCHEMA)
        self._batches.append(batch)
        self.size += batch.nbytes  # in memory: on the disk they are several times smaller
        self.pending += batch.num_rows

    def finish(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f"{self.path.name}.part")
        try:
            with part.open("wb") as file:
                pq.write_table(pa.Table.from_batches(self._batches, SCHEMA), file, compression="zstd")
                file.flush()
                os.fsync(file.fileno())
            part.rename(self.path)
        except OSError:
            with suppress(OSError):
                part.unlink()
            raise
        self.abandon()

    def abandon(self) -> None:
        self._batches, self.pending = [], 0
