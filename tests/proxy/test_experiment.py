"""What stands against an experiment, what its blocks count, and what its store keeps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.strategy import UnknownStrategy
from proxy.config import Experiment
from proxy.experiments.count import Counting, Joules, block_of
from proxy.experiments.devices import Devices
from proxy.experiments.judging import merged
from proxy.experiments.places import gives_way
from proxy.experiments.plan import Plan, plan
from proxy.experiments.run import least_block_s
from proxy.experiments.store import DiskStore, MemoryStore, Part, State
from proxy.reload import reload
from proxy.sources import ConfigError, load
from telemetry.account import Account
from telemetry.blocks import Block
from telemetry.cost import BUILT_IN, load_profile
from telemetry.design import Design
from telemetry.ledger import Entry
from telemetry.meter import Meter
from telemetry.nvml import NvmlMeter
from telemetry.reservoir import KEPT, Reservoir
from telemetry.snapshot import Interval, Source
from telemetry.traffic import UNKNOWN_TRAFFIC
from tests.end_to_end.paceline import Running, paceline
from tests.end_to_end.test_experiment import PASSTHROUGH as STRAIGHT
from tests.end_to_end.test_experiment import experiment, log_of, until
from tests.end_to_end.test_experiment import load as load_it
from tests.end_to_end.test_running import generate
from tests.serving import config_for
from tests.telemetry.libraries import FakeNvml

DESIGN = Design(began_unix_s=1_000.0, block_s=10.0, burn_in_s=2.0, pairs=2)


def entry(id: str, arrived: float, lasts: float = 1.0, **more: Any) -> Entry:
    """One that was answered; seconds since the epoch and monotonic ones are the same here."""
    made = Entry(id=id, arrived_at=arrived, arrived_unix_s=arrived, output_tokens=10, prompt_tokens=5, slack_s=0.0, status=200)
    made.released_at, made.ended_at = arrived, arrived + lasts
    for key, value in more.items():
        setattr(made, key, value)
    return made


# --- counting ---------------------------------------------------------------------------------------------------------


def test_joules_on_either_side_of_a_border_are_told_apart() -> None:
    counting = Counting(DESIGN)
    early, crossing = entry("early", 1_001.0, 4.0), entry("crossing", 1_009.0, 5.0)
    assert counting.arrived(early, 1_001.0) is None  # burn-in
    assert counting.arrived(crossing, 1_009.0) == 0
    early.energy.active_uj = 3_000_000
    counting.began(0)
    early.energy.active_uj = 8_000_000
    counting.final(early)
    crossing.energy.active_uj = 1_000_000
    counting.ended(0)
    crossing.energy.active_uj = 4_000_000  # two joules of which are the next block's burn-in's
    counting.began(1)
    crossing.energy.active_uj = 6_000_000
    counting.final(crossing)
    first, second = (block_of(index, DESIGN, counting.of(index)) for index in (0, 1))
    assert (first.burn_in_requests, first.requests, first.completed, first.crossing) == (1, 1, 1, 1)
    assert first.carried_j == pytest.approx(5.0)  # of the one who came during the burn-in
    assert first.boundary_j == pytest.approx(5.0)
    assert second.carried_j == pytest.approx(2.0)
    assert (first.wait_p99_s, first.output_tokens) == (None, 10)  # its latency is of no block


def test_errors_lateness_and_clients_that_left() -> None:
    counting = Counting(DESIGN)
    ends: list[dict[str, Any]] = [
        {"status": 500, "error": "upstream"},
        {"status": 0, "error": "client_gone"},
        {"status": 503, "error": "no_slot", "outcome": "expired", "released_at": None, "slack_s": None},
        {"released_at": 1_005.5},  # half a second after its deadline
        {"slack_s": 2.0, "released_at": 1_006.5, "held_s": 1.5},
    ]
    for number, more in enumerate(ends):
        one = entry(str(number), 1_005.0, 3.0, **more)
        counting.arrived(one, 1_005.0)
        counting.final(one)
    block = block_of(0, DESIGN, counting.of(0))
    assert (block.requests, block.completed, block.errors, block.late) == (5, 2, 2, 2)
    assert block.wait_p99_s == pytest.approx(1.5, rel=0.02)
    assert block.arrival_rate == pytest.approx(5 / 8)


def test_latencies_are_of_streams_that_ended_within_the_block() -> None:
    counting = Counting(DESIGN)
    for number in range(21):
        tokens = {"streamed": True, "first_token_at": 1_004.0 + number / 100, "output_tokens": 11}
        one = entry(str(number), 1_004.0, 1.0 + number / 100, **tokens)
        counting.arrived(one, 1_004.0)
        counting.final(one)
    whole, late = entry("whole", 1_004.0, 5.0), entry("late", 1_009.0, 9.0, streamed=True, first_token_at=1_017.0)
    for one in (whole, late):
        counting.arrived(one, one.arrived_unix_s)
        counting.final(one)
    block = block_of(0, DESIGN, counting.of(0))
    assert block.ttft_p95_s == pytest.approx(0.19)  # the last but one of those
    assert (block.ttft_of, block.tpot_of) == (21, 21)
    assert block.tpot_p95_s == pytest.approx(0.1)
    assert (block.completed, block.crossing) == (23, 1)


def test_who_runs_on_for_too_long_is_of_the_requests_and_of_no_other_sum() -> None:
    counting = Counting(DESIGN)
    for number in range(3):
        counting.arrived(entry(str(number), 1_004.0, ended_at=None if number else 1_005.0), 1_004.0)
    counting.final(entry("0", 1_004.0))
    counting.arrived(entry("unmetered", 1_004.0), 1_004.0)  # it has ended, and no meter tells its joules
    assert counting.waits_for(0) == 3
    assert counting.give_up(0) == 2
    assert counting.waits_for(0) == 0
    block = block_of(0, DESIGN, counting.of(0))
    assert (block.requests, block.completed, block.crossing) == (4, 2, 2)


def test_what_a_block_keeps_of_its_latencies_is_bounded_and_fair() -> None:
    few, many = Reservoir(), Reservoir()
    for number in range(KEPT):
        few.add(float(number))
    for number in range(150_000):
        many.add(number / 150_000)
    assert few.quantile(0.95) == pytest.approx(0.95 * (KEPT - 1)), "as long as all are kept it is exact"
    assert (many.seen, len(many._kept)) == (150_000, KEPT)
    for part in (0.05, 0.5, 0.95, 0.99):
        assert many.quantile(part) == pytest.approx(part, abs=0.015)


@given(st.lists(st.tuples(st.floats(990, 1_050), st.floats(0.01, 30)), max_size=40))
def test_everybody_is_counted_once_and_no_joule_is_made_up(came: list[tuple[float, float]]) -> None:
    """Joules grow evenly from arrival to end; what a block's requests were charged is in it, or told as beyond its border."""
    counting, requests = Counting(DESIGN), [entry(str(n), at, lasts) for n, (at, lasts) in enumerate(came)]
    events: list[tuple[float, int, str, Any]] = []
    for index in range(DESIGN.blocks):
        start = DESIGN.start_unix_s(index)
        events += [(start + DESIGN.burn_in_s, 1, "began", index), (start + DESIGN.block_s, 0, "ended", index)]
    for one in requests:
        assert one.ended_at is not None
        events += [(one.arrived_at, 2, "arrived", one), (one.ended_at, 3, "final", one)]
    for at, _, what, of in sorted(events, key=lambda event: event[:2]):
        for one in requests:
            assert one.duration_s is not None
            share = min(max(at - one.arrived_at, 0.0) / one.duration_s, 1.0)
            one.energy.active_uj = round(share * 10_000_000)
        counting.arrived(of, at) if what == "arrived" else getattr(counting, what)(of)
    blocks = [block_of(index, DESIGN, counting.of(index)) for index in range(DESIGN.blocks)]
    inside = [one for one in requests if DESIGN.block_at(one.arrived_unix_s) is not None]
    assert sum(block.requests + block.burn_in_requests for block in blocks) == len(inside)
    assert all(block.completed == block.requests for block in blocks)
    for block in blocks:
        since, until_s = block.start_unix_s + DESIGN.burn_in_s, block.end_unix_s
        own = [one for one in inside if since <= one.arrived_unix_s and DESIGN.block_at(one.arrived_unix_s) == block.index]
        strangers = [one for one in requests if one not in own]
        assert block.carried_j == pytest.approx(sum(joules(one, since, until_s) for one in strangers), abs=1e-4)
        assert block.boundary_j == pytest.approx(sum(joules(one, until_s, 1e9) for one in own), abs=1e-4)


def joules(one: Entry, since: float, until_s: float) -> float:
    assert one.ended_at is not None
    assert one.duration_s is not None
    return 10 * max(min(one.ended_at, until_s) - max(one.arrived_at, since), 0.0) / one.duration_s


def test_joules_are_cut_at_borders_however_they_are_settled() -> None:
    counting = Counting(DESIGN)
    meter = Joules(counting, gap_s=5.0, between=lambda since, upto: (round((upto - since) * 1e6), "counter"))
    meter.begin(0, 1_000.0)
    for settled in (1_000.5, 1_004.0, 1_008.5, 1_013.0, 1_017.9, 1_022.0):
        meter.settled(settled, 0.0)
    assert [counting.of(index).energy_uj for index in (0, 1, 2)] == [8_000_000, 8_000_000, None]
    assert [counting.of(index).burn_in_uj for index in (0, 1, 2)] == [2_000_000] * 3
    assert not counting.of(0).faults
    assert not counting.of(1).faults
    meter.settled(1_031.0, 0.0)  # nine seconds at once: whose they are cannot be told
    assert "the meter told nothing for 9.0 s" in counting.of(2).unmetered[0]
    block = block_of(2, DESIGN, counting.of(2))
    assert (counting.of(2).energy_uj is not None, block.energy_j, block.complete) == (True, None, True)


# --- keeping ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_disk", [True, False])
async def test_a_store_keeps_states_lines_and_the_last_part_of_each_replica(on_disk: bool, tmp_path: Path) -> None:
    store = DiskStore(tmp_path / "new") if on_disk else MemoryStore()
    assert (await store.states(), await store.lines("a"), await store.parts("a")) == ({}, [], {})
    await store.save("a", {"state": "running"})
    await store.save("a", {"state": "finished"})
    for number in range(3):
        await store.log("a", {"event": number})
    first, again, other = (Block(0, 1, 0.0, 1.0, requests=number) for number in (1, 2, 3))
    for replica, block in (("x", first), ("x", again), ("y", other)):
        await store.add_part("a", Part(replica, block))
    assert await store.states() == {"a": {"state": "finished"}}
    assert [line["event"] for line in await store.lines("a")] == [0, 1, 2]
    assert await store.parts("a") == {0: {"x": again, "y": other}}
    with pytest.raises(ValueError, match="begins with a letter or digit"):
        await store.save("../a", {})


async def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        await DiskStore(tmp_path).save("odd", {"bound": float("inf")})
    assert not (tmp_path / "odd").exists()


async def test_blocks_are_read_from_the_disk_once(tmp_path: Path) -> None:
    await DiskStore(tmp_path).add_part("a", Part("x", Block(0, 1, 0.0, 1.0)))
    store = DiskStore(tmp_path)
    await store.parts("a")
    (tmp_path / "a" / "blocks.jsonl").unlink()
    await store.add_part("a", Part("x", Block(1, 0, 1.0, 2.0)))
    assert list(await store.parts("a")) == [0, 1]


async def test_half_a_line_is_no_line_and_spoils_none(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    await store.log("a", {"event": 1})
    file = tmp_path / "a" / "log.jsonl"
    file.write_bytes(file.read_bytes() + b'{"event":')
    await store.log("a", {"event": 2})
    assert [line["event"] for line in await store.lines("a")] == [1, 2]


async def test_a_foreign_file_does_not_hide_other_experiments(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = DiskStore(tmp_path)
    await store.save("a", {"state": "finished"})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "state.json").write_text("[")
    assert list(await store.states()) == ["a"]
    assert "b/state.json" in caplog.text


def test_a_plan_is_the_same_after_it_was_kept() -> None:
    asked = Experiment.model_validate(
        experiment(block_s=30, treatment={"policy": {"name": "window", "params": {"every_s": 1}}})
    )
    made = plan(asked, "default", 1_000.0, [], UNKNOWN_TRAFFIC)
    assert Plan.of(made.as_json()) == made
    assert not made.same_arms
    assert made.design.seed == 1
    with pytest.raises(ValueError, match="no state of an experiment"):
        Plan.of({"name": "x"})


def test_auto_lengths_are_reckoned_and_told() -> None:
    asked = Experiment.model_validate(experiment(block_s="auto", burn_in_s="auto", seed=None))
    lately = [entry(str(n), 100.0 + n, 20.0) for n in range(50)]
    made = plan(asked, "default", 1_000.0, lately, UNKNOWN_TRAFFIC)
    assert made.design.burn_in_s >= 60
    assert made.design.block_s >= max(100, 2 * made.design.burn_in_s)
    assert "of 50 requests 99 % took at most 20.0 s" in made.notes[0]
    short = asked.model_copy(update={"block_s": 30.0})
    with pytest.raises(ValueError, match="which block_s must be longer than"):
        plan(short, "default", 1_000.0, lately, UNKNOWN_TRAFFIC)


def test_a_meter_tells_blocks_apart_that_are_long_enough() -> None:
    assert least_block_s(0.1) == least_block_s(0.0) == 0.0
    assert least_block_s(15.0) == pytest.approx(225.0)
    counting = Counting(replace(DESIGN, block_s=225.0, burn_in_s=20.0))
    meter = Joules(counting, gap_s=22.5, between=lambda since, upto: (round((upto - since) * 1e6), "counter"))
    meter.begin(0, 1_000.0)
    for number in range(1, 40):
        meter.settled(1_000.0 + 15.2 * number, 0.0)
    assert not counting.of(0).unmetered


async def test_blocks_too_short_for_the_meter_are_refused_and_auto_ones_are_longer() -> None:
    async with paceline(**{"energy.poll_s": 2.0}) as running:
        refused = await running.admin.post("/experiments", json=experiment())
        auto = experiment("auto", block_s="auto", burn_in_s=1.0)
        planned = (await running.admin.post("/experiments/plan", json=auto)).json()
        assert (await running.admin.get("/experiments")).json() == [], "a plan begins nothing"
    assert refused.status_code == 422
    assert "its meter tells more every 2 s, which tells only blocks of 30 s or more apart" in refused.text
    assert planned["state"] == "planned"
    assert planned["design"]["block_s"] >= 30


class Slow(Devices):
    """Their meter has become slow."""

    @property
    def step_s(self) -> float:
        return 15.0


async def test_a_meter_that_turns_out_to_be_too_slow_is_told_while_the_experiment_runs() -> None:
    async with paceline() as running:
        assert (await running.admin.post("/experiments", json=experiment("slow", pairs=9))).status_code == 201
        one = running.app.experiments.running["slow"]
        fine = (await running.admin.get("/experiments/slow")).json()["why"]
        one.devices = Slow(one.devices.energy, one.devices.pool)
        told = (await running.admin.get("/experiments/slow")).json()["why"]
    assert fine == ""
    assert told == "blocks are lost: its meter tells more every 15 s, which is too seldom for blocks of 2 s"


def test_how_often_a_meter_tells_is_what_it_lately_did() -> None:
    account = Account(load_profile(BUILT_IN))
    assert account.step_s == 0.0
    edges = [0.0, 0.1, 0.2, *(100.0 + 15.0 * number for number in range(12))]
    account.add([Interval("gpu", since, until_s, 1_000_000, Source.COUNTER) for since, until_s in pairwise(edges)])
    account.settle(1_000.0)
    assert account.step_s == pytest.approx(15.0)


def test_temperatures_are_those_that_devices_tell() -> None:
    class Warm(FakeNvml):
        NVML_TEMPERATURE_GPU = 0

        def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:  # noqa: N802
            if handle == "GPU-b":
                raise self.NVMLError("Not Supported")
            return 61

    assert NvmlMeter(library=Warm()).temperatures() == {"GPU-a": 61.0}


class Warm:
    """A meter that tells temperatures, too."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._meter, name)

    def temperatures(self) -> dict[str, float]:
        return {"a": 40.0, "b": 50.0}


async def test_a_blocks_temperature_is_the_mean_of_its_devices() -> None:
    async with paceline() as running:
        assert running.app.energy is not None
        devices = Devices(running.app.energy, running.app.fleet.default)
        assert await devices.temperature_c() is None  # simulated engines tell none
        for domain in devices.domains:
            domain.monitor.meter, meter = cast(Meter, Warm(domain.monitor.meter)), domain.monitor.meter
            assert await devices.temperature_c() == 45.0
            domain.monitor.meter = meter


# --- what stands against it -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "status", "told"),
    [
        ({"treatment": {"policy": {"name": "spam"}}}, 422, "built in are"),
        ({"burn_in_s": 2.0}, 422, "burn_in_s must be shorter than block_s"),
        ({"guardrails": {"speed": 1.0}}, 422, "unknown guardrail speed"),
        ({"name": "../x"}, 422, "String should match pattern"),
        ({"group": "other"}, 422, "no group 'other'; there are default"),
        ({"pairs": 0}, 422, "greater than or equal to 1"),
        ({"pairs": 1_000_000_000}, 422, "less than or equal to 10000"),
        ({"block_s": 1e-9, "burn_in_s": 0.0}, 422, "greater than or equal to 0.1"),
        ({"block_s": 1e15}, 422, "less than or equal to 604800"),
        ({"begins_in_s": 1e300}, 422, "less than or equal to 604800"),
        ({"alpha": 1e-17}, 422, "greater than or equal to"),  # no t quantile is so far out
        ({"paris": 3}, 422, "Extra inputs"),
    ],
)
async def test_what_does_not_fit_is_told(changes: dict[str, Any], status: int, told: str) -> None:
    async with paceline() as running:
        answer = await running.admin.post("/experiments", json=experiment(**changes))
        assert (await running.admin.get("/experiments")).json() == []
        assert (await running.admin.get("/policy")).json()["policy"]["name"] == "span"
    assert answer.status_code == status, answer.text
    assert told in answer.text


async def test_without_a_meter_there_is_nothing_to_compare() -> None:
    async with paceline(**{"energy.meter": "none"}) as running:
        answer = await running.admin.post("/experiments", json=experiment())
        form = await running.admin.post("/experiments", content="{}", headers={"content-type": "text/plain"})
        unknown = [(await running.admin.get(f"/experiments/x{of}")).status_code for of in ("", "/log")]
        stop = await running.admin.post("/experiments/x/stop")
    assert answer.status_code == 409
    assert "no meter tells the devices' joules" in answer.json()["detail"]
    assert (form.status_code, unknown, stop.status_code) == (422, [404, 404], 404)


def same(running: Running, **flags: Any) -> Any:
    urls = [engine.url for engine in running.engines]
    return load(None, {}, {"energy.meter": "simulated", "upstreams": urls, **flags})


async def test_while_it_runs_nobody_else_changes_the_strategy_and_stopping_it_puts_control_in_force() -> None:
    async with paceline(**{"policy.name": "size", "policy.params": {"n": 2}}) as running:
        flags = {"policy.name": "size", "policy.params": {"n": 2}}
        assert (await running.admin.post("/experiments", json=experiment(shadow=True, pairs=9))).status_code == 201
        with pytest.raises(
            ConfigError, match="POST /experiments/try/stop on the admin port, ends it; nothing has been changed"
        ):
            reload(running.app, same(running, **{"policy.name": "window"}))
        with pytest.raises(ConfigError, match="experiments: cannot be changed without a restart"):
            reload(running.app, same(running, **flags, **{"experiments.path": "/tmp/x"}))
        reload(running.app, same(running, **flags, **{"queue.limit": 7}))
        assert running.app.fleet.default.scheduler.strategy.policy_name == "switchback"
        assert set(running.app.shadows.strategies) == {"try.control", "try.treatment"}
        stopped = (await running.admin.post("/experiments/try/stop")).json()
        again = [await running.admin.post("/experiments/try/stop"), await running.admin.post("/experiments", json=experiment())]
        in_force = (await running.admin.get("/policy")).json()["policy"]["name"]
        [listed] = (await running.admin.get("/experiments")).json()
        assert not running.app.shadows.strategies
        reload(running.app, same(running, **{"policy.name": "window"}))
    assert (stopped["state"], in_force, listed["name"]) == ("stopped", "passthrough", "try")
    assert [answer.status_code for answer in again] == [409, 409]
    assert "each has its own name" in again[1].json()["detail"]


@given(st.permutations([(1.0, "a"), (1.0, "b"), (2.0, "c")]))
def test_in_whatever_order_replicas_hear_of_them_the_first_goes_on(heard: list[tuple[float, str]]) -> None:
    going: Plan | None = None
    for created_unix_s, name in heard:
        asked = Experiment.model_validate(experiment(name))
        read = replace(plan(asked, "default", 1_000.0, [], UNKNOWN_TRAFFIC), created_unix_s=created_unix_s)
        ended = gives_way(read, [going] if going is not None else [], 1_001.0)
        assert ended is None or (ended.state == "stopped" and going is not None and going.name in ended.why)
        going = read if ended is None else going
    assert going is not None
    assert going.name == "a"
    late = gives_way(replace(going, created_unix_s=0.0), [going], going.design.ends_unix_s)
    assert late is not None
    assert late.state == "finished", "what is over takes nobody's place"
    assert gives_way(replace(read, design=replace(read.design, pairs=9)), [going], going.design.ends_unix_s) is None


async def test_two_run_side_by_side_on_devices_of_their_own() -> None:
    async with paceline(engines=2) as alone:
        groups = [{"url": engine.url, "group": f"g{number}"} for number, engine in enumerate(alone.engines)]
        reload(alone.app, same(alone, upstreams=groups))
        nameless = await alone.admin.post("/experiments", json=experiment("one"))
        for number, name in enumerate(("one", "two")):
            answer = await alone.admin.post("/experiments", json=experiment(name, group=f"g{number}", pairs=9))
            assert answer.status_code == 201, answer.text
        third = await alone.admin.post("/experiments", json=experiment("three", group="g1"))
    assert nameless.status_code == 422
    assert "group: which of g0, g1?" in nameless.text
    assert third.status_code == 409
    assert "experiment two runs on group g1" in third.text


async def test_groups_on_one_device_cannot_experiment_at_once() -> None:
    async with paceline(engines=2) as alone:
        urls = [engine.url for engine in alone.engines]
        flags = {"energy.domains": [{"devices": urls, "upstreams": urls}]}
        groups = [{"url": url, "group": f"g{number}"} for number, url in enumerate(urls)]
        async with paceline(engines=0, upstreams=groups, **flags) as running:
            first = await running.admin.post("/experiments", json=experiment("one", group="g0", pairs=9))
            second = await running.admin.post("/experiments", json=experiment("two", group="g1"))
    assert first.status_code == 201
    assert any("of other groups share its devices" in note for note in first.json()["notes"])
    assert second.status_code == 409
    assert "experiment one runs on the devices of" in second.text


# --- what goes wrong while it runs ------------------------------------------------------------------------------------


class Flaky(MemoryStore):
    """A store that cannot be had for a while."""

    gone = False

    async def log(self, name: str, line: Mapping[str, Any]) -> None:
        self._check()
        await super().log(name, line)

    async def add_part(self, name: str, part: Part) -> None:
        self._check()
        await super().add_part(name, part)

    async def save(self, name: str, state: State) -> None:
        self._check()
        await super().save(name, state)

    def _check(self) -> None:
        if self.gone:
            raise OSError(28, "No space left on device")


async def test_a_store_that_cannot_be_had_delays_what_is_kept_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async with paceline() as running, load_it(running.url):
        store = running.app.experiments.store = Flaky()
        store.gone = True
        assert (await running.admin.post("/experiments", json=experiment())).status_code == 507
        store.gone = False
        asked = experiment("on", pairs=1, block_s=1.5, burn_in_s=0.3)
        assert (await running.admin.post("/experiments", json=asked)).status_code == 201
        store.gone = True
        await asyncio.sleep(2.2)
        store.gone = False
        told = await until(running.admin, "on", "finished")
        events = [line["event"] for line in await log_of(running.admin, "on")]
    assert [block["complete"] for block in told["blocks"]] == [True, True]
    assert events == ["started", "block_began", "block_began", "block_ended", "block_ended", "finished"] or events == [
        *("started", "block_began", "block_ended", "block_began", "block_ended", "finished")
    ]
    assert caplog.text.count("cannot be kept for now") == 1
    assert "is kept again" in caplog.text


async def test_a_clock_that_is_set_spoils_the_block_and_not_the_proxy() -> None:
    ahead_s = 0.0
    async with paceline() as running, load_it(running.url):
        running.app.experiments.wall = lambda: time.time() + ahead_s
        asked = experiment("jump", pairs=2, block_s=1.5, burn_in_s=0.3)
        assert (await running.admin.post("/experiments", json=asked)).status_code == 201
        await asyncio.sleep(0.7)
        ahead_s = 0.7
        told = await until(running.admin, "jump", "finished")
        log = await log_of(running.admin, "jump")
    complete = [block["complete"] for block in told["blocks"]]
    assert (complete[0], complete[-1]) == (False, True)
    assert any("the wall clock was set" in line.get("why", "") for line in log)


@pytest.mark.parametrize("broken", ["joules", "counting"])
async def test_a_fault_of_ours_ends_it_and_no_request_notices(broken: str) -> None:
    async with paceline() as running, load_it(running.url) as ids:
        assert (await running.admin.post("/experiments", json=experiment("odd", pairs=9))).status_code == 201
        setattr(running.app.experiments.running["odd"], broken, None)
        told = await until(running.admin, "odd", "stopped")
        before = len(ids)
        await asyncio.sleep(1.0)
        assert len(ids) > before
        assert (await running.admin.get("/policy")).json()["policy"]["name"] == "passthrough"
    assert "a fault of ours: " in told["why"]


# --- from the configuration -------------------------------------------------------------------------------------------


async def test_one_of_the_configuration_begins_once(tmp_path: Path) -> None:
    asked = experiment("conf", pairs=1, block_s=1.0, burn_in_s=0.2)
    flags = {"experiments.path": str(tmp_path), "experiment": asked}
    async with paceline(**flags) as running, load_it(running.url):
        told = await until(running.admin, "conf", "finished")
    assert told["restarts"] == 0
    async with paceline(**flags) as running:
        again = (await running.admin.get("/experiments/conf")).json()
        assert (await running.admin.get("/policy")).json()["policy"]["name"] == "span"
    assert again["in_force"]["policy"]["name"] == "span", "the configuration's, and not the experiment's control"
    assert again["blocks"] == told["blocks"]
    assert again["state"] == "finished"
    assert again["comparison"]["effect"] == told["comparison"]["effect"]


@pytest.mark.parametrize("replica", ["proxy", "host-8080"])  # the other name is from when it had others beside it
async def test_one_that_ended_while_the_proxy_was_away_is_over_with_what_it_had(replica: str, tmp_path: Path) -> None:
    asked = Experiment.model_validate(experiment("past", pairs=2))
    past = plan(asked, "default", time.time() - 100.0, [], UNKNOWN_TRAFFIC)
    store = DiskStore(tmp_path)
    await store.save("past", past.as_json())
    starts, ends = past.design.start_unix_s(0), past.design.start_unix_s(1)
    await store.add_part("past", Part(replica, Block(0, past.design.arm_of(0), starts, ends, requests=5)))
    async with paceline(**{"experiments.path": str(tmp_path)}) as running:
        told = await until(running.admin, "past", "finished")
        log = await log_of(running.admin, "past")
    assert [(block["index"], block["complete"]) for block in told["blocks"]] == [(0, True), (1, False), (2, False), (3, False)]
    assert [line["event"] for line in log] == ["restart_seen", *["block_lost"] * 3, "finished"]


async def test_one_that_cannot_go_on_is_stopped_and_says_why(tmp_path: Path) -> None:
    asked = Experiment.model_validate(experiment("gone", group="gpu", pairs=2))
    await DiskStore(tmp_path).save("gone", plan(asked, "gpu", time.time(), [], UNKNOWN_TRAFFIC).as_json())
    async with paceline(**{"experiments.path": str(tmp_path)}) as running:
        told = (await running.admin.get("/experiments/gone")).json()
    assert told["state"] == "stopped"
    assert "it could not go on: no group 'gpu'; there are default" in told["why"]


async def test_one_that_is_over_is_told_though_its_policy_is_not_there_any_more(tmp_path: Path) -> None:
    asked = Experiment.model_validate(experiment("old", pairs=1))
    state = plan(asked, "default", 1_000.0, [], UNKNOWN_TRAFFIC).ended("finished", "all blocks are over", 2_000.0).as_json()
    state["arms"][1]["policy"]["name"] = "gone.for:Ever"
    await DiskStore(tmp_path).save("old", state)
    design = Design(**state["design"])
    for index in range(2):
        block = Block(index, design.arm_of(index), design.start_unix_s(index), design.start_unix_s(index + 1), 5.0)
        await DiskStore(tmp_path).add_part("old", Part("proxy", replace(block, requests=9, completed=9, output_tokens=9)))
    await DiskStore(tmp_path).save("none", {"state": "finished"})
    async with paceline(**{"experiments.path": str(tmp_path)}) as running:
        answer = await running.admin.get("/experiments/old")
        none = await running.admin.get("/experiments/none")
    told = answer.json()
    assert (told["state"], told["why"], len(told["blocks"])) == ("finished", "all blocks are over", 2)
    assert told["comparison"]["pairs"] == 1
    assert (none.status_code, none.json()["blocks"]) == (200, [])


async def test_a_block_that_is_told_again_is_compared_again(tmp_path: Path) -> None:
    asked = Experiment.model_validate(experiment("again", pairs=1))
    over = plan(asked, "default", 1_000.0, [], UNKNOWN_TRAFFIC).ended("finished", "all blocks are over", 2_000.0)
    async with paceline() as running:
        experiments, design = running.app.experiments, over.design
        experiments.over["again"] = over.as_json()
        sums: dict[str, Any] = {"requests": 30, "completed": 30, "output_tokens": 30, "source": "counter"}
        found = []
        for index, energy_j in ((0, 30.0), (1, 30.0), (1, 60.0)):
            block = Block(index, design.arm_of(index), design.start_unix_s(index), design.start_unix_s(index + 1), energy_j)
            await experiments.store.add_part("again", Part("proxy", replace(block, **sums)))
            found.append((await running.admin.get("/experiments/again")).json()["comparison"]["effect"])
    assert found[1]["middle"] == pytest.approx(0.0)
    assert abs(found[2]["middle"]) > 0.4


def test_what_was_counted_in_blocks_of_another_design_is_not_whole() -> None:
    def told(index: int, arm: int, later_s: float = 0.0) -> Block:
        return Block(
            index, arm, DESIGN.start_unix_s(index) + later_s, DESIGN.start_unix_s(index + 1) + later_s, 5.0, requests=9
        )

    ours = [told(index, DESIGN.arm_of(index)) for index in range(4)]
    gave_way = [told(0, 1 - ours[0].arm), told(1, ours[1].arm, later_s=3.0), told(7, 0)]
    parts = {index: {"a": block} for index, block in enumerate(ours)}
    parts |= {block.index: {**parts.get(block.index, {}), "0": block} for block in gave_way}
    blocks = merged(parts, lambda block: (), DESIGN)
    assert [(block.index, block.arm, block.complete) for block in blocks] == [
        *((index, ours[index].arm, False) for index in (0, 1)),
        *((index, ours[index].arm, True) for index in (2, 3)),
    ]


async def test_a_store_that_cannot_be_read_keeps_no_proxy_from_starting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = Experiment.model_validate(experiment("odd", pairs=2))
    await DiskStore(tmp_path).save("odd", plan(asked, "default", time.time(), [], UNKNOWN_TRAFFIC).as_json())
    (tmp_path / "odd" / "log.jsonl").mkdir()  # as good as a disk that fails
    async with paceline(**{"experiments.path": str(tmp_path)}) as running:
        assert (await running.admin.get("/policy")).json()["policy"]["name"] == "span"
    assert "experiment odd cannot be read, and does not go on before the next start" in caplog.text


async def test_a_drain_tells_the_blocks_that_are_over(tmp_path: Path) -> None:
    flags = {"experiments.path": str(tmp_path)}
    async with paceline(**flags) as running, load_it(running.url):
        asked = experiment("drained", pairs=3, block_s=1.0, burn_in_s=0.2)
        assert (await running.admin.post("/experiments", json=asked)).status_code == 201
        await asyncio.sleep(1.25)  # one is just over, and its joules are not settled
    parts = await DiskStore(tmp_path).parts("drained")
    assert list(parts) == [0]
    assert parts[0]["proxy"].complete
    assert (await DiskStore(tmp_path).states())["drained"]["state"] == "running"


async def test_stopping_tells_the_blocks_that_are_over() -> None:
    async with paceline() as running, load_it(running.url):
        asked = experiment("stopped", pairs=3, block_s=1.0, burn_in_s=0.2)
        assert (await running.admin.post("/experiments", json=asked)).status_code == 201
        one = running.app.experiments.running["stopped"]
        async with asyncio.timeout(10):
            while not one._waiting:  # a block is just over, and its requests' joules are not settled
                await asyncio.sleep(0.01)
        told = (await running.admin.post("/experiments/stopped/stop")).json()
        log = await log_of(running.admin, "stopped")
    assert [block["index"] for block in told["blocks"]] == [0]
    assert told["blocks"][0]["requests"] > 0
    assert [line["event"] for line in log][-2:] == ["block_ended", "stopped"]


async def test_a_treatment_that_hangs_requests_trips() -> None:
    asked = experiment("hang", pairs=6, block_s=1.0, burn_in_s=0.1, treatment=STRAIGHT)
    async with paceline() as running:
        assert (await running.admin.post("/experiments", json=asked)).status_code == 201
        one = running.app.experiments.running["hang"]
        one.patience_s = 0.0  # a block's length instead of a minute
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=60, limits=limits) as client:

            async def send() -> None:
                tokens = 2_000 if one.now()["arm"] == "treatment" else 2  # half a minute: for an operator it hangs
                await client.post("/generate", json=generate(tokens))

            sending = set[asyncio.Task[None]]()
            try:
                while one.plan.state == "running":
                    sending.add(asyncio.create_task(send()))
                    await asyncio.sleep(0.03)
            finally:
                for task in sending:
                    task.cancel()
                await asyncio.gather(*sending, return_exceptions=True)
        told = (await running.admin.get("/experiments/hang")).json()
    assert (told["state"], told["comparison"]["tripped"]) == ("tripped", ["unfinished"]), told["why"]
    assert "unfinished" in told["why"]
    hung = [block for block in told["blocks"] if block["unfinished"]]
    assert hung
    assert all(block["arm"] == 1 and block["complete"] for block in hung)
    assert any("had not ended long after it" in lost["why"] for lost in told["comparison"]["lost"])


async def test_a_meter_that_is_missing_after_a_restart_costs_blocks_and_not_the_experiment(tmp_path: Path) -> None:
    asked = Experiment.model_validate(experiment("dark", pairs=2, block_s=1.0, burn_in_s=0.2))
    await DiskStore(tmp_path).save("dark", plan(asked, "default", time.time(), [], UNKNOWN_TRAFFIC).as_json())
    async with paceline(**{"experiments.path": str(tmp_path), "energy.meter": "none"}) as running, load_it(running.url):
        dark = (await running.admin.get("/experiments/dark")).json()
        ended = await until(running.admin, "dark", "finished")
        log = await log_of(running.admin, "dark")
    assert dark["state"] == "running"
    assert "blocks are lost: no meter tells the devices' joules of" in dark["why"]
    assert "no meter tells" in log[0]["why"]
    assert all(block["energy_j"] is None and block["requests"] for block in ended["blocks"] if block["complete"])
    assert any(block["complete"] for block in ended["blocks"]), "guardrails go on to look at them"


async def test_joules_of_other_devices_are_not_taken_for_those_of_the_experiment(tmp_path: Path) -> None:
    asked = Experiment.model_validate(experiment("moved", pairs=2, block_s=1.0, burn_in_s=0.2))
    made = replace(plan(asked, "default", time.time(), [], UNKNOWN_TRAFFIC), devices=("GPU-other",))
    await DiskStore(tmp_path).save("moved", made.as_json())
    async with paceline(**{"experiments.path": str(tmp_path)}) as running, load_it(running.url):
        told = await until(running.admin, "moved", "finished")
        log = await log_of(running.admin, "moved")
    whole = [block for block in told["blocks"] if block["complete"]]
    assert whole
    assert all(block["energy_j"] is None for block in whole)
    assert any("it is about the devices GPU-other, and this proxy meters" in line.get("why", "") for line in log)


async def test_a_block_that_ends_while_the_proxy_closes_is_not_complete(tmp_path: Path) -> None:
    async with paceline(**{"experiments.path": str(tmp_path)}) as running, load_it(running.url):
        asked = experiment("closing", pairs=3, block_s=1.0, burn_in_s=0.2)
        assert (await running.admin.post("/experiments", json=asked)).status_code == 201
        await asyncio.sleep(0.7)
        running.app.drain()  # whoever waits leaves, so it is not the arm that says who is held
        await asyncio.sleep(0.7)
    parts = await DiskStore(tmp_path).parts("closing")
    assert [(index, of["proxy"].complete) for index, of in parts.items()] == [(0, False)]
    assert any("the proxy was closing" in line.get("why", "") for line in await DiskStore(tmp_path).lines("closing"))


class Broken(MemoryStore):
    """A store that cannot write what it is given, whatever is tried."""

    broken = False

    async def log(self, name: str, line: Mapping[str, Any]) -> None:
        if self.broken and name == "odd":
            raise ValueError("Out of range float values are not JSON compliant")
        await super().log(name, line)


async def test_what_cannot_be_written_ends_one_experiment_and_the_next_is_looked_at() -> None:
    async with paceline() as running, load_it(running.url):
        running.app.experiments.store = store = Broken()
        assert (await running.admin.post("/experiments", json=experiment("odd", pairs=9))).status_code == 201
        store.broken = True
        told = await until(running.admin, "odd", "stopped")
        assert "a fault of ours" in told["why"]
        asked = experiment("next", pairs=1, block_s=1.0, burn_in_s=0.2)
        assert (await running.admin.post("/experiments", json=asked)).status_code == 201
        await until(running.admin, "next", "finished")


class Stuck(MemoryStore):
    """A store that does not answer while an end is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.free = asyncio.Event()

    async def log(self, name: str, line: Mapping[str, Any]) -> None:
        if line["event"] == "stopped":
            await self.free.wait()
        await super().log(name, line)


async def test_no_request_is_of_an_arm_once_control_is_back_however_long_the_store_takes() -> None:
    async with paceline() as running:
        running.app.experiments.store = store = Stuck()
        asked = experiment("stuck", pairs=9, block_s=5.0, burn_in_s=0.0)
        assert (await running.admin.post("/experiments", json=asked)).status_code == 201
        await asyncio.sleep(0.4)
        one = running.app.experiments.running["stuck"]
        assert one.in_force
        stopping = asyncio.create_task(running.app.experiments.stop("stuck"))
        await asyncio.sleep(0.1)
        assert not stopping.done()
        late = entry("late", time.time())
        running.app.experiments.arrived(one.pool, late)
        assert (late.experiment, one.pool.scheduler.strategy.policy_name) == ("", "passthrough")
        assert running.app.experiments.policy_name(one.pool) == "passthrough"
        store.free.set()
        assert (await stopping).state == "stopped"


def test_one_of_the_configuration_is_checked() -> None:
    with pytest.raises(ConfigError, match=r"needs experiments\.path"):
        config_for("127.0.0.1:1", experiment=experiment())
    with pytest.raises(ConfigError, match="no group 'x'; there are default"):
        config_for("127.0.0.1:1", **{"experiments.path": "/tmp/x", "experiment": experiment(group="x")})
    groups = [{"url": f"http://127.0.0.1:{port}", "group": f"g{port}"} for port in (1, 2)]
    with pytest.raises(ConfigError, match=r"which of g1, g2\?"):
        load(None, {}, {"upstreams": groups, "experiments.path": "/tmp/x", "experiment": experiment()})
    with pytest.raises(ConfigError, match="built in are"):
        config_for("127.0.0.1:1", experiment=experiment(control={"policy": {"name": "spam"}}))
    assert issubclass(UnknownStrategy, ValueError)  # so that a configuration can tell it
