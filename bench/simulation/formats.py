"""The formats that traces come in, record by record: Azure's of 2023 and 2024, Mooncake's, and our own ledger.

Sources: Azure Public Dataset, AzureLLMInferenceDataset2023.md and 2024.md; kvcache-ai/Mooncake, FAST25-release/traces (times
in milliseconds, a hash for each block of 512 prompt tokens); `telemetry/records.py`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import blake2b
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import Any

from bench.arrivals import COLUMNS
from bench.draws import BadSpec
from policies.base import Tier

PREFIX_BLOCKS = 2  # of Mooncake's, that stand for how a prompt begins: 1,024 tokens
MOST_TOKENS = 2**31  # of one request; more is a mistake
Read = Iterator[tuple[str, "Row | None"]]  # where it stands, and None for what did not complete


@dataclass(frozen=True, slots=True)
class Row:
    """One request as a trace tells it."""

    at_s: float  # in the trace's own time
    prompt_tokens: int
    output_tokens: int  # of all sequences
    id: str = ""
    tier: Tier = Tier.INTERACTIVE
    tenant: str = ""
    model: str = ""
    sequences: int = 1
    prefix: bytes | None = None
    slack_s: float | None = None  # None: not told
    estimated: bool = False  # a count of it
    max_new_tokens: int | None = None  # of each sequence; None: not told


def format_of(path: Path) -> str:
    """What a file looks like.

    Raises:
        BadSpec: like nothing that is known.
    """
    if path.is_dir() or path.suffix == ".parquet":
        return "ledger"
    try:
        with path.open(encoding="utf-8-sig") as file:
            line = file.readline()
    except OSError as error:
        raise BadSpec(f"trace {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise BadSpec(f"trace {path}: {error}") from error
    for name, marks in (("azure", COLUMNS), ("mooncake", ("timestamp", "input_length")), ("ledger", ("arrived_unix_s",))):
        if all(mark in line for mark in marks):
            return name
    raise BadSpec(
        f"trace {path} looks like nothing known: CSV with {', '.join(COLUMNS)} (Azure), JSON lines with timestamp,"
        " input_length, output_length (Mooncake), or Paceline's ledger (JSON lines, Parquet, or a directory of either)"
    )


def _azure(path: Path) -> Read:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if missing := set(COLUMNS) - set(reader.fieldnames or ()):
            raise BadSpec(f"{path}: no column {', '.join(sorted(missing))}; the header must name {', '.join(COLUMNS)}")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            yield where, _told(where, partial(_azure_row, row))


def _azure_row(row: Mapping[str, str]) -> Row:
    at_s = _instant(row[COLUMNS[0]]).timestamp()
    return Row(at_s, max(_count(row[COLUMNS[1]]), 1), max(_count(row[COLUMNS[2]]), 1))


def _instant(text: str) -> datetime:
    """A timestamp, of UTC where it tells no offset; 2023's have seven digits of a second, one more than Python takes."""
    head, dot, rest = text.strip().partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    instant = datetime.fromisoformat(f"{head}.{digits[:6]:0<6}{rest[len(digits) :]}" if dot else head)
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _mooncake(path: Path) -> Read:
    for where, data in _json_lines(path):
        yield where, _told(where, partial(_mooncake_row, data))


def _mooncake_row(data: Mapping[str, Any]) -> Row:
    ids = data.get("hash_ids") or []
    prefix = blake2b(json.dumps(ids[:PREFIX_BLOCKS]).encode(), digest_size=16).digest() if ids else None
    at_s = _number(data["timestamp"]) / 1000
    return Row(at_s, max(_count(data["input_length"]), 1), max(_count(data["output_length"]), 1), prefix=prefix)


def _ledger(path: Path) -> Read:
    files = ledger_files(path)
    seen: set[str] = set()
    for file in files:
        records = _parquet_rows(file) if file.suffix == ".parquet" else _json_lines(file)
        for where, data in records:
            row = _told(where, partial(_ledger_row, data))
            if row is not None and row.id in seen:
                continue  # a file and its copy
            if row is not None and row.id:
                seen.add(row.id)
            yield where, row


def ledger_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in (".jsonl", ".parquet"))
    if not files:
        raise BadSpec(f"{path} holds no file of the ledger: neither .jsonl nor .parquet")
    return files


def _ledger_row(data: Mapping[str, Any]) -> Row | None:
    """None: it did not complete, so nobody knows how long it would have been."""
    completed = data.get("server") and not data.get("error") and 200 <= (data.get("status") or 0) < 300
    if not completed or not data.get("output_tokens") or data.get("prompt_tokens") is None:
        return None
    slack_s = data.get("slack_s")
    return Row(
        at_s=_number(data["arrived_unix_s"]),
        prompt_tokens=max(_count(data["prompt_tokens"]), 1),
        output_tokens=_count(data["output_tokens"]),
        id=str(data.get("id") or ""),
        tier=Tier(data.get("tier") or Tier.INTERACTIVE),
        tenant=str(data.get("tenant") or ""),
        model=str(data.get("model") or ""),
        sequences=max(_count(data.get("sequences") or 1), 1),
        slack_s=None if slack_s is None else _number(slack_s),
        max_new_tokens=None if data.get("max_new_tokens") is None else max(_count(data["max_new_tokens"]), 1),
        estimated=bool(data.get("prompt_tokens_estimated") or data.get("output_tokens_estimated")),
    )


def _parquet_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        parquet = import_module("telemetry.parquet")
    except ImportError as error:
        raise BadSpec(f"{path}: Parquet needs paceline[parquet] ({error})") from error
    try:
        rows = parquet.pq.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise BadSpec(f"{path}: {error}") from error
    for number, row in enumerate(rows, 1):
        yield f"{path}, record {number}", row


def _json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            try:
                data = json.loads(line) if line.strip() else None
            except json.JSONDecodeError as error:
                if not line.endswith("\n"):
                    return  # the last line of a file that is being written
                raise BadSpec(f"{where}: {error}") from error
            if data is None:
                continue
            if not isinstance(data, dict):
                raise BadSpec(f"{where}: an object must stand here, not {type(data).__name__}")
            yield where, data


READERS: Mapping[str, Callable[[Path], Read]] = {"azure": _azure, "mooncake": _mooncake, "ledger": _ledger}


def _told(where: str, row: Callable[[], Row | None]) -> Row | None:
    try:
        return row()
    except KeyError as error:
        raise BadSpec(f"{where}: {error.args[0]} is missing") from error
    except (ValueError, TypeError) as error:
        raise BadSpec(f"{where}: {error}") from error


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
        raise ValueError(f"{value!r} is no time in seconds or milliseconds: a number that is not negative")
    return float(value)


def _count(value: object) -> int:
    number = int(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= MOST_TOKENS:
        raise ValueError(f"{value!r} is no number of tokens: whole, from 0 to {MOST_TOKENS}")
    return number
