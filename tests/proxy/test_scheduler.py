"""The live driver: in virtual time, so that schedules of minutes run in milliseconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.base import Action, Decision, Outcome, ServerState, Tier, View, Waiting
from policies.engine import Engine, Job
from policies.room import Leaving, Room, Tick
from policies.simulate import Arrival, simulate
from policies.strategy import PLACEMENTS, POLICIES, Choice, Strategy, build
from proxy.scheduler import Refused, Scheduler
from telemetry.cost import Linear, StepModel
from tests.virtual_time import run

MODEL = StepModel(
    "toy", Linear(0.25, 0.0, 0.0, 0.0), Linear(2.0, 0.01, 0.01, 0.0), idle_power_w=100.0, max_sequences=4,
    sleep_power_w=40.0, sleep_s=0.5, wake_s=0.75, wake_j=5.0,
)  # fmt: skip


def strategy(name: str, placement: str = "spread", **params: object) -> Strategy:
    return build(Choice(name, params), Choice(placement, {}))


def scheduler(chosen: Strategy, *, servers: int = 1, slots: int | None = None, **room: object) -> Scheduler:
    names = {f"engine-{n}": slots for n in range(servers)}
    room = {"model": MODEL, **room}
    return Scheduler(Room(chosen.policy, chosen.placement, names, **room), chosen, virtual_now)  # type: ignore[arg-type]


def virtual_now() -> float:
    return asyncio.get_running_loop().time()


def waiting(id: str, at: float = 0.0, slack: float = 0.0) -> Waiting:
    return Waiting(id, at, at + slack, 10, 4)


@dataclass
class LiveEngines:
    """The simulator's engines, driven by the loop's timers as a server would be by real time."""

    scheduler: Scheduler
    engines: dict[str, Engine]
    lengths: dict[str, int] = field(default_factory=dict)

    def submit(self, leaving: Leaving, output_tokens: int) -> None:
        now = asyncio.get_running_loop().time()
        self.lengths[leaving.waiting.id] = output_tokens
        self.engines[leaving.server].submit(Job(leaving.waiting.id, leaving.waiting.prompt_tokens, output_tokens), now)
        self._arm(leaving.server)

    def _arm(self, server: str) -> None:
        at = self.engines[server].next_at
        if at is not None:
            asyncio.get_running_loop().call_at(at, self._advance, server, at)

    def act(self, server: str, action: Action) -> None:
        now = asyncio.get_running_loop().time()
        if action is Action.WAKE:
            at, state = self.engines[server].wake(now), ServerState.AWAKE
        else:
            asleep_at = self.engines[server].sleep(now)
            at, state = (now, ServerState.AWAKE) if asleep_at is None else (asleep_at, ServerState.ASLEEP)
        asyncio.get_running_loop().call_at(at, self.scheduler.set_state, server, state)

    def _advance(self, server: str, at: float) -> None:
        engine = self.engines[server]
        if engine.next_at != at:
            return  # somebody joined meanwhile; another timer is set
        for step in engine.advance(at):
            for id in step.started:
                self.scheduler.first_token(id)
            for finished in step.ended:
                self.scheduler.ended(finished.id, self.lengths[finished.id])
        self._arm(server)


async def live(arrivals: list[Arrival], chosen: Strategy, servers: int, slots: int | None) -> list[tuple[float, str, str, str]]:
    sched = scheduler(chosen, servers=servers, slots=slots)
    engines = LiveEngines(sched, {name: Engine(MODEL) for name in sched.room.servers})
    sched.on_action = engines.act
    released: list[tuple[float, str, str, str]] = []

    async def client(arrival: Arrival) -> None:
        leaving = await sched.wait_turn(arrival.waiting)
        released.append((asyncio.get_running_loop().time(), leaving.waiting.id, leaving.server, leaving.outcome.value))
        engines.submit(leaving, arrival.output_tokens)

    clients: list[asyncio.Task[None]] = []

    def arrive(group: list[Arrival]) -> None:
        clients.extend(asyncio.create_task(client(arrival)) for arrival in group)

    # one timer an instant: what arrives together comes in the log's order, in one pass of the loop
    for at, group in groupby(arrivals, key=lambda arrival: arrival.waiting.arrived_at):
        asyncio.get_running_loop().call_at(at, arrive, list(group))
    await asyncio.sleep(max(arrival.waiting.arrived_at for arrival in arrivals) + 0.001)
    await asyncio.gather(*clients)
    return sorted(released)


# quarters of seconds, so that arrivals, deadlines, windows and steps often meet at one instant
instants = st.integers(0, 80).map(lambda n: n / 4)


@st.composite
def arrivals(draw: st.DrawFn) -> list[Arrival]:
    times = sorted(draw(st.lists(instants, min_size=1, max_size=12)))
    return [
        Arrival(
            Waiting(
                f"r{n}", at, at + draw(instants) / 4, draw(st.integers(1, 30)), 8,
                tier=draw(st.sampled_from(Tier)), tenant=draw(st.sampled_from("ab")),
                prefix=draw(st.sampled_from([None, b"x", b"y"])), session=draw(st.sampled_from(["", "s"])),
            ),
            draw(st.integers(1, 8)),
        )
        for n, at in enumerate(times)
    ]  # fmt: skip


Chosen = tuple[str, dict[str, object]]


def around(name: str, **params: object) -> Callable[[Chosen], Chosen]:
    return lambda inner: (name, {**params, "policy": {"name": inner[0], "params": inner[1]}})


simple: st.SearchStrategy[Chosen] = st.one_of(
    st.just(("passthrough", {})),
    st.just(("span", {})),
    st.builds(lambda s: ("window", {"every_s": s}), st.sampled_from([0.5, 1.0, 2.0])),
    st.builds(lambda n, s: ("size", {"n": n, "wait_s": s}), st.integers(1, 4), st.sampled_from([0.25, 1.0])),
    st.builds(lambda s: ("pace", {"every_s": s}), st.sampled_from([0.25, 0.75])),
    st.builds(lambda r: ("cohort", {"ratio": r}), st.sampled_from([1.5, 2.0])),
    st.builds(lambda j: ("adaptive", {"wait_j_per_s": j}), st.sampled_from([0.05, 0.5, 2.0])),
)
strategies: st.SearchStrategy[Chosen] = st.one_of(
    simple,
    simple.map(around("valley", slowdown=0.5)),
    simple.map(around("carbon", step_s=1e12)),  # and its file
    simple.map(around("capped", in_flight=2)),
    simple.map(around("ordered", by="deadline")),
    simple.map(around("ordered", by="fair")).map(around("capped", in_flight=3)),
    simple.map(around("prefix", most=2)),
)
placements: st.SearchStrategy[Chosen] = st.sampled_from(
    [
        ("spread", {}),
        ("pack", {"knee": 2}),
        ("affine", {"by": "session or prefix", "floor": 1}),
        ("sleepy", {"after_s": 1.0, "awake": 0, "placement": {"name": "pack", "params": {"knee": 2}}}),
    ]
)


@pytest.fixture(scope="module")
def grams(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A value that holds for ever: the live clock tells real hours, and simulated time begins with the epoch."""
    file = tmp_path_factory.mktemp("carbon") / "grams.csv"
    file.write_text("0,400\n")
    return str(file)


def test_all_that_is_built_in_is_drawn() -> None:
    drawn = {"passthrough", "span", "window", "size", "pace", "cohort", "adaptive"}
    assert drawn | {"valley", "carbon", "capped", "ordered", "prefix"} == set(POLICIES)
    assert set(PLACEMENTS) == {"spread", "pack", "affine", "sleepy"}


@settings(max_examples=250, deadline=None)
@given(log=arrivals(), policy=strategies, placement=placements, servers=st.integers(1, 3), slots=st.sampled_from([None, 1, 2]))
def test_live_and_simulated_release_alike(
    log: list[Arrival], policy: Chosen, placement: Chosen, servers: int, slots: int | None, grams: str
) -> None:
    name, params = policy
    chosen = build(Choice(name, {**params, "file": grams} if name == "carbon" else params), Choice(*placement))
    simulated = simulate(log, chosen, MODEL, servers=servers, slots=slots)
    expected = sorted((s.released_at, id, s.server, str(s.outcome)) for id, s in simulated.served.items())
    assert simulated.faults == 0
    assert run(live(log, chosen, servers, slots)) == expected


def test_a_request_without_slack_leaves_at_its_instant() -> None:
    async def story() -> float:
        await scheduler(strategy("span")).wait_turn(waiting("a"))
        return asyncio.get_running_loop().time()

    assert run(story()) == 0.0


def test_a_client_that_leaves_the_queue_is_counted_and_forgotten() -> None:
    async def story() -> Scheduler:
        sched = scheduler(strategy("span"))
        task = asyncio.create_task(sched.wait_turn(waiting("a", slack=5.0)))
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return sched

    sched = run(story())
    assert sched.outcomes[Outcome.CANCELLED] == 1
    assert (sched.room.held, sched.room.ready, sched.room.in_flight) == (0, 0, 0)


def test_a_client_that_leaves_as_its_turn_comes_frees_its_slot() -> None:
    async def story() -> tuple[Scheduler, float]:
        sched = scheduler(strategy("passthrough"), slots=1)
        first = asyncio.create_task(sched.wait_turn(waiting("a")))
        while not sched.room.in_flight:
            await asyncio.sleep(0)
        first.cancel()  # the slot is assigned, and the task has not run since
        with pytest.raises(asyncio.CancelledError):
            await first
        await sched.wait_turn(waiting("b"))
        return sched, asyncio.get_running_loop().time()

    sched, at = run(story())
    assert sched.room.in_flight == 1
    assert at == 0.0


def test_no_slot_in_time_is_refused_and_the_deadline_does_not_break_the_capacity_limit() -> None:
    async def story() -> tuple[Outcome, float]:
        sched = scheduler(strategy("passthrough"), slots=1, queue_timeout_s=3.0)
        await sched.wait_turn(waiting("a"))
        with pytest.raises(Refused) as refused:
            await sched.wait_turn(waiting("b"))
        return refused.value.outcome, asyncio.get_running_loop().time()

    assert run(story()) == (Outcome.EXPIRED, 3.0)


def test_a_full_queue_rejects() -> None:
    async def story() -> Outcome:
        sched = scheduler(strategy("span"), queue_limit=1)
        held = asyncio.create_task(sched.wait_turn(waiting("a", slack=5.0)))
        await asyncio.sleep(0)
        with pytest.raises(Refused) as refused:
            await sched.wait_turn(waiting("b", slack=5.0))
        held.cancel()
        return refused.value.outcome

    assert run(story()) is Outcome.REJECTED


def test_a_drain_lets_everybody_go_at_once() -> None:
    async def story() -> tuple[Outcome, float]:
        sched = scheduler(strategy("span"))
        held = asyncio.create_task(sched.wait_turn(waiting("a", slack=50.0)))
        await asyncio.sleep(1.0)
        sched.drain()
        return (await held).outcome, asyncio.get_running_loop().time()

    assert run(story()) == (Outcome.DRAINED, 1.0)


def test_another_strategy_takes_over_who_waits() -> None:
    async def story() -> float:
        sched = scheduler(strategy("span"))
        held = asyncio.create_task(sched.wait_turn(waiting("a", slack=50.0)))
        await asyncio.sleep(1.0)
        sched.use(strategy("passthrough"))
        await held
        return asyncio.get_running_loop().time()

    assert run(story()) == 1.0


@dataclass(frozen=True)
class Broken:
    """A policy that never works."""

    def decide(self, view: View, memory: object) -> Decision:
        raise RuntimeError("no idea")


def test_a_policy_that_raises_costs_nobody_a_request(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> tuple[list[Outcome], int]:
        faults = 0

        def fault() -> None:
            nonlocal faults
            faults += 1

        broken = Strategy(Broken(), strategy("span").placement, "broken", "spread")
        sched = Scheduler(Room(broken.policy, broken.placement, {"engine-0": None}), broken, virtual_now, on_fault=fault)
        outcomes = []
        for n in range(3):
            outcomes.append((await sched.wait_turn(waiting(f"r{n}", asyncio.get_running_loop().time(), 9.0))).outcome)
            await asyncio.sleep(1.0)
        return outcomes, faults

    assert run(story()) == ([Outcome.FAULT] * 3, 3)
    assert len(caplog.records) == 1, "logged once a minute at most"


class FailingRoom(Room):
    """A room with a fault of its own."""

    def tick(self, now: float, wall_s: float = 0.0) -> Tick:
        raise RuntimeError("a bug")


def test_a_fault_of_the_room_refuses_instead_of_hanging(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> tuple[Outcome, int]:
        chosen = strategy("span")
        sched = Scheduler(FailingRoom(chosen.policy, chosen.placement, {"engine-0": None}), chosen, virtual_now)
        with pytest.raises(Refused) as refused:
            await sched.wait_turn(waiting("a", slack=5.0))
        return refused.value.outcome, sched.room.held

    assert run(story()) == (Outcome.FAULT, 0)
    assert "the waiting room failed" in caplog.text
