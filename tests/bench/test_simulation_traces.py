"""Traces in every format that is known, and what is said of those that are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.draws import BadSpec, tiers
from bench.simulation.tiers import with_tiers
from bench.simulation.traces import load, read
from policies.base import Tier

AZURE_2023 = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:47.6805900,396,109
2023-11-16 18:15:50.6805900,12,0
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00+00:00,2162,5
2024-05-10 00:00:00.250000+00:00,2399,6
2024-05-10 02:00:01.5+02:00,76,15
"""
MOONCAKE = """{"timestamp": 27, "input_length": 6755, "output_length": 500, "hash_ids": [0, 1, 2]}
{"timestamp": 27, "input_length": 7319, "output_length": 490, "hash_ids": [0, 1, 9]}
{"timestamp": 3027, "input_length": 7234, "output_length": 794, "hash_ids": [0, 28]}
"""


def record(id: str, at: float, **more: object) -> dict[str, object]:
    known = {"id": id, "arrived_unix_s": at, "server": "a", "status": 200, "prompt_tokens": 10, "output_tokens": 6}
    return {**known, "tier": "interactive", "tenant": "t", "model": "m", "prompt_tokens_estimated": False, **more}


LEDGER = [
    record("late", 1_700_000_005.0, tier="flex", slack_s=4.0, sequences=2),
    record("first", 1_700_000_001.0, prompt_tokens_estimated=True, max_new_tokens=50),
    record("failed", 1_700_000_002.0, error="500", status=500),
    record("never left", 1_700_000_003.0, server="", status=429, output_tokens=None),
]


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def lines(records: list[dict[str, object]]) -> str:
    return "".join(json.dumps(one) + "\n" for one in records)


def told(path: Path, **asked: object) -> list[tuple[float, int, int]]:
    arrivals = read(path, **asked)  # type: ignore[arg-type]
    return [(round(a.waiting.arrived_at, 6), a.waiting.prompt_tokens, a.output_tokens) for a in arrivals]


def test_azure_of_2023(tmp_path: Path) -> None:
    path = written(tmp_path / "trace.csv", AZURE_2023)
    assert told(path) == [(0.0, 374, 44), (1.0, 396, 109), (4.0, 12, 1)]
    assert told(path, speedup=0.5) == [(0.0, 374, 44), (2.0, 396, 109), (8.0, 12, 1)]
    assert told(path, duration_s=1.0) == told(path, requests=2) == [(0.0, 374, 44), (1.0, 396, 109)]


def test_azure_of_2024_with_and_without_parts_of_a_second(tmp_path: Path) -> None:
    path = written(tmp_path / "trace.csv", AZURE_2024)
    assert told(path) == [(0.0, 2162, 5), (0.25, 2399, 6), (1.5, 76, 15)]
    assert load(path).wall_offset_s == 1_715_299_200.0


def test_nobody_is_told_how_long_an_answer_will_be(tmp_path: Path) -> None:
    arrivals = read(written(tmp_path / "trace.csv", AZURE_2023))
    assert {arrival.waiting.max_new_tokens for arrival in arrivals} == {109}


def test_mooncake(tmp_path: Path) -> None:
    path = written(tmp_path / "trace.jsonl", MOONCAKE)
    assert told(path) == [(0.0, 6755, 500), (0.0, 7319, 490), (3.0, 7234, 794)]
    one, same, other = (arrival.waiting.prefix for arrival in read(path))
    assert one == same != other
    assert load(path).wall_offset_s is None


def test_the_ledger_in_order_of_arrival_without_those_that_did_not_complete(tmp_path: Path) -> None:
    path = written(tmp_path / "requests.jsonl", lines(LEDGER))
    trace = load(path)
    assert told(path) == [(0.0, 10, 6), (4.0, 10, 6)]
    first, late = (arrival.waiting for arrival in trace.arrivals)
    assert (first.id, first.tier, first.tenant, first.model, first.deadline) == ("first", Tier.INTERACTIVE, "t", "m", 0.0)
    assert (late.id, late.tier, late.sequences, late.deadline) == ("late", Tier.FLEX, 2, 8.0)
    assert (first.max_new_tokens, late.max_new_tokens) == (50, 6)
    assert (trace.incomplete, trace.estimated, trace.slack_told) == (2, 1, 1)
    assert trace.wall_offset_s == 1_700_000_001.0


def test_slack_that_is_asked_for_goes_before_what_the_ledger_tells(tmp_path: Path) -> None:
    path = written(tmp_path / "requests.jsonl", lines(LEDGER))
    assert [a.waiting.deadline for a in read(path, slack_s={Tier.FLEX: 1.0})] == [0.0, 5.0]
    assert [a.waiting.deadline for a in read(path, slack_s={Tier.INTERACTIVE: 1.0})] == [1.0, 8.0]


def test_a_directory_of_the_ledger_and_a_copy_of_a_file(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    written(tmp_path / "requests-1.jsonl", lines(LEDGER[:1]))
    written(tmp_path / "requests-1 (copy).jsonl", lines(LEDGER[:1]))
    written(tmp_path / "notes.txt", "not of the ledger")
    parquet.write_table(pa.Table.from_pylist(LEDGER[1:]), tmp_path / "requests-2.parquet")
    assert [arrival.waiting.id for arrival in read(tmp_path)] == ["first", "late"]


def test_the_last_line_of_a_file_that_is_being_written(tmp_path: Path) -> None:
    path = written(tmp_path / "requests.jsonl", lines(LEDGER) + '{"id": "half')
    assert len(read(path)) == 2


def test_an_id_that_comes_again_is_another_request(tmp_path: Path) -> None:
    path = written(tmp_path / "requests.jsonl", lines([record("", 5.0), record("", 6.0)]))
    assert len({arrival.waiting.id for arrival in read(path)}) == 2


def test_the_digest_is_the_bytes(tmp_path: Path) -> None:
    one, same = (load(written(tmp_path / name, AZURE_2023)).digest for name in ("a.csv", "b.csv"))
    assert one == same != load(written(tmp_path / "c.csv", AZURE_2024)).digest


def test_tiers_are_drawn_by_a_seed(tmp_path: Path) -> None:
    path = written(tmp_path / "trace.csv", AZURE_2023.splitlines()[0] + "\n" + "2023-11-16 18:15:46,9,9\n" * 200)
    shares, slack = tiers("flex=1,interactive=3"), {Tier.FLEX: 5.0}
    drawn = with_tiers(read(path), shares, slack, 1)
    assert drawn == with_tiers(read(path), shares, slack, 1) != with_tiers(read(path), shares, slack, 2)
    flex = [arrival for arrival in drawn if arrival.waiting.tier is Tier.FLEX]
    assert 30 < len(flex) < 70
    assert {arrival.waiting.deadline for arrival in flex} == {5.0}
    assert {arrival.waiting.deadline for arrival in drawn if arrival not in flex} == {0.0}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.csv", "a,b\n1,2\n", "looks like nothing known.*TIMESTAMP.*Mooncake.*ledger"),
        ("x.csv", AZURE_2023 + "yesterday,1,2\n", "line 5.*yesterday"),
        ("x.csv", AZURE_2023 + "2023-11-16 18:15:51,1,-2\n", "line 5.*'-2' is no number of tokens"),
        ("x.csv", AZURE_2023 + "2023-11-16 18:15:51,1\n", "line 5"),
        ("x.csv", AZURE_2023 + "2023-11-16 18:15:41,1,2\n", "line 5: its instant lies before that of the line above"),
        ("x.csv", AZURE_2023.splitlines()[0] + "\n", "holds no request"),
        ("x.jsonl", MOONCAKE + '{"timestamp": 9999}\n', "line 4: input_length is missing"),
        ("x.jsonl", MOONCAKE + '{"timestamp": "soon", "input_length": 1, "output_length": 1}\n', "line 4: 'soon' is no time"),
        ("x.jsonl", MOONCAKE + "{\n", "line 4"),
        ("x.jsonl", MOONCAKE + "[]\n", "line 4: an object must stand here, not list"),
        ("x.jsonl", lines([record("x", 1.0, tier="vip")]), "line 1.*vip"),
        ("x.jsonl", lines([record("x", 1.0, error="timeout")]), "no request that completed .1 others"),
        ("x.parquet", "no parquet", "x.parquet"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(BadSpec, match=said):
        read(written(tmp_path / name, text))


def test_paths_formats_and_speeds_that_are_none(tmp_path: Path) -> None:
    path = written(tmp_path / "trace.csv", AZURE_2023)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadSpec, match=r"missing\.csv"):
        read(tmp_path / "missing.csv")
    with pytest.raises(BadSpec, match=r"neither \.jsonl nor \.parquet"):
        read(tmp_path / "empty")
    with pytest.raises(BadSpec, match="'xml' is not known; it is one of auto, azure, mooncake, ledger"):
        read(path, format="xml")
    with pytest.raises(BadSpec, match="more than 0"):
        read(path, speedup=0.0)
    with pytest.raises(BadSpec, match=r"line 1: timestamp is missing"):
        read(written(tmp_path / "x.jsonl", '{"a": 1}\n'), format="mooncake")


@pytest.mark.parametrize(
    ("text", "format", "said"),
    [
        (AZURE_2023, "mooncake", "is not JSON lines as Mooncake's; this looks like azure"),
        (AZURE_2023, "ledger", "is not Paceline's ledger.*; this looks like azure"),
        (MOONCAKE, "azure", "is not CSV with Azure's columns; this looks like mooncake"),
        (MOONCAKE, "ledger", "this looks like mooncake"),
        (lines(LEDGER), "mooncake", "this looks like ledger"),
    ],
)
def test_another_format_than_was_said_is_named(tmp_path: Path, text: str, format: str, said: str) -> None:
    with pytest.raises(BadSpec, match=said):
        load(written(tmp_path / "trace", text), format=format)


def test_of_a_ledger_the_latest_may_be_taken_and_what_is_cut_is_known(tmp_path: Path) -> None:
    records = [record(f"r{n}", 5.0 - n) for n in range(4)]  # in order of their ends, as written
    path = written(tmp_path / "requests.jsonl", lines(records))
    latest, first, all_of_it = (load(path, requests=n, latest=last) for n, last in ((2, True), (2, False), (4, True)))
    assert [arrival.waiting.id for arrival in latest.arrivals] == ["r1", "r0"]
    assert [arrival.waiting.id for arrival in first.arrivals] == ["r3", "r2"]
    assert (latest.cut, first.cut, all_of_it.cut) == (True, True, False)
    assert latest.wall_offset_s == 4.0
    azure = written(tmp_path / "trace.csv", AZURE_2023)
    assert [load(azure, requests=n).cut for n in (2, 3)] == [True, False]
