"""What the loop notes, what the thread makes of it, and that neither can hurt a request."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from policies.base import Decision, ServerState, View, Waiting
from policies.lived import AS_RUN, STRAIGHT, Lived
from policies.strategy import Choice, Strategy, build
from proxy.comparing import Batch, Comparing, quantiles
from proxy.fleet import create_fleet
from proxy.shadow import Shadows
from proxy.shadow_report import describe, gauge
from proxy.sources import ConfigError
from telemetry.cost import load_profile
from telemetry.ledger import Entry, Ledger
from telemetry.tally import Distribution
from tests.serving import config_for

SERVER = "http://127.0.0.1:1"
WINDOW = [{"name": "w", "policy": {"name": "window", "params": {"every_s": 1.0}}}]


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Stage:
    """Shadows in front of nothing, whose requests come and go as a test says."""

    shadows: Shadows
    ledger: Ledger
    clock: Clock
    counted: dict[str, Distribution] = field(default_factory=dict)

    async def released(self, id: str, slack: float = 0.0, most: int = 64) -> Entry:
        """A request comes and leaves at once."""
        pool = self.shadows.fleet.default
        entry = Entry(id, self.clock.now, 0.0, prompt_tokens=50, max_new_tokens=most)
        self.ledger.open(entry)
        waiting = Waiting(id, self.clock.now, self.clock.now + slack, 50, most)
        pool.scheduler.room.admit(waiting)
        [leaving] = pool.scheduler.room.tick(self.clock.now + slack).leaving
        entry.server, entry.policy, entry.released_at = leaving.server, "passthrough", self.clock.now + slack
        self.shadows.released(entry)
        return entry

    def ended(self, entry: Entry, tokens: int = 10) -> None:
        entry.output_tokens = tokens
        self.shadows.fleet.default.scheduler.room.ended(entry.id, self.clock.now, tokens)
        self.ledger.close(entry, self.clock.now)
        self.shadows.ended(entry)

    async def compared(self) -> None:
        """Everything that is known now has been compared."""
        self.shadows.look()
        for _ in range(500):
            if not self.shadows.comparing.busy or self.shadows.comparing.fault:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("the thread is still busy")

    def totals(self, name: str) -> dict[str, object]:
        return dict(self.shadows.comparing.compared.strategies[name])


@asynccontextmanager
async def stage(**flags: object) -> AsyncIterator[Stage]:
    config = config_for(SERVER, **{"shadow.share": 1.0, "policy.name": "passthrough", **flags})
    fleet, ledger, clock, counted = create_fleet(config, {}), Ledger(), Clock(), dict[str, Distribution]()
    waits = lambda name: counted.setdefault(name, Distribution((1.0,)))  # noqa: E731
    for pool in fleet.pools.values():
        pool.scheduler.clock = clock
    shadows = Shadows(config, fleet, ledger, load_profile(), waits, clock)
    try:
        yield Stage(shadows, ledger, clock, counted)
    finally:
        shadows.close()
        for server in fleet.servers:
            await server.close()


async def test_it_is_known_until_the_oldest_that_is_open_and_no_further() -> None:
    async with stage() as it:
        first = await it.released("a")
        it.clock.now += 1
        second = await it.released("b")
        it.clock.now += 10
        it.ended(second)
        await it.compared()
        assert it.totals(STRAIGHT)["requests"] == 0  # "a" may still turn out to be anything
        it.ended(first)
        it.clock.now += 5
        await it.compared()
        assert it.totals(STRAIGHT)["requests"] == it.totals(AS_RUN)["compared"] == 2
        assert it.totals(AS_RUN)["saved_j"] == pytest.approx(0, abs=1e-9)


async def test_one_that_runs_too_long_is_guessed_and_its_end_counts_no_more() -> None:
    async with stage(**{"shadow.lag_s": 30.0}) as it:
        slow = await it.released("slow", most=20)
        it.ended(await it.released("quick"))
        it.clock.now += 29
        await it.compared()
        assert it.totals(STRAIGHT)["requests"] == 0
        it.clock.now += 2
        await it.compared()
        assert (it.totals(STRAIGHT)["requests"], it.shadows.guessed) == (2, 1)
        it.ended(slow, tokens=5000)
        it.clock.now += 10
        await it.compared()
        assert (it.totals(STRAIGHT)["requests"], it.shadows.left_out, it.shadows._given) == (2, 0, set())


async def test_one_without_a_token_is_left_out_and_counted() -> None:
    async with stage() as it:
        it.ended(await it.released("failed"), tokens=0)
        it.ended(await it.released("good"))
        it.clock.now += 5
        await it.compared()
        told = gauge(it.shadows)
        assert told is not None
        assert (it.totals(STRAIGHT)["requests"], told.left_out) == (1, 1)


async def test_slack_is_noted_for_the_ledger_also_where_shadows_are_off() -> None:
    async with stage(**{"shadow.gain": False}) as it:
        entry = await it.released("a", slack=3.0)
        it.ended(entry)
        it.shadows.look()
        assert entry.slack_s == pytest.approx(3.0)
        assert entry.as_json()["slack_s"] == entry.slack_s
        assert (it.shadows._open, it.shadows._noted, gauge(it.shadows)) == ({}, {}, None)
        assert describe(it.shadows)["state"] == "off"


async def test_decisions_are_logged_waits_counted_and_the_file_is_bounded(tmp_path: Path) -> None:
    file = tmp_path / "decisions.jsonl"
    async with stage(**{"shadow.strategies": WINDOW, "shadow.log": str(file), "shadow.log_bytes": 2000}) as it:
        for number in range(20):
            it.ended(await it.released(f"r{number:02}", slack=0.9))
            it.clock.now += 0.5
        it.clock.now += 60
        await it.compared()
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        assert file.stat().st_size <= 2000
        assert (tmp_path / "decisions.jsonl.1").exists()
        assert {line["strategy"] for line in lines} <= {STRAIGHT, "w"}
        assert {"id", "arrived_unix_s", "released_unix_s", "wait_s", "server", "outcome", "strategy"} == set(lines[0])
        assert {name: sum(counted.counts) for name, counted in it.counted.items()} == {STRAIGHT: 20, "w": 20}
        [told] = [one for one in describe(it.shadows)["strategies"] if one["name"] == "w"]
        assert told["strategy"]["policy"] == {"name": "window", "params": {"every_s": 1.0}}
        assert 0 < told["wait_s"]["p99"] <= 0.91


async def test_another_file_is_written_after_a_reload(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    async with stage(**{"shadow.log": str(one)}) as it:
        it.ended(await it.released("a"))
        it.clock.now += 20
        await it.compared()
        it.shadows.use(config_for(SERVER, **{"shadow.share": 1.0, "shadow.log": str(other)}))
        it.ended(await it.released("b"))
        it.clock.now += 20
        await it.compared()
        assert [json.loads(file.read_text())["id"] for file in (one, other)] == ["a", "b"]


async def test_a_file_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with stage(**{"shadow.strategies": WINDOW, "shadow.log": str(tmp_path / "no" / "such" / "folder")}) as it:
        it.ended(await it.released("a"))
        it.ended(await it.released("b"))
        it.clock.now += 20
        await it.compared()
        assert it.totals("w")["requests"] == 2
    assert sum("cannot be written" in record.message for record in caplog.records) == 1


async def test_other_servers_are_another_beginning_and_totals_stay() -> None:
    async with stage(**{"shadow.strategies": WINDOW}) as it:
        it.ended(await it.released("a"))
        it.clock.now += 20
        await it.compared()
        next(iter(it.shadows.fleet.servers)).trial_slots = 1
        server = next(iter(it.shadows.fleet.servers))
        server.config = server.config.model_copy(update={"slots": 3})
        it.clock.now += 1
        it.ended(await it.released("b"))
        it.clock.now += 20
        await it.compared()
        assert it.shadows.comparing.compared.episodes == 2
        assert (it.totals(STRAIGHT)["requests"], it.totals("w")["requests"]) == (2, 2)


async def test_another_strategy_of_the_same_name_begins_at_nothing() -> None:
    async with stage(**{"shadow.strategies": WINDOW}) as it:
        it.ended(await it.released("a"))
        it.clock.now += 20
        await it.compared()
        other = [{"name": "w", "policy": {"name": "window", "params": {"every_s": 2.0}}}]
        it.shadows.use(config_for(SERVER, **{"shadow.share": 1.0, "shadow.strategies": other}))
        it.clock.now += 20
        await it.compared()
        assert (it.totals("w")["requests"], it.totals(STRAIGHT)["requests"]) == (0, 1)
        it.shadows.use(config_for(SERVER, **{"shadow.share": 1.0}))
        it.clock.now += 20
        await it.compared()
        assert set(it.shadows.comparing.compared.strategies) == {STRAIGHT, AS_RUN}


async def test_what_the_thread_cannot_keep_up_with_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.shadow.MOST_NOTED", 5)
    async with stage() as it:
        it.shadows.comparing.busy = True
        for number in range(8):
            it.ended(await it.released(f"r{number}"))
        it.shadows.look()
        assert (it.shadows.left_out, it.shadows._noted["default"].lived) == (8, [])
        it.shadows.comparing.busy = False
        it.clock.now += 10
        it.ended(await it.released("later"))
        it.clock.now += 10
        await it.compared()
        assert it.totals(STRAIGHT)["requests"] == 1


async def test_of_those_who_are_too_many_to_keep_each_is_left_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.comparing.MOST_OPEN", 5)
    async with stage() as it:
        first = await it.released("a")
        for number in range(4):
            it.ended(await it.released(f"b{number}"))
        await it.compared()
        assert it.shadows.comparing.compared.left_out == 4
        it.ended(first)


async def test_servers_that_sleep_are_seen_to_also_by_rooms_that_begin_anew() -> None:
    model = replace(load_profile(), name="sleeper", sleep_power_w=20.0, sleep_s=1.0, wake_s=2.0, wake_j=10.0)
    async with stage(upstreams=[SERVER, f"{SERVER}2"]) as it:
        it.shadows.comparing.model = model
        room = it.shadows.fleet.default.scheduler.room
        room.set_state(f"{SERVER}2", ServerState.FALLING_ASLEEP)
        it.ended(await it.released("a"))
        it.clock.now += 1
        await it.compared()
        room.set_state(f"{SERVER}2", ServerState.ASLEEP)
        it.clock.now += 1
        await it.compared()
        it.clock.now += 100
        await it.compared()
        slept_j = it.totals(AS_RUN)["saved_j"]
        assert slept_j == pytest.approx((model.idle_power_w - 20.0) * (100 - 1 - 0.25), rel=0.02)
        server = next(iter(it.shadows.fleet.servers))
        server.config = server.config.model_copy(update={"slots": 3})
        it.clock.now += 100
        await it.compared()
        assert it.shadows.comparing.compared.episodes == 2
        assert it.totals(AS_RUN)["saved_j"] > 1.9 * slept_j
        assert it.shadows.comparing.compared.saved_by.keys() == {"passthrough"}


class Lost(Ledger):
    """A ledger that fails."""

    def open_entries(self) -> Iterator[Entry]:
        raise RuntimeError("a fault of ours")


async def test_a_fault_of_ours_switches_shadows_off_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async with stage() as it:
        entry = await it.released("a")
        it.shadows.ledger = Lost()
        it.shadows.look()
        assert (it.shadows.on, describe(it.shadows)["state"]) == (False, "failed: RuntimeError: a fault of ours")
        it.ended(entry)
        it.shadows.fleet = None  # type: ignore[assignment]
        it.shadows.released(entry)
        it.shadows.look()
    assert sum("shadows have failed" in record.message for record in caplog.records) == 1


def batch(strategies: dict[str, Strategy], count: int = 50, until: float = 500.0) -> Batch:
    lived = [
        Lived(Waiting(f"r{n:04}", n * 0.01, n * 0.01 + 1.0, 50, 64), 50, 20, n * 0.01 + 0.5, SERVER, "p") for n in range(count)
    ]
    return Batch("default", {SERVER: None}, strategies, "p", lived, [], until, 0.0)


class Breaks:
    """A placement whose fault is not one that a room catches."""

    def decide(self, view: View, memory: object) -> Decision:
        raise KeyboardInterrupt if view.now < 0 else SystemExit("somebody's policy wants to leave")


def wait_for(comparing: Comparing) -> None:
    until = time.monotonic() + 20
    while comparing.busy and not comparing.fault and time.monotonic() < until:
        time.sleep(0.005)


def test_whatever_fails_in_the_thread_stays_there(caplog: pytest.LogCaptureFixture) -> None:
    comparing = Comparing(load_profile(), 1.0)
    wrong = batch({})
    comparing.put([Batch(**{**{n: getattr(wrong, n) for n in wrong.__slots__}, "servers": None})])  # type: ignore[arg-type]
    wait_for(comparing)
    assert comparing.fault.startswith(("TypeError", "AttributeError"))
    assert any("requests are not touched" in record.message for record in caplog.records)
    comparing.close()


def test_the_thread_takes_its_share_and_ends_in_the_middle_when_it_is_told_to() -> None:
    comparing = Comparing(load_profile(), 0.02)
    began = time.perf_counter()
    comparing.put([batch({}, count=3000)])
    time.sleep(0.3)
    assert comparing.busy
    comparing.close()
    assert comparing._thread is not None
    assert not comparing._thread.is_alive()
    assert comparing.worked_s <= 0.5 * (time.perf_counter() - began)


def test_a_policy_that_wants_to_end_the_process_ends_only_the_shadows() -> None:
    comparing = Comparing(load_profile(), 1.0)
    spread = build(Choice("passthrough", {}), Choice("spread", {})).placement
    comparing.put([batch({"bad": Strategy(Breaks(), spread, "bad", "spread")})])
    wait_for(comparing)
    assert comparing.fault.startswith("SystemExit")
    comparing.close()


def test_quantiles_are_of_what_there_is() -> None:
    assert quantiles([]) is None
    assert quantiles([3.0]) == {"p50": 3.0, "p99": 3.0, "max": 3.0}
    assert quantiles(range(1, 101)) == {"p50": 50, "p99": 100, "max": 100}


@pytest.mark.parametrize(
    ("strategies", "told"),
    [
        ([{"name": "as_run"}], "'as_run' is taken"),
        ([{"name": "a b"}], "pattern"),
        ([{"name": "a"}, {"name": "a"}], "names must differ"),
        ([{"name": "a", "policy": {"name": "no-such"}}], "no policy 'no-such': built in are"),
        ([{"name": "a", "placement": {"name": "pack", "params": {"knee": 0}}}], "knee must be at least 1"),
    ],
)
def test_what_cannot_be_a_shadow_is_refused_with_what_is_allowed(strategies: list[object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        config_for(SERVER, **{"shadow.strategies": strategies})


async def test_every_built_in_profile_is_told_as_one() -> None:
    for name, built_in in (("h200-llama8b-bf16", True), ("telemetry/profiles/h200-llama8b.json", False)):
        async with stage(**{"energy.profile": name}) as it:
            assert describe(it.shadows)["profile"]["built_in"] is built_in
