"""Recording what a meter reads, and playing it back: the same intervals, at the same distances, marked as replayed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.meter import MeterUnavailable, Rhythm
from telemetry.monitor import Steps
from telemetry.recording import RecordingMeter, as_json, from_json
from telemetry.replay import ReplayMeter
from telemetry.snapshot import Hardware, Reading, Source
from tests.telemetry.libraries import Clock


@dataclass
class Scripted:
    """A meter whose readings are made up beforehand."""

    readings: Iterator[Sequence[Reading]]
    closed: bool = False

    @property
    def rhythm(self) -> Rhythm:
        return Rhythm(0.1, 3.0)

    def read(self) -> Sequence[Reading]:
        return next(self.readings)

    def close(self) -> None:
        self.closed = True


def looks(*energies: int, device: str = "gpu") -> list[list[Reading]]:
    return [[Reading(device, energy, 7.0 + n / 10, Source.COUNTER)] for n, energy in enumerate(energies)]


def recorded(file: Path, looks: Sequence[Sequence[Reading]]) -> None:
    meter = RecordingMeter(Scripted(iter(looks)), file)
    assert [meter.read() for _ in looks] == list(looks)
    meter.close()


@given(
    st.builds(
        Reading,
        device=st.text(),
        energy_uj=st.integers(0, 2**63),
        at_s=st.floats(0, 1e9),
        source=st.sampled_from(Source),
        hardware=st.sampled_from(Hardware),
        edge_s=st.none() | st.floats(0, 10),
        integral_uj=st.none() | st.integers(0, 2**63),
        busy=st.none() | st.booleans(),
    )
)
def test_a_reading_comes_back_as_it_was(reading: Reading) -> None:
    assert from_json(json.loads(json.dumps(as_json(reading)))) == reading


def test_the_replay_has_the_intervals_of_the_recording(tmp_path: Path) -> None:
    given_looks = looks(5, 5, 5, 9, 9, 12, 12, 12, 20)
    recorded(tmp_path / "run.jsonl", given_looks)
    original, replayed, clock = Steps(), Steps(), Clock()
    expected = [interval for look in given_looks for interval in original.observe(look)]
    meter = ReplayMeter(tmp_path / "run.jsonl", clock=clock)
    found = []
    for _ in range(9):
        found += replayed.observe(meter.read())
        clock.now_s += 0.1 + 1e-9
    assert [(i.energy_uj, i.source) for i in found] == [(i.energy_uj, Source.REPLAYED) for i in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.start_s - 100, ours.end_s - 100, ours.end_edge_s) == (
            pytest.approx(theirs.start_s - 7),
            pytest.approx(theirs.end_s - 7),
            pytest.approx(theirs.end_edge_s),
        )
    with pytest.raises(MeterUnavailable, match=r"run\.jsonl is over"):
        meter.read()
    meter.close()


def test_looks_that_saw_nothing_new_are_left_out(tmp_path: Path) -> None:
    recorded(tmp_path / "run.jsonl", looks(5, 5, 5, 5, 5, 9, 9, 9))
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert [(line["energy_uj"], line["at_s"]) for line in lines] == [(5, 7.0), (5, 7.4), (9, 7.5)]


def test_all_that_is_due_comes_at_once_and_only_what_is_asked_for(tmp_path: Path) -> None:
    recorded(tmp_path / "run.jsonl", [a + b for a, b in zip(looks(1, 2, 3), looks(10, 20, 30, device="other"), strict=True)])
    clock = Clock()
    meter = ReplayMeter(tmp_path / "run.jsonl", ["other"], clock=clock)
    assert [r.energy_uj for r in meter.read()] == [10]
    assert meter.read() == []
    clock.now_s += 5
    assert [(r.device, r.energy_uj) for r in meter.read()] == [("other", 20), ("other", 30)]
    meter.close()


def test_the_recorder_is_as_its_meter_and_closes_it(tmp_path: Path) -> None:
    inner = Scripted(iter([]))
    meter = RecordingMeter(inner, tmp_path / "run.jsonl")
    assert meter.rhythm == inner.rhythm
    meter.close()
    assert inner.closed


def test_a_full_disk_does_not_stop_the_reading(caplog: pytest.LogCaptureFixture) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    recorded(full, looks(1, 2, 3))
    assert caplog.text.count("nothing is recorded any more: /dev/full") == 1


def test_what_is_no_recording_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeterUnavailable, match=rf"the recording {tmp_path}/none: No such file"):
        ReplayMeter(tmp_path / "none")
    with pytest.raises(MeterUnavailable, match=f"cannot record to {tmp_path}: Is a directory"):
        RecordingMeter(Scripted(iter([])), tmp_path)
    file = tmp_path / "run.jsonl"
    for text, said in (("", "has nothing of any device"), ("7\n", "line 1, is no reading"), ("{}\n", "line 1, is no reading")):
        file.write_text(text)
        with pytest.raises(MeterUnavailable, match=said):
            ReplayMeter(file)
    recorded(file, looks(1))
    with pytest.raises(MeterUnavailable, match="line 1, is no reading"):
        ReplayMeter(file, ["gpu"])
    file.unlink()
    recorded(file, looks(1, 2))
    with pytest.raises(MeterUnavailable, match="has nothing of cpu"):
        ReplayMeter(file, ["cpu"])
    with file.open("a") as cut:
        cut.write('{"device": "gp')
    clock = Clock()
    meter = ReplayMeter(file, clock=clock)
    clock.now_s += 1
    meter.read()
    clock.now_s += 1
    assert [r.energy_uj for r in meter.read()] == [2]
    with pytest.raises(MeterUnavailable, match="is over"):
        meter.read()
    meter.close()
