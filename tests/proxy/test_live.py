"""What is shown of a running proxy: every figure where it comes from, however many wait and whoever watches."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import httpx
import pytest

from policies.base import ServerState, ServerView, Tier, Waiting
from proxy.app import App, create_app
from proxy.energy import Energy, MeteredDomain
from proxy.live import events
from proxy.live.events import Live
from proxy.live.page import FOLDER
from proxy.live.recent import both, note
from proxy.live.waiting import LONGEST_TOLD, obstacle
from telemetry.ledger import Entry
from telemetry.monitor import Monitor
from telemetry.snapshot import Hardware, Reading, Source
from tests.end_to_end.paceline import paceline
from tests.end_to_end.test_experiment import experiment
from tests.proxy.test_energy import H200, domain, turn
from tests.proxy.test_energy import TestBench as Bench
from tests.serving import config_for

SERVER = "http://127.0.0.1:1"


@asynccontextmanager
async def quiet(**flags: Any) -> AsyncIterator[tuple[App, Live]]:
    """A proxy that nobody has started, whose samples are taken when a test says so."""
    app = create_app(config_for(SERVER, **{"energy.meter": "none", **flags}), {})
    try:
        yield app, Live(app, note(app))
    finally:
        for server in app.fleet.servers:
            await server.close()


def come(app: App, id: str, *, tier: Tier = Tier.FLEX, slack_s: float = 60.0, ago_s: float = 0.0) -> Entry:
    """A request comes, and is held."""
    pool = app.fleet.default
    at = pool.scheduler.clock() - ago_s
    entry = Entry(id, at, 0.0, tier=tier.value, tenant="acme")
    app.forward.generation.on_arrival(pool, entry)
    pool.scheduler.room.admit(Waiting(id, at, at + slack_s, 10, 10, tier=tier, tenant="acme"))
    return entry


def leave(app: App, entry: Entry, outcome: str = "policy") -> None:
    scheduler = app.fleet.default.scheduler
    scheduler.room.cancel(entry.id)
    entry.server, entry.policy, entry.outcome, entry.released_at = SERVER, "span", outcome, scheduler.clock()
    app.forward.generation.on_release(entry)


def latest(live: Live) -> dict[str, Any]:
    live.sample()
    return data(live.frame())


def data(event: bytes) -> dict[str, Any]:
    return dict(json.loads(event.split(b"data: ", 1)[1]))


async def test_who_waits_is_told_with_why_and_until_when() -> None:
    async with quiet() as (app, live):
        app.fleet.default.scheduler.set_server(SERVER, healthy=True, slots=0)
        ready = come(app, "ready", tier=Tier.INTERACTIVE, slack_s=0.0, ago_s=1.0)
        app.fleet.default.scheduler.room.tick(ready.arrived_at)
        come(app, "old", ago_s=5.0)
        room = latest(live)["waiting"]
        assert (room["held"], room["ready"]) == (1, 1)
        assert room["by_tier"] == [
            {"tier": "interactive", "held": 0, "ready": 1},
            {"tier": "flex", "held": 1, "ready": 0},
        ]
        first, second = room["longest"]
        assert (first["id"], first["state"], first["why"], first["tenant"]) == ("old", "held", "held by span", "acme")
        assert 54 < first["deadline_in_s"] <= 55
        assert 5 <= first["waited_s"] < 6
        assert (second["id"], second["state"], second["deadline_in_s"]) == ("ready", "ready", None)
        assert second["why"] == "no free slot: all 0 are taken"


@pytest.mark.parametrize(
    ("servers", "why"),
    [
        ([], "its group has no server"),
        ([{"healthy": False}], "no server works or takes more"),
        ([{"state": ServerState.ASLEEP}], "its server is asleep"),
        ([{"state": ServerState.WAKING}, {"healthy": False}], "its server is waking"),
        ([{"in_flight": 4}, {"in_flight": 4}], "no free slot: all 8 are taken"),
        ([{"in_flight": 3}], "needs more slots than are free, or another server"),
    ],
)
def test_why_the_ready_do_not_leave(servers: list[dict[str, Any]], why: str) -> None:
    server = ServerView("a", 0, 0, 4)
    assert obstacle([replace(server, **changes) for changes in servers]) == why


class Looked(dict[str, Any]):
    """Counts how many values anybody has looked at."""

    count = 0

    def values(self) -> Iterator[Any]:  # type: ignore[override]
        for value in super().values():
            self.count += 1
            yield value


async def test_ten_thousand_wait_and_a_frame_looks_at_fifty() -> None:
    async with quiet() as (app, live):
        looked = live.recent._waiting = Looked()
        held = app.fleet.default.scheduler.room._held._by_id = Looked()
        for number in range(10_000):
            come(app, f"{number:032}", tier=list(Tier)[number % 4], ago_s=100 - number / 100)
        frame = latest(live)
        room = frame["waiting"]
        assert (room["held"], [tier["held"] for tier in room["by_tier"]]) == (10_000, [2_500] * 4)
        assert [row["id"] for row in room["longest"]] == [f"{number:032}" for number in range(LONGEST_TOLD)]
        assert looked.count <= LONGEST_TOLD + 1
        assert held.count <= LONGEST_TOLD + 1
        assert len(live.frame()) < 20_000


async def test_those_who_leave_at_one_instant_are_a_group() -> None:
    async with quiet() as (app, live):
        for entry in [come(app, str(number), ago_s=number) for number in range(5)]:
            leave(app, entry, "deadline" if entry.id == "0" else "policy")
        await asyncio.sleep(0)
        leave(app, come(app, "alone"))
        await asyncio.sleep(0)
        live.sample()
        frame = data(live.frame())
        [group] = frame["groups"]
        assert (group["size"], group["policy"], group["servers"]) == (5, "span", {SERVER: 5})
        assert group["outcomes"] == {"deadline": 1, "policy": 4}
        assert 4 <= group["waited_s"] < 5
        assert frame["point"]["largest"] == 5
        assert latest(live)["point"]["largest"] == 0, "a second later it is history"
        assert live.recent.alone == 1


async def test_everybody_who_stops_waiting_is_forgotten() -> None:
    async with quiet() as (app, live):
        generation, recent = app.forward.generation, live.recent
        gone, left, back = (come(app, id) for id in ("gone", "left", "back"))
        generation.on_end(gone)
        leave(app, left)
        leave(app, back)
        assert recent.waiting == 0
        back.released_at = None
        generation.on_return(back)
        assert (recent.waiting, [waiter.entry.id for waiter in recent.longest(5)]) == (1, ["back"])
        leave(app, back)
        generation.on_end(back)
        assert (recent.waiting, +recent.by_tier) == (0, {})


async def test_whoever_came_after_the_sample_has_waited_no_less_than_nothing() -> None:
    async with quiet() as (app, live):
        live.sample()
        live.history.samples[-1] = replace(live.history.now, at_s=live.history.now.at_s - 0.9)  # made later than it was taken
        come(app, "new", slack_s=4.0, ago_s=0.5)
        [row] = data(live.frame())["waiting"]["longest"]
        assert 0.5 <= row["waited_s"] < 0.9
        assert row["deadline_in_s"] <= 3.5


async def test_no_meter_is_unknown_and_never_zero() -> None:
    async with quiet() as (_, live):
        frame = latest(live)
        assert frame["energy"] is None
        assert (frame["joules"]["all_in_j"], frame["joules"]["by_policy"]) == (None, [])
        assert frame["gain"] is None
        assert frame["point"]["power_w"] == {}


async def test_watts_of_a_meter_that_is_lost_are_unknown_and_not_the_last_ones() -> None:
    async with quiet() as (app, live):
        metered, meter = domain("node", SERVER, gpu=Hardware.GPU)
        app.energy = Energy([metered])
        turn(metered, meter, 2.0, gpu=480.0)
        app.energy.settle(2.3)
        assert latest(live)["energy"]["power_w"] == pytest.approx(480, rel=0.01)
        meter.broken, meter.at_s = True, 60.0
        metered.monitor.poll()
        told = latest(live)["energy"]
        assert (told["power_w"], told["domains"][0]["frozen"]) == (None, ["gpu"])


@dataclass
class Looking(Bench):
    """One that does not tell when its counters moved."""

    def read(self) -> Sequence[Reading]:
        return [replace(reading, edge_s=None) for reading in super().read()]


async def test_what_was_drawn_before_the_first_step_is_unknown_and_not_zero_watts() -> None:
    async with quiet() as (app, live):
        meter = Looking({"gpu": Hardware.GPU})
        metered = MeteredDomain("node", (SERVER,), Monitor(meter, 0.1, clock=lambda: meter.at_s), H200)
        app.energy, told = Energy([metered]), []
        for at_s in (0.0, 0.1, 0.2, 0.3):
            turn(metered, meter, at_s, gpu=480.0)
            app.energy.settle(at_s + 0.3)
            told.append(latest(live)["point"]["power_w"])
        assert told == [{}, {}, {"node": 480.0}, {"node": 480.0}]


async def test_devices_of_two_hosts_may_have_one_name() -> None:
    async with quiet() as (app, live):
        cpu, power_w = Hardware.CPU, {"one": 40.0, "two": 90.0}
        made = {name: domain(name, **{"cpu:package-0": cpu}) for name in power_w}
        app.energy = Energy([metered for metered, _ in made.values()])
        for until_s in (1.0, 2.0):
            for name, (metered, meter) in made.items():
                turn(metered, meter, until_s, **{"cpu:package-0": power_w[name]})
            app.energy.settle(until_s)
            told = latest(live)
        assert {one["name"]: one["power_w"] for one in told["energy"]["domains"]} == power_w
        assert told["energy"]["host_power_w"] == 130.0
        assert told["point"]["power_w"] == {"one host": 40.0, "two host": 90.0}


async def test_joules_by_policy_are_those_of_the_last_minute_and_of_one_source() -> None:
    async with quiet() as (_, live):

        def charge(policy: str, source: Source, joules: float) -> None:
            entry = Entry("x", 0.0, 0.0, policy=policy, output_tokens=10)
            entry.energy.source, entry.energy.active_uj = source, round(joules * 1e6)
            live.recent.final(entry)

        charge("span", Source.COUNTER, 1000.0)
        live.sample()
        for joules in (10.0, 30.0):
            charge("span", Source.COUNTER, joules)
        charge("span", Source.MODELLED, 7.0)
        live.recent.final(Entry("unknown", 0.0, 0.0, policy="span"))
        told = latest(live)["joules"]["by_policy"]
        assert told == [
            {"policy": "span", "source": "counter", "requests": 2, "per_request_j": 20.0, "per_token_j": 2.0},
            {"policy": "span", "source": "modelled", "requests": 1, "per_request_j": 7.0, "per_token_j": 0.7},
        ]


async def test_ten_minutes_are_kept_and_no_more() -> None:
    async with quiet() as (_, live):
        for _ in range(700):
            live.sample()
        assert {len(column) for column in live.history.columns().values() if isinstance(column, list)} == {600}
        assert len(live.history.samples) == 61
        assert live._frame == (-1, b""), "nobody watches, so no frame was made"


async def test_a_slow_watcher_misses_frames_and_holds_none() -> None:
    async with quiet() as (_, live):
        live.sample()
        stream = live.events(1)
        assert (await anext(stream)).startswith(b"retry: 2000\n\nevent: history\n")
        assert b"\nid: 1\n" in await anext(stream)
        for _ in range(5):
            live.sample()
        assert b"\nid: 6\n" in await anext(stream)
        next_one = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        assert not next_one.done()
        live.sample()
        assert b"\nid: 7\n" in await next_one
        await stream.aclose()  # type: ignore[attr-defined]


async def test_every_third_frame_for_whoever_asks_for_it() -> None:
    async with quiet() as (_, live):
        live.sample()
        stream, ids = live.events(3), []
        await anext(stream)
        for _ in range(3):
            ids.append(re.findall(rb"id: (\d+)", await anext(stream))[0])
            for _ in range(3):
                live.sample()
        assert ids == [b"1", b"4", b"7"]


async def test_streams_end_with_the_proxy() -> None:
    async with quiet() as (app, live):
        live.sample()
        stream = live.events(1)
        await anext(stream)
        await anext(stream)
        live.look()
        assert not live.closing
        app.drain()
        live.look()
        assert await anext(stream) == b"event: closing\ndata: {}\n\n"
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_a_sample_that_fails_costs_nobody_anything(caplog: pytest.LogCaptureFixture) -> None:
    async with quiet() as (_, live):
        live.sample()
        live.recent = None  # type: ignore[assignment]
        live.sample()
        assert (live.number, "the live page's sample failed" in caplog.text) == (1, True)


# --- over HTTP ----------------------------------------------------------------------------------------------------------


async def frames(admin: httpx.AsyncClient, path: str = "/live") -> AsyncIterator[tuple[str, dict[str, Any]]]:
    async with admin.stream("GET", path) as answer:
        assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, "text/event-stream")
        name = ""
        async for line in answer.aiter_lines():
            key, _, value = line.partition(": ")
            if key == "event":
                name = value
            elif key == "data":
                yield name, json.loads(value)


async def test_a_watcher_sees_requests_come_and_go() -> None:
    async with paceline(**{"policy.name": "window", "policy.params.every_s": 0.4}) as running:
        held = {"x-paceline-max-hold": "2"}
        body = {"inputs": "a b c", "parameters": {"max_new_tokens": 20}}
        async with httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=20) as client:
            stream = frames(running.admin)
            name, history = await anext(stream)
            assert (name, history["every_s"], list(history)[1]) == ("history", 1.0, "at_unix_s")
            asking = asyncio.gather(*(client.post("/generate", json=body, headers=held) for _ in range(8)))
            async for name, frame in stream:
                assert name == "frame"
                cost = frame["joules"]
                if cost["by_policy"] and cost["by_policy"][0]["requests"] == 8 and cost["all_in_j"] is not None:
                    break
            assert {answer.status_code for answer in await asking} == {200}
            await stream.aclose()  # type: ignore[attr-defined]
    [policy] = frame["joules"]["by_policy"]
    assert (policy["policy"], policy["source"], frame["energy"]["source"]) == ("window", "simulated", "simulated")
    assert 0 < policy["per_request_j"] < cost["all_in_j"]
    assert sum(group["size"] for group in frame["groups"]) + frame["alone"] == 8
    assert frame["requests"]["completed"] == 8
    [domain] = frame["energy"]["domains"]
    assert domain["power_w"] == frame["servers"][0]["power_w"] == frame["energy"]["power_w"] > 50
    assert frame["energy"]["since_start"]["conservation_error_uj"] == 0


@pytest.mark.parametrize("sides", [False, True])
async def test_an_experiment_is_told_with_the_arm_in_force(sides: bool) -> None:
    async with paceline(engines=2) as running:
        split = {"split": {"side": [running.engines[0].url]}} if sides else {}
        asked = experiment("try", block_s=20.0, burn_in_s=2.0, **split)
        assert (await running.admin.post("/experiments", json=asked)).status_code == 201
        stream = frames(running.admin)
        async for name, frame in stream:
            if name == "frame" and frame["experiments"] and frame["experiments"][0]["block"] is not None:
                break
        await stream.aclose()  # type: ignore[attr-defined]
        told = (await running.admin.get("/experiments/try")).json()["now"]
    [one] = frame["experiments"]
    assert (one["name"], one["blocks"], one["block"], one["result"]) == ("try", 4, 0, None)
    assert one["arms"] == {"control": "passthrough", "treatment": "span"}
    assert 0 < one["ends_in_s"] <= 20
    assert frame["strategy"]["experiment"] == "try"
    assert (one["arm"], one["sides"]) == (None if sides else told["arm"], told.get("sides"))
    if not sides:
        assert one["policy"] == frame["strategy"]["policy"] == one["arms"][told["arm"]]


async def test_one_watcher_too_many_is_told_so_and_may_come_once_another_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST_WATCHERS", 1)
    async with paceline() as running:
        async with running.admin.stream("GET", "/live") as first:
            assert first.status_code == 200
            second = await running.admin.get("/live")
            assert (second.status_code, second.json()["detail"][:15]) == (503, "1 watch already")
        async with asyncio.timeout(5):
            while (await _status(running.admin)) != 200:
                await asyncio.sleep(0.02)
        for bad in ("0", "61", "x"):
            answer = await running.admin.get(f"/live?every_s={bad}")
            assert (answer.status_code, "content-type" in answer.text) == (422, False)  # which is about bodies


async def _status(admin: httpx.AsyncClient) -> int:
    async with admin.stream("GET", "/live") as answer:
        return answer.status_code


async def test_the_page_asks_for_nothing_but_its_own_files() -> None:
    async with paceline() as running:
        page = await running.admin.get("/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert not re.search(r"style=|<style|onclick|//", page.text), "nothing that its policy would forbid"
        links = set(re.findall(r"(?:src|href)=\"([^\"#]+)\"", page.text))
        links |= {f"page/{name}" for file in FOLDER.glob("*.js") for name in re.findall(r'"\./(\w+\.js)"', file.read_text())}
        assert len(links) == 12
        for link in links:
            part = await running.admin.get(f"/{link}")
            assert (part.status_code, part.headers["x-content-type-options"]) == (200, "nosniff")
            again = await running.admin.get(f"/{link}", headers={"if-none-match": part.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
        for strange in ("nothing.js", "..%2fpage.py", "%2e%2e/view.py"):
            assert (await running.admin.get(f"/page/{strange}")).status_code == 404


def test_what_is_not_ours_says_whose_it_is() -> None:
    told = (FOLDER / "uPlot.README.txt").read_text()
    for name in ("uPlot.js", "uPlot.css"):
        assert f"{sha256((FOLDER / name).read_bytes()).hexdigest()}  {name}" in told
    assert "MIT License" in (FOLDER / "uPlot.LICENSE.txt").read_text()


def test_notes_are_taken_after_those_who_were_told_before() -> None:
    said: list[str] = []
    both(lambda one: said.append(f"first {one}"), lambda one: said.append(f"then {one}"))("x")
    assert said == ["first x", "then x"]
