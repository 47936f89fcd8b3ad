"""Finished requests on a real disk: written by a thread, rotated, thinned out, and written again after a disk's faults."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from telemetry import ledger_files
from telemetry.factors import NO_FACTORS
from telemetry.jsonl import JsonLines
from telemetry.ledger_files import QUEUE, LedgerFiles
from telemetry.parquet import ParquetFile
from telemetry.records import Record, record
from tests.telemetry.telling import entry, joules


def lines_in(directory: Path, **settings: Any) -> LedgerFiles:
    return LedgerFiles(directory, JsonLines, "jsonl", **{"rotate_bytes": 1 << 20, "rotate_s": 3600.0, **settings})


def put(files: LedgerFiles, *ids: str) -> None:
    for id in ids:
        files.put(entry(id, energy=joules(1)), NO_FACTORS)


def written(directory: Path) -> list[str]:
    """Ids in order; a line that is no JSON is an error."""
    return [json.loads(line)["id"] for file in sorted(directory.glob("*.jsonl")) for line in file.read_text().splitlines()]


def until(true: Callable[[], object]) -> None:
    for _ in range(1000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("never came true")


def test_what_was_accepted_is_on_the_disk_after_the_close(tmp_path: Path) -> None:
    files = lines_in(tmp_path / "made" / "here")
    files.start()
    put(files, *(str(n) for n in range(2500)))
    files.close()
    assert written(files.directory) == [str(n) for n in range(2500)]
    assert files.dropped == 0


def test_the_current_file_can_be_read_while_it_is_written(tmp_path: Path) -> None:
    files = lines_in(tmp_path)
    files.start()
    put(files, "first")
    until(lambda: written(tmp_path) == ["first"])
    put(files, "second")
    until(lambda: written(tmp_path) == ["first", "second"])
    assert len(list(tmp_path.iterdir())) == 1
    files.close()


def test_names_say_when_who_and_which(tmp_path: Path) -> None:
    files = lines_in(tmp_path)
    files.start()
    put(files, "r")
    files.close()
    [file] = tmp_path.iterdir()
    assert ledger_files.re.fullmatch(r"requests-\d{8}T\d{6}Z-[0-9a-f]{8}-000001\.jsonl", file.name)
    assert file.stat().st_mode & 0o007 == 0  # not for everybody


def test_files_are_finished_by_length_and_the_oldest_go(tmp_path: Path) -> None:
    foreign = tmp_path / "requests-of-mine.jsonl"
    foreign.write_text("")
    earlier = tmp_path / "requests-20200101T000000Z-00000000-000001.jsonl"
    earlier.write_text("{}\n")
    files = lines_in(tmp_path, rotate_bytes=1, keep=2)
    for n in range(4):
        put(files, str(n))
        files._write()
    files.close()
    assert foreign.exists()
    foreign.unlink()
    assert written(tmp_path) == ["2", "3"]


def test_files_are_finished_by_age_even_when_nobody_comes(tmp_path: Path) -> None:
    files = LedgerFiles(tmp_path, ParquetFile, "parquet", 1 << 20, 0.05)
    files.start()
    put(files, "r")
    until(lambda: list(tmp_path.glob("*.parquet")))
    files.close()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_queue_counts_what_it_cannot_take_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = lines_in(tmp_path)
    one = entry(energy=joules(1))
    for _ in range(QUEUE + 3):
        files.put(one, NO_FACTORS)
    assert files.dropped == 3
    assert [r.message for r in caplog.records if "left out" in r.message] == [
        f"{QUEUE} finished requests wait for {tmp_path}: more are left out of the ledger"
    ]
    files.start()
    files.close()
    assert len(written(tmp_path)) == QUEUE
    assert "is written to" in caplog.text


def test_a_directory_that_is_taken_away_is_made_again(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    files = lines_in(directory)
    files.start()
    put(files, "gone")
    until(lambda: directory.exists() and written(directory))
    shutil.rmtree(directory)
    put(files, "kept")
    until(lambda: directory.exists() and written(directory))
    files.close()
    assert written(directory) == ["kept"]


@pytest.mark.parametrize(("create", "suffix"), [(JsonLines, "jsonl"), (ParquetFile, "parquet")])
def test_a_place_that_cannot_be_written_is_tried_again_and_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, create: Any, suffix: str
) -> None:
    directory = tmp_path / "ledger"
    directory.write_text("a file is in the way")
    files = LedgerFiles(directory, create, suffix, 1, 3600.0)
    files.start()
    put(files, "first")
    until(lambda: "cannot be written" in caplog.text)
    put(files, "second")
    directory.unlink()
    until(lambda: "is written to" in caplog.text)
    files.close()
    if suffix == "jsonl":
        assert written(directory) == ["first", "second"]
    else:
        assert sum(parquet_rows(path) for path in directory.iterdir()) == 2
    assert (files.dropped, caplog.text.count("cannot be written")) == (0, 1)


def parquet_rows(path: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)


@pytest.mark.parametrize(("create", "suffix"), [(JsonLines, "jsonl"), (ParquetFile, "parquet")])
def test_what_could_not_be_written_by_the_end_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, create: Any, suffix: str
) -> None:
    directory = tmp_path / "ledger"
    directory.write_text("a file is in the way")
    files = LedgerFiles(directory, create, suffix, 1 << 20, 3600.0)
    files.start()
    put(files, "first", "second")
    files.close()
    assert f"2 finished requests could not be written to {directory}" in caplog.text


class Full:
    """A file of a disk that has room for so many records."""

    pending = 0
    lost = False

    def __init__(self, path: Path) -> None:
        self.path, self.size, self.room = path, 0, 0
        self.records: list[Record] = []

    def write(self, records: Sequence[Record]) -> None:
        if len(records) > self.room:
            raise OSError("No space left on device")
        self.records += records

    def finish(self) -> None:
        self.abandon()

    def abandon(self) -> None:
        self.room = 0


def test_a_full_disk_keeps_what_is_in_hand_and_makes_no_more_files(tmp_path: Path) -> None:
    made: list[Full] = []
    files = LedgerFiles(tmp_path, lambda path: made.append(Full(path)) or made[-1], "jsonl", 1 << 20, 3600.0)
    put(files, "first", "second")
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            files._write()
    made[0].room = 2
    files._write()
    assert [file.records[0]["id"] for file in made] == ["first"]
    assert [told["id"] for told in made[0].records] == ["first", "second"]


def test_a_request_that_cannot_be_told_does_not_stop_the_others(tmp_path: Path) -> None:
    files = lines_in(tmp_path)
    files.start()
    files.put(entry("bad", status="not a number"), NO_FACTORS)
    put(files, "good")
    files.close()
    assert (written(tmp_path), files.dropped) == (["good"], 1)


def test_half_a_write_is_taken_back(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    file = JsonLines(tmp_path / "a.jsonl")
    whole = record(entry("whole", energy=joules(1)), NO_FACTORS)
    file.write([whole])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.size + 100, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            file.write([whole])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.path.stat().st_size == file.size
    assert not file.lost
    file.write([{**whole, "id": "next"}])
    file.finish()
    assert written(tmp_path) == ["whole", "next"]
