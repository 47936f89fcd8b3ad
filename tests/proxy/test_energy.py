"""Energy domains at work: who joins which, when a request's joules are final, and what is found without being told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from proxy.config import Config
from proxy.devices import Found
from proxy.energy import Energy, MeteredDomain
from proxy.metering import _together, create_energy
from proxy.selftest import Check, Verdict, _told, selftest
from proxy.sources import ConfigError, load
from telemetry.cost import load_profile
from telemetry.ledger import Entry
from telemetry.meter import MeterUnavailable, Rhythm
from telemetry.monitor import Monitor
from telemetry.snapshot import Hardware, Reading, Scope, Source

H200 = load_profile()
HERE, THERE = "http://127.0.0.1:8001", "http://127.0.0.1:8002"


@dataclass
class TestBench:
    """A meter whose counters are turned by hand, at instants that are given by hand."""

    __test__ = False
    hardware: dict[str, Hardware]
    energy_uj: dict[str, int] = field(default_factory=dict)
    at_s: float = 0.0
    rhythm: Rhythm = field(default_factory=lambda: Rhythm(0.02, 2.0))
    broken: bool = False

    def read(self) -> Sequence[Reading]:
        if self.broken:
            raise MeterUnavailable("it is broken")
        return [
            Reading(device, self.energy_uj.get(device, 0), self.at_s, Source.COUNTER, hardware, edge_s=0.0)
            for device, hardware in self.hardware.items()
        ]

    def close(self) -> None: ...


def domain(name: str, *upstreams: str, **hardware: Hardware) -> tuple[MeteredDomain, TestBench]:
    meter = TestBench(hardware)
    monitor = Monitor(meter, meter.rhythm.poll_s, clock=lambda: meter.at_s)
    return MeteredDomain(name, upstreams, monitor, H200), meter


def turn(metered: MeteredDomain, meter: TestBench, until_s: float, **power_w: float) -> None:
    """Let time pass in steps of 100 ms."""
    while meter.at_s < until_s - 1e-9:
        metered.monitor.poll()
        meter.at_s = round(meter.at_s + 0.1, 6)
        for device, watts in power_w.items():
            meter.energy_uj[device] = meter.energy_uj.get(device, 0) + round(watts * 0.1e6)
    metered.monitor.poll()


def entry(id: str, server: str, released: float, ended: float | None = None) -> Entry:
    e = Entry(id, released, 0.0, prompt_tokens=100, streamed=True, released_at=released, server=server)
    for n in range(20):
        e.saw_tokens(released + 0.02 + 0.01 * n, 1)
    e.ended_at = ended
    return e


def test_a_request_joins_its_servers_domain_and_no_other() -> None:
    (one, here), (other, there) = domain("one", HERE, a=Hardware.GPU), domain("other", THERE, b=Hardware.GPU)
    final: list[str] = []
    energy = Energy([one, other], on_final=lambda e: final.append(e.id))
    mine = entry("r", HERE, 0.25, 0.65)
    energy.join(mine)
    turn(one, here, 2.0, a=300)
    turn(other, there, 2.0, b=300)
    energy.settle(2.5)
    assert final == ["r"]
    assert mine.energy.active_uj > 0
    requests_uj = [t.counted_uj - t.idle_uj - t.unattributed_uj for t in energy.totals()]
    assert requests_uj == [mine.energy.active_uj, 0]
    assert [t.error_uj for t in energy.totals()] == [0, 0]


def test_one_meter_can_tell_of_a_gpu_and_its_host() -> None:
    metered, meter = domain("node", HERE, gpu=Hardware.GPU, cpu=Hardware.CPU)
    final: list[Entry] = []
    energy = Energy([metered], on_final=final.append)
    mine = entry("r", HERE, 0.25, 0.65)
    energy.join(mine)
    turn(metered, meter, 2.0, gpu=300, cpu=80)
    energy.settle(2.5)
    assert final == [mine]
    assert mine.host_energy is not None
    assert mine.host_energy.active_uj > 0
    assert mine.as_json()["host_energy"] == {
        "active_j": mine.host_energy.active_uj / 1e6,
        "source": "counter",
        "method": "time_equal",
        "scope": "host",
        "final": True,
    }
    window = energy.between(0.2, 1.2)
    assert window is not None
    assert window["counted_j"] == pytest.approx(300)
    assert window["host"]["counted_j"] == pytest.approx(80)
    told = energy.describe(2.5)
    assert told is not None
    assert [d["device"] for d in told["devices"]] == ["gpu"]
    assert [d["device"] for d in told["host"]["devices"]] == ["cpu"]


def test_a_silent_host_delays_joules_by_seconds_and_no_more() -> None:
    (gpu, card), (host, cpus) = domain("gpu", HERE, gpu=Hardware.GPU), domain("host", HERE, cpu=Hardware.CPU)
    final: list[Entry] = []
    energy = Energy([gpu, host], on_final=final.append)
    turn(host, cpus, 0.3, cpu=80)
    energy.settle(0.6)
    mine = entry("r", HERE, 0.25, 0.65)
    energy.join(mine)
    turn(gpu, card, 8.0, gpu=300)
    energy.settle(1.0)
    assert final == []
    energy.settle(4.0)
    assert final == [mine]
    assert mine.energy.final
    assert mine.as_json()["host_energy"] is None


def test_a_meter_that_never_tells_anything_leaves_energy_unknown() -> None:
    metered, meter = domain("node", HERE, gpu=Hardware.GPU)
    meter.broken = True
    final: list[Entry] = []
    energy = Energy([metered], on_final=final.append)
    mine = entry("r", HERE, 0.25, 0.65)
    energy.join(mine)
    metered.monitor.poll()
    energy.settle(30.0)
    assert final == []
    energy.settle(61.0)
    assert final == [mine]
    assert mine.as_json()["energy"] is None
    assert energy.totals() == []


def test_a_request_is_final_once_even_when_its_server_is_removed_meanwhile() -> None:
    metered, meter = domain("node", HERE, gpu=Hardware.GPU)
    final: list[Entry] = []
    energy = Energy([metered], serves_all=True, on_final=final.append)
    mine = entry("r", HERE, 0.25, 0.65)
    energy.join(mine)
    energy.serve({THERE})
    assert energy.covers(mine)
    turn(metered, meter, 2.0, gpu=300)
    energy.settle(2.5)
    energy.settle(90.0)
    assert final == [mine]
    assert energy.covers(mine)
    assert not energy.covers(entry("s", HERE, 1.0))


# --- what is configured, and what is found ---------------------------------------------------------------------------


def config(**energy: object) -> Config:
    return Config.model_validate({"upstreams": (HERE, THERE), "energy": energy})


def test_servers_that_share_a_gpu_are_one_domain() -> None:
    found = {HERE: Found(("a", "b"), ""), THERE: Found(("c",), ""), "http://x:1": Found(("b", "d"), "")}
    assert {(d.devices, d.upstreams) for d in _together(found)} == {
        (("a", "b", "d"), (HERE, "http://x:1")),
        (("c",), (THERE,)),
    }
    assert _together({**found, THERE: Found((), "nobody listens there yet")}) == []


def test_a_recording_stands_for_a_meter(tmp_path: Path) -> None:
    recording = tmp_path / "readings.jsonl"
    lines = [
        {"device": "GPU-1", "energy_uj": n * 30_000_000, "at_s": n / 10, "source": "counter", "hardware": "gpu", "edge_s": None}
        for n in range(5)
    ]
    recording.write_text("".join(json.dumps(line) + "\n" for line in lines))
    energy = create_energy(config(meter="replay", file=str(recording)), H200, {})
    assert energy is not None
    assert [d.upstreams for d in energy.domains] == [(HERE, THERE)]
    energy.close()


def test_without_a_meter_energy_is_unknown_and_said_so(caplog: pytest.LogCaptureFixture) -> None:
    assert create_energy(config(meter="none"), H200, {}) is None
    assert create_energy(config(meter="replay", file="/nowhere/readings.jsonl"), H200, {}) is None
    assert "energy is unknown" in caplog.text
    assert "/nowhere/readings.jsonl" in caplog.text


@pytest.mark.parametrize("meter", ["prometheus", "paceline", "replay"])
def test_a_meter_that_wants_an_address_is_refused_without(meter: str) -> None:
    with pytest.raises(ConfigError, match=r"energy.*needs"):
        load(None, {}, {"upstreams": [HERE], "energy.meter": meter})


def test_a_meters_key_comes_from_its_place(tmp_path: Path) -> None:
    flags = {
        "upstreams": [HERE],
        "energy.meter": "paceline",
        "energy.url": "https://node:9465",
        "energy.key_env": "PACELINE_METER_KEY",
    }
    with pytest.raises(ConfigError, match="PACELINE_METER_KEY holds no key"):
        load(None, {}, flags)
    energy = create_energy(load(None, {"PACELINE_METER_KEY": "secret"}, flags), H200, {"PACELINE_METER_KEY": "secret"})
    assert energy is not None
    energy.close()


def test_modelled_joules_are_marked_and_conserved() -> None:
    energy = create_energy(config(meter="modelled"), H200, {})
    assert energy is not None
    assert [d.upstreams for d in energy.domains] == [(HERE,), (THERE,)]


async def test_a_modelled_request_is_charged_what_the_model_says_and_says_so() -> None:
    energy = create_energy(config(meter="modelled"), H200, {})
    assert energy is not None
    running = asyncio.create_task(energy.run())
    clock = energy.domains[0].monitor.clock
    await asyncio.sleep(0.5)
    mine = Entry("r", clock(), 0.0, prompt_tokens=100, streamed=True, released_at=clock(), server=HERE)
    energy.join(mine)
    for _ in range(20):
        await asyncio.sleep(0.01)
        mine.saw_tokens(clock(), 1)
    mine.ended_at = clock()
    async with asyncio.timeout(10):
        while not mine.energy.final:
            await asyncio.sleep(0.05)
    running.cancel()
    # twenty tokens alone: the base of each step, within what a step more or less is worth
    expected_j = 20 * (H200.step_j.base + H200.step_j.per_sequence) + 100 * H200.step_j.per_prompt_token
    assert mine.energy.active_uj / 1e6 == pytest.approx(expected_j, rel=0.15)
    assert mine.energy.source is Source.MODELLED
    assert mine.energy.uncertainty_j >= H200.band * mine.energy.active_uj / 1e6
    [checked] = [c for c in selftest(energy, H200, clock())["checks"] if c["name"] == f"meter of {HERE}"]
    assert checked["verdict"] is Verdict.WARNING
    assert all(t.error_uj == 0 for t in energy.totals())


# --- the self-test ---------------------------------------------------------------------------------------------------


def verdicts(energy: Energy | None, now: float = 2.5) -> dict[str, Verdict]:
    return {check["name"]: check["verdict"] for check in selftest(energy, H200, now)["checks"]}


def test_the_selftest_of_a_good_meter() -> None:
    metered, meter = domain("node", HERE, gpu=Hardware.GPU)
    energy = Energy([metered])
    assert verdicts(energy)["meter of node"] is Verdict.UNKNOWN
    turn(metered, meter, 2.4, gpu=120)
    energy.settle(2.7)
    found = verdicts(energy)
    assert found["attribution is the Shapley value"] is Verdict.OK
    assert found["attribution conserves"] is Verdict.OK
    assert found["counter of gpu"] is Verdict.OK
    assert found["conservation of node (gpu)"] is Verdict.OK
    assert found["idle power of node"] is Verdict.OK
    assert found["step model of node"] is Verdict.UNKNOWN


def test_the_selftest_sees_what_is_wrong() -> None:
    metered, meter = domain("node", HERE, gpu=Hardware.GPU)
    energy = Energy([metered])
    turn(metered, meter, 1.0, gpu=300)
    energy.settle(2.7)
    assert verdicts(energy, now=9.0)["counter of gpu"] is Verdict.FAILED
    meter.broken = True
    metered.monitor.poll()
    assert verdicts(energy)["meter of node"] is Verdict.FAILED
    account = metered.accounts[Scope.GPU]
    account.conservation_error_uj = 1
    assert verdicts(energy)["conservation of node (gpu)"] is Verdict.FAILED
    assert selftest(energy, H200, 2.5)["verdict"] is Verdict.FAILED
    assert verdicts(None) == {**verdicts(None), "meter": Verdict.UNKNOWN}


def test_devices_of_two_machines_that_are_called_alike_are_both_told() -> None:
    here, here_meter = domain("here", HERE, gpu=Hardware.GPU, cpu=Hardware.CPU)
    there, there_meter = domain("there", THERE, cpu=Hardware.CPU)
    turn(here, here_meter, 1.0, gpu=100, cpu=30)
    turn(there, there_meter, 1.0, cpu=50)
    told = Energy([here, there]).snapshot().devices
    assert sorted(told) == ["gpu", "here cpu", "there cpu"]
    assert {state.device: round(state.power_w) for state in told.values()} == {"gpu": 100, "here cpu": 30, "there cpu": 50}


def test_a_load_that_goes_past_the_proxy_is_warned_of_and_not_taken_for_idle_power() -> None:
    metered, meter = domain("node", HERE, gpu=Hardware.GPU)
    energy = Energy([metered])
    turn(metered, meter, 4.0, gpu=490)
    energy.settle(4.3)
    [found] = [check for check in selftest(energy, H200, 4.3)["checks"] if check["name"] == "idle power of node"]
    assert found["verdict"] is Verdict.WARNING
    assert "draws 490 W while none of our requests run" in found["found"]


def test_what_becomes_better_or_worse_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    said, known = [], {}
    for verdict in (Verdict.UNKNOWN, Verdict.OK, Verdict.OK, Verdict.FAILED, Verdict.FAILED, Verdict.OK):
        caplog.clear()
        known = _told([Check("counter of gpu", verdict, "so it is")], known)
        said.append([(record.levelname, record.getMessage()) for record in caplog.records])
    failed = [("WARNING", "energy self-test: counter of gpu: failed: so it is")]
    good = ("INFO", "energy self-test: 1 checks are ok")
    assert said == [[], [good], [], failed, [], [("INFO", "energy self-test: counter of gpu: ok: so it is"), good]]


def test_of_several_checks_of_one_name_the_worst_is_logged_and_only_once(caplog: pytest.LogCaptureFixture) -> None:
    name, known = "meter of node", {}  # a server's GPUs and its host are two domains of its name
    for _ in range(3):
        known = _told([Check(name, Verdict.FAILED, "it cannot be read"), Check(name, Verdict.OK, "cpu")], known)
    assert known == {name: Verdict.FAILED}
    assert [record.getMessage() for record in caplog.records] == [f"energy self-test: {name}: failed: it cannot be read"]


def test_a_neighbour_that_came_later_is_told_as_it_is() -> None:
    metered, meter = domain("node", HERE, gpu=Hardware.GPU)
    energy = Energy([metered])
    turn(metered, meter, 8.0, gpu=120)
    turn(metered, meter, 16.0, gpu=200)
    energy.settle(16.3)
    [found] = [check for check in selftest(energy, H200, 16.3)["checks"] if check["name"] == "idle power of node"]
    assert found["verdict"] is Verdict.UNKNOWN
    assert found["found"].startswith("120.0 W, the least of the last minutes: of late it draws 200 W")


def test_the_selftest_tells_another_servers_profile() -> None:
    metered, meter = domain("node", HERE, gpu=Hardware.GPU)
    energy = Energy([metered])
    for n in range(80):
        energy.join(entry(f"r{n}", HERE, 0.5 * n, 0.5 * n + 0.4))
    turn(metered, meter, 45.0, gpu=700)
    energy.settle(46.0)
    assert verdicts(energy, 46.0)["step model of node"] is Verdict.WARNING


@pytest.mark.parametrize(
    "domains",
    [
        [{"upstreams": [HERE]}, {"upstreams": [THERE]}],
        [{"devices": ["0"], "upstreams": [HERE]}, {"devices": ["0", "1"], "upstreams": [THERE]}],
    ],
)
def test_a_device_in_two_domains_is_refused(domains: list[dict[str, object]]) -> None:
    with pytest.raises(ConfigError, match=r"energy\.domains"):
        load(None, {}, {"upstreams": [HERE, THERE], "energy.meter": "nvml", "energy.domains": domains})


@pytest.mark.parametrize("url", ["http://user:hunter2@node:9465", "ftp://node", "gpu-7:9465"])
def test_a_meters_address_holds_no_password_and_is_one(url: str) -> None:
    with pytest.raises(ConfigError, match=r"energy\.url"):
        load(None, {}, {"upstreams": [HERE], "energy.meter": "paceline", "energy.url": url})
