"""Opening this machine's meters by name, and telling its devices in Prometheus's format."""

from __future__ import annotations

from pathlib import Path

import pytest

from telemetry import meters
from telemetry.exposition import devices
from telemetry.gauges import Gauges
from telemetry.meter import Meter, MeterUnavailable
from telemetry.nvml import NvmlMeter
from telemetry.otel import Telemetry
from telemetry.recording import RecordingMeter
from telemetry.replay import ReplayMeter
from telemetry.snapshot import DeviceState, Hardware, Snapshot, Source
from tests.telemetry.libraries import FakeNvml


def recording(file: Path) -> Path:
    meter: Meter = RecordingMeter(NvmlMeter(library=FakeNvml()), file)
    meter.read()
    meter.close()
    return file


def test_a_replay_by_its_name_and_its_devices(tmp_path: Path) -> None:
    (meter,) = meters.open_meters([f"replay:{recording(tmp_path / 'run.jsonl')}"], ["GPU-b"])
    assert isinstance(meter, ReplayMeter)
    assert [r.device for r in meter.read()] == ["GPU-b"]
    meter.close()


def test_all_or_nothing(tmp_path: Path) -> None:
    names = [f"replay:{recording(tmp_path / 'run.jsonl')}", f"replay:{tmp_path}/none"]
    with pytest.raises(MeterUnavailable, match="none: No such file"):
        meters.open_meters(names)  # that the first one is closed is seen by the warning that it would give


@pytest.mark.parametrize(
    ("name", "there"), [("nvml", True), ("auto", True), ("replay:a", True), ("replay:", False), ("x", False)]
)
def test_which_meters_there_are(name: str, there: bool) -> None:
    assert meters.known(name) is there


STATES = (
    DeviceState('GPU-"a\\', Source.POWER_INTEGRAL, 1_500_000, 118.25, 7.0),
    DeviceState("cpu:package-0", Source.COUNTER, 2_000_000, 20.0, 9.5, Hardware.CPU),
)


def test_devices_have_the_names_that_they_have_on_the_admin_port() -> None:
    snapshot = Snapshot(10.0, {state.device: state for state in STATES})
    telemetry = Telemetry.start(lambda: Gauges(10.0, telemetry=snapshot), {})
    theirs = {line for line in telemetry.render()[0].decode().splitlines() if line.startswith(("hw_", "paceline_meter_age"))}
    telemetry.shutdown()
    ours = {line for line in devices(snapshot, 10.0).splitlines() if not line.startswith("#")}
    assert {as_parts(line) for line in ours} == {as_parts(line) for line in theirs}
    assert len(ours) == 6


def as_parts(line: str) -> tuple[str, frozenset[str], float]:
    """The order of labels means nothing."""
    name, _, rest = line.partition("{")
    labels, _, value = rest.rpartition("} ")
    return name, frozenset(labels.split(",")), float(value)
