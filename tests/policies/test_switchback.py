"""A switchback: each arm rules exactly its blocks, live as simulated, and what is left of the other arm is taken over."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import dataclass, field
from itertools import groupby
from math import inf

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from policies.base import Action, Decision, Placement, Policy, ServerState, Upkeep, View, Waiting
from policies.engine import Engine
from policies.room import Room
from policies.simulate import Arrival, Simulation, simulate
from policies.strategy import Choice, Strategy, build
from policies.switchback import Ruling, ruling, switchback
from proxy.scheduler import Scheduler
from telemetry.design import CONTROL, TREATMENT, Design, orders
from tests.proxy.test_scheduler import MODEL, Chosen, LiveEngines, arrivals, placements, simple, virtual_now
from tests.virtual_time import run

EPOCH_S = 1.7e9  # where a float of seconds has a resolution of 0.2 microseconds


def strategy(policy: str, placement: str = "spread", **params: object) -> Strategy:
    return build(Choice(policy, params), Choice(placement, {}))


def arrival(id: str, at: float, slack: float = 0.0, tokens: int = 2) -> Arrival:
    return Arrival(Waiting(id, at, at + slack, 1, tokens), tokens)


def first_treated(pairs: int = 1, **given: float) -> Design:
    """A design whose first block is the treatment's."""
    designs = (Design(0.0, 10.0, 0.0, pairs, seed, **given) for seed in range(100))  # type: ignore[arg-type]
    return next(design for design in designs if design.arm_of(0) == TREATMENT)


# --- when who rules -------------------------------------------------------------------------------------------------

designs = st.builds(
    Design,
    began_unix_s=st.sampled_from([0.0, 2.25, 7.1]),
    block_s=st.sampled_from([0.75, 2.5, 4.0, 3.3]),
    burn_in_s=st.sampled_from([0.0, 0.5]),
    pairs=st.integers(1, 12),
    seed=st.integers(0, 10_000),
    pairs_per_stratum=st.integers(1, 5),
)


@given(designs, st.floats(-20.0, 150.0))
def test_control_rules_outside_and_each_arm_exactly_its_blocks(design: Design, at: float) -> None:
    now = ruling(design, at)
    block = design.block_at(at)
    assume(design.block_at(at + 2e-6) == block)
    assert now.arm == (CONTROL if block is None else design.arm_of(block))
    assert now.until_unix_s > at
    if now.until_unix_s < inf:
        assert ruling(design, now.until_unix_s).block == now.block + 1
    else:
        assert (now, now.block) == (Ruling(design.blocks, CONTROL, inf), design.blocks)


@given(designs)
def test_each_pair_has_both_arms_and_each_stratum_both_orders_equally_often(design: Design) -> None:
    arms = [ruling(design, design.start_unix_s(block)).arm for block in range(design.blocks)]
    assert all({arms[2 * pair], arms[2 * pair + 1]} == {CONTROL, TREATMENT} for pair in range(design.pairs))
    for begins in range(0, design.pairs, design.pairs_per_stratum):
        firsts = arms[2 * begins : 2 * (begins + design.pairs_per_stratum) : 2]
        assert abs(firsts.count(CONTROL) - firsts.count(TREATMENT)) == len(firsts) % 2


def test_another_process_draws_the_same() -> None:
    code = "from telemetry.design import *; print(*orders(Design(0.0, 10.0, 1.0, 40, seed=7)))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "1"})
    assert told.stdout.split() == [str(arm) for arm in orders(Design(0.0, 10.0, 1.0, 40, seed=7))]
    assert orders(Design(0.0, 10.0, 1.0, 40, seed=8)) != orders(Design(0.0, 10.0, 1.0, 40, seed=7))


@dataclass(frozen=True)
class Noting:
    """Asks again every 0.3 s, and notes when it was asked, in which arm's name, and what it remembered."""

    arm: int
    notes: list[tuple[float, int, object]] = field(default_factory=list)

    def decide(self, view: View, memory: object) -> Decision:
        self.notes.append((view.wall_s, self.arm, memory))
        return Decision(wake_at=view.now + 0.3, memory=(memory or 0) + 1)  # type: ignore[operator]


@settings(max_examples=60, deadline=None)
@given(designs, st.sampled_from([0.0, EPOCH_S]))
def test_an_arm_is_asked_in_its_blocks_only_and_remembers_nothing_of_the_block_before(design: Design, offset_s: float) -> None:
    design = Design(design.began_unix_s + offset_s, design.block_s, design.burn_in_s, design.pairs, design.seed)
    notes: list[tuple[float, int, object]] = []
    arms = [Strategy(Noting(arm, notes), strategy("span").placement, "noting", "spread") for arm in (CONTROL, TREATMENT)]
    until = design.ends_unix_s - offset_s + 2
    simulation = Simulation(switchback(design, *arms), MODEL, {"a": None}, wall_offset_s=offset_s)
    simulation.arrive(arrival("waits", 0.0, slack=until + 1))
    simulation.advance(until)
    blocks = set()
    for block, asked in groupby(notes, key=lambda note: ruling(design, note[0]).block):
        blocks.add(block)
        counted = list(asked)
        assert {arm for _, arm, _ in counted} == {ruling(design, counted[0][0]).arm}
        assert [memory for _, _, memory in counted] == [None, *range(1, len(counted))]
        begins = design.start_unix_s(block)
        assert block <= 0 or 0 <= counted[0][0] - begins < 1e-5 or begins - counted[0][0] < 1e-6, "asked at the border"
    assert blocks >= set(range(design.blocks)) | {design.blocks}
    assert simulation.faults == 0


# --- what is taken over ---------------------------------------------------------------------------------------------


def test_those_held_by_one_arm_are_the_next_ones_to_let_go() -> None:
    design = first_treated()
    chosen = switchback(design, strategy("passthrough"), strategy("span"))
    served = simulate([arrival("early", 1.0, 60.0), arrival("late", 12.0, 60.0)], chosen, MODEL).served
    assert served["early"].released_at == 10.0, "held until treatment's block ended"
    assert served["late"].released_at == 12.0


def test_whoever_is_held_at_the_end_is_controls() -> None:
    design = next(d for d in (Design(0.0, 10.0, 0.0, 1, seed) for seed in range(100)) if d.arm_of(1) == TREATMENT)
    chosen = switchback(design, strategy("passthrough"), strategy("span"))
    assert simulate([arrival("x", 15.0, 60.0)], chosen, MODEL).served["x"].released_at == 20.0


def test_a_fault_of_one_arm_lets_its_requests_go_and_not_the_others() -> None:
    @dataclass(frozen=True)
    class Broken:
        def decide(self, view: View, memory: object) -> Decision:
            raise RuntimeError("no idea")

    design = first_treated()
    broken = Strategy(Broken(), strategy("span").placement, "broken", "spread")
    run = simulate([arrival("x", 1.0, 5.0), arrival("y", 11.0, 5.0)], switchback(design, strategy("span"), broken), MODEL)
    assert (run.served["x"].released_at, run.served["y"].released_at, run.faults) == (1.0, 16.0, 1)


def test_under_an_arm_that_tends_nobody_all_are_awake() -> None:
    sleepy = build(Choice("passthrough", {}), Choice("sleepy", {"after_s": 2.0, "awake": 0}))
    design = first_treated(pairs=1)
    run = simulate(
        [arrival("x", 0.5), arrival("y", 12.0)], switchback(design, strategy("passthrough"), sleepy), MODEL, servers=2
    )
    told = [(at, action) for at, _, action in run.actions]
    assert told.count((10.0, Action.WAKE)) == 2, "at the border"
    assert run.served["y"].released_at == 12.0
    assert all(at < 10.0 for at, action in told if action is Action.SLEEP)


def test_where_no_arm_tends_the_room_has_nothing_to_tend() -> None:
    chosen = switchback(first_treated(), strategy("passthrough"), strategy("span"))
    assert not Room(chosen.policy, chosen.placement, {"a": None}).tends
    tending = switchback(first_treated(), strategy("passthrough"), strategy("span", "sleepy"))
    assert Room(tending.policy, tending.placement, {"a": None}).tends


def test_placements_switch_as_well() -> None:
    packing = strategy("passthrough", "pack")
    chosen = switchback(first_treated(), strategy("passthrough"), packing)
    coming = [arrival(f"r{n}", at, tokens=8) for n, at in enumerate([1.0, 1.0, 11.0, 11.0])]
    served = simulate(coming, chosen, MODEL, servers=2).served
    assert served["r0"].server == served["r1"].server
    assert served["r2"].server != served["r3"].server


def test_it_is_told_with_both_arms_and_their_parameters() -> None:
    told = switchback(first_treated(), strategy("passthrough"), strategy("window", every_s=2.0)).describe()
    policy = told["policy"]
    assert isinstance(policy, dict)
    assert policy["params"]["control"] == {"name": "passthrough", "params": {}}
    assert policy["params"]["treatment"] == {"name": "window", "params": {"every_s": 2.0}}
    assert policy["params"]["design"]["block_s"] == 10.0


# --- live and simulated ---------------------------------------------------------------------------------------------


async def live(log: list[Arrival], chosen: Strategy, servers: int, offset_s: float) -> list[tuple[float, str, str, str]]:
    names = {f"engine-{n}": None for n in range(servers)}
    room = Room(chosen.policy, chosen.placement, names, model=MODEL)
    scheduler = Scheduler(room, chosen, virtual_now, wall=lambda: virtual_now() + offset_s)
    engines = LiveEngines(scheduler, {name: Engine(MODEL) for name in names})
    scheduler.on_action = engines.act
    released, clients = [], []

    async def client(one: Arrival) -> None:
        leaving = await scheduler.wait_turn(one.waiting)
        released.append((virtual_now(), leaving.waiting.id, leaving.server, leaving.outcome.value))
        engines.submit(leaving, one.output_tokens)

    def arrive(group: list[Arrival]) -> None:
        clients.extend(asyncio.create_task(client(one)) for one in group)

    for at, group in groupby(log, key=lambda one: one.waiting.arrived_at):
        asyncio.get_running_loop().call_at(at, arrive, list(group))
    await asyncio.sleep(max(one.waiting.arrived_at for one in log) + 0.001)
    await asyncio.gather(*clients)
    return sorted(released)


# quarters of seconds again, else the two drivers' instants differ in their last bits
quarters = designs.map(
    lambda one: Design(round(4 * one.began_unix_s) / 4, round(4 * one.block_s) / 4, 0.0, one.pairs, one.seed)
)


@settings(max_examples=100, deadline=None)
@given(
    log=arrivals(), arms=st.tuples(simple, placements, simple, placements), design=quarters,
    servers=st.integers(1, 3), offset_s=st.sampled_from([0.0, EPOCH_S]),
)  # fmt: skip
def test_live_and_simulated_switch_alike(
    log: list[Arrival], arms: tuple[Chosen, Chosen, Chosen, Chosen], design: Design, servers: int, offset_s: float
) -> None:
    design = Design(design.began_unix_s + offset_s, design.block_s, design.burn_in_s, design.pairs, design.seed)
    control, treatment = (build(Choice(*policy), Choice(*placement)) for policy, placement in (arms[:2], arms[2:]))
    chosen = switchback(design, control, treatment)
    simulated = simulate(log, chosen, MODEL, servers=servers, wall_offset_s=offset_s)
    expected = sorted((one.released_at, id, one.server, str(one.outcome)) for id, one in simulated.served.items())
    assert simulated.faults == 0
    assert run(live(log, chosen, servers, offset_s)) == expected


def test_what_is_asked_is_a_policy_and_a_placement() -> None:
    chosen = switchback(first_treated(), strategy("passthrough"), strategy("span", "sleepy"))
    policy, placement = chosen.policy, chosen.placement
    asked: tuple[Policy, Placement] = (policy, placement)
    view = Room(*asked, {"a": None, "b": None}).view(0.0, EPOCH_S)
    assert policy.decide(view, "somebody else's memory").release == []
    assert ServerState.AWAKE in {server.state for server in view.servers}
    assert placement.tend(view) == Upkeep()  # type: ignore[attr-defined]
