"""The experiments of one proxy: those that run, each on its own devices, and those that are over; started, stopped, told.

Two that share devices would each count the other's joules, so there is one at a time for each energy domain; of two that
different proxies began before they had heard of each other, the later one gives way. A restart, even `kill -9`, loses the
blocks that it touches and nothing else: the state is read again, and the next whole block counts.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from policies.base import Waiting
from policies.split import cautions
from policies.strategy import Strategy
from proxy.config import Experiment as Asked
from proxy.energy import Energy
from proxy.experiments.devices import Devices
from proxy.experiments.keeper import Keeper
from proxy.experiments.places import HOW_TO_STOP, Conflict, Places, gave_way_to, gives_way
from proxy.experiments.plan import FINISHED, RUNNING, STOPPED, TRIPPED, Plan, plan
from proxy.experiments.run import Running, least_block_s
from proxy.experiments.store import State, Store
from proxy.fleet import Fleet, Pool
from proxy.shared_store import SharedStore
from telemetry.blocks import Block
from telemetry.comparison import Comparison
from telemetry.ledger import Entry, Ledger

log = logging.getLogger("paceline.experiment")

LOOK_EVERY_S = 0.1
LEAD_S = 0.2  # a new one is on the disk before it begins
RECENT = 2_000  # requests from which `auto` lengths are reckoned


@dataclass(slots=True)
class Experiments:
    """All of them.

    Attributes:
        wall: seconds since the epoch, the same for all replicas.
        replica: this process's name in the store.
        leads: whether this replica judges, and keeps the state.
        expected: replicas that have something to tell of a block.
        kept: the store outlives the process.
        shared: what brings it to other replicas; None: there are none.
        on_shadows: told that `shadows` are others now.
        running: by name.
        over: states of all others, by name.
        compared: of those, what was looked at lately: blocks, and what they say.
    """

    fleet: Fleet
    ledger: Ledger
    energy: Energy | None
    store: Store
    wall: Callable[[], float] = time.time
    clock: Callable[[], float] = time.monotonic
    replica: str = "proxy"
    leads: Callable[[], bool] = lambda: True
    expected: Callable[[Block], Collection[str]] = lambda block: ()
    kept: bool = False
    shared: SharedStore | None = None
    on_shadows: Callable[[], None] = lambda: None
    running: dict[str, Running] = field(default_factory=dict)
    over: dict[str, State] = field(default_factory=dict)
    compared: dict[str, tuple[list[Block], Comparison]] = field(default_factory=dict)
    _faults: dict[str, str] = field(default_factory=dict)  # of experiments, that end them
    _late: list[Keeper] = field(default_factory=list)  # of those that are over, until the store has all of them
    _changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _places: Places = field(init=False)

    def __post_init__(self) -> None:
        self._places = Places(self.fleet, self.energy, self.running)

    # --- beginning and end of the process -------------------------------------------------------------------------

    async def load(self, asked: Asked | None = None) -> None:
        """Go on with what runs, and begin what the configuration asks for, unless it ever began."""
        if self.shared is not None:
            await self.shared.sync()  # what others run, and what time it is; without Redis, what is known here
        try:
            states = await self.store.states()
        except (OSError, ValueError) as error:
            log.error("experiments cannot be read, so none goes on: %s", error)
            return
        for name, state in states.items():
            try:
                await self.adopt(name, state)
            except OSError as error:
                log.error("experiment %s cannot be read, and does not go on before the next start: %s", name, error)
        if asked is not None and asked.name not in states:
            try:
                await self.start(asked)
            except (Conflict, ValueError, OSError) as error:
                log.error("experiment %s of the configuration does not begin: %s", asked.name, error)

    async def adopt(self, name: str, state: State) -> None:
        """A state that was read, or that another replica has changed; not while another one is begun here."""
        async with self._changing:
            await self._adopt(name, state)

    async def _adopt(self, name: str, state: State) -> None:
        try:
            read = Plan.of(state)
            if read.state == RUNNING and name in self.running and self.running[name].plan.design != read.design:
                self.running.pop(name).fall_back()  # two replicas began it at the same time: the first one's holds
            if read.state == RUNNING and name not in self.running:
                await self._resume_or_give_way(read)
            elif read.state == FINISHED and name in self.running:
                pass  # it will find so too, once its own blocks are told
            elif read.state != RUNNING and name in self.running:
                one = self.running[name]
                await one.overruled(read)
                self._set_aside(one)
                self.over[name] = state
            elif read.state != RUNNING:
                self.over[name] = state
        except (Conflict, ValueError) as error:
            if state.get("state") in (FINISHED, STOPPED, TRIPPED):  # it need not go on
                self.over[name] = state
                return
            log.error("experiment %s does not go on: %s", name, error)
            self.over[name] = {**state, "state": STOPPED, "why": f"it could not go on: {error}"}
            if state.get("state") == RUNNING and self.shared is None:
                await self.store.save(name, self.over[name])
                await self.store.log(name, {"at_unix_s": self.wall(), "event": STOPPED, "why": str(error)})

    async def _resume_or_give_way(self, read: Plan) -> None:
        """Of two on one group or on shared devices the one that was begun first goes on, on each replica that hears of both."""
        pool, devices = self._places.place(read.group)
        rivals = [one for one, _ in self._places.rivals(pool, devices)]
        if (ended := gives_way(read, [one.plan for one in rivals], self.wall())) is not None:
            await self._keep_over(ended)
            return
        for one in rivals:
            if one.plan.design.ends_unix_s <= self.wall():
                one.put_control()  # it has only its last blocks to tell
                continue
            await one.stop(STOPPED, f"{gave_way_to(read)}; control is in force")
            self._set_aside(one)
        await self._resume(read, pool, devices)

    async def _keep_over(self, ended: Plan) -> None:
        """It does not run here, and is over for all."""
        log.warning("experiment %s: %s: %s", ended.name, ended.state, ended.why)
        self.over[ended.name] = ended.as_json()
        await self.store.log(ended.name, {"at_unix_s": self.wall(), "event": ended.state, "why": ended.why})
        await self.store.save(ended.name, ended.as_json())

    async def _resume(self, read: Plan, pool: Pool, devices: Devices) -> None:
        if read.split is not None and not devices.unmetered:  # a meter that is missing may come back
            devices.check(read.split)
        lines, parts = await self.store.lines(read.name), await self.store.parts(read.name)
        alone = self.shared is None
        restarted = replace(read, restarts=read.restarts + 1) if alone else read
        one = self._run(restarted, pool, devices)
        one.keeper.lines = len(lines)
        await one.keeper.note("restart_seen" if alone else "replica_joined", why=one.unmetered() or None)
        told = [index for index, of in parts.items() if alone or self.replica in of]  # alone it may have had another name
        await one.lose(told, only_latest=not alone)
        if alone:
            await one.keeper.state(one.plan)

    def _run(self, begun: Plan, pool: Pool, devices: Devices) -> Running:
        keeper = Keeper(begun.name, self.store, self.replica, self.wall)
        one = Running(begun, pool, devices, keeper, self.wall, self.clock, self.leads, self.expected)
        there = [entry for entry in self.ledger.open_entries() if not entry.server or entry.server in pool.servers]
        one.begin(there)
        self.running[begun.name] = one
        self.on_shadows()
        return one

    async def run(self) -> None:
        """Until cancelled."""
        await asyncio.gather(self._looks(), *([self.shared.run()] if self.shared is not None else []))

    async def _looks(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            for one in list(self.running.values()):
                await self._look(one)
            for keeper in self._late:
                await self._flush(keeper)
            self._late = [keeper for keeper in self._late if keeper.behind]

    async def _look(self, one: Running) -> None:
        name = one.plan.name
        try:
            if name in self._faults:
                await one.stop(STOPPED, f"a fault of ours: {self._faults.pop(name)}; control is in force")
            await one.tick()
        except Exception as error:
            log.exception("experiment %s: a fault of ours ends it", name)
            one.put_control()
            one.plan = one.plan.ended(STOPPED, f"a fault of ours: {type(error).__name__}: {error}", self.wall())
            with suppress(Exception):  # what cannot be kept must not keep the others from being looked at
                await one.keeper.note(STOPPED, why=one.plan.why)
                await one.keeper.state(one.plan)
        if one.plan.state != RUNNING and self.running.get(name) is one:
            self._set_aside(one)

    async def _flush(self, keeper: Keeper) -> None:
        try:
            await keeper.flush()
        except Exception:
            log.exception("experiment %s: what it came to cannot be kept", keeper.name)
            keeper.give_up()

    def _set_aside(self, one: Running) -> None:
        self.running.pop(one.plan.name, None)
        self._late.append(one.keeper)
        self.over[one.plan.name] = one.plan.as_json()
        self.on_shadows()

    def drain(self) -> None:
        """Everybody who waits leaves now, whatever an arm would have done with them."""
        for one in self.running.values():
            one.closing = True

    async def close(self) -> None:
        """The proxy ends; what runs goes on with the next one."""
        for one in self.running.values():
            await one.cut()
        for keeper in self._late:
            await keeper.flush()
        if self.shared is not None:
            await self.shared.close()

    # --- what operators do ------------------------------------------------------------------------------------------

    async def start(self, asked: Asked) -> Plan:
        """Begin an experiment.

        Raises:
            Conflict: its name was used, another runs on its devices, or nobody meters them.
            ValueError: it does not fit.
        """
        if self.shared is not None:
            await self.shared.sync()  # what others have begun, as far as can be known now
        async with self._changing:
            made, pool, devices = self._planned(asked)
            await self.store.save(made.name, made.as_json())
            one = self._run(made, pool, devices)
            await one.keeper.note(
                "started", **{key: value for key, value in made.as_json().items() if key not in ("why", "state")}
            )
            await one.lose([])  # the first, if the disk was slow
            return made

    async def planned(self, asked: Asked) -> Plan:
        """What `start` would begin; nothing begins.

        Raises:
            Conflict, ValueError: as `start`.
        """
        if self.shared is not None:
            await self.shared.sync()
        return self._planned(asked)[0]

    def _planned(self, asked: Asked) -> tuple[Plan, Pool, Devices]:
        if asked.name in self.running or asked.name in self.over:
            raise Conflict(f"there is an experiment {asked.name!r} already: each has its own name, for ever")
        group = asked.group or self._places.only_group()
        pool, devices = self._places.free(group)
        lead_s = max(self.shared.lead_s if self.shared is not None else 0.0, LEAD_S)
        asked = asked.model_copy(update={"begins_in_s": max(asked.begins_in_s, lead_s)})
        traffic = pool.scheduler.room.view(self.clock(), self.wall()).traffic
        made = self._long_enough(
            plan(asked, group, self.wall(), self.ledger.latest(RECENT), traffic, devices.split), asked, devices
        )
        return replace(made, devices=devices.names, notes=(*made.notes, *self._notes(made, devices))), pool, devices

    def _long_enough(self, made: Plan, asked: Asked, devices: Devices) -> Plan:
        """With blocks that its meters can tell apart: `auto` becomes longer, and what was asked for is refused."""
        least_s = least_block_s(devices.step_s)
        if made.design.block_s >= least_s:
            return made
        why = f"its meter tells more every {devices.step_s:.3g} s, which tells only blocks of {least_s:.3g} s or more apart"
        if asked.block_s != "auto":
            raise ValueError(f"block_s: {why}; ask for block_s = {least_s:.3g}, or meter more often (energy.poll_s)")
        return replace(made, design=replace(made.design, block_s=least_s), notes=(*made.notes, f"longer than that: {why}"))

    def _notes(self, made: Plan, devices: Devices) -> list[str]:
        """What whoever reads the result should know."""
        notes = []
        if made.same_arms:
            notes.append("A/A: both arms are the same, so whatever is found is error")
        if made.split is not None:
            notes += cautions(made.split, {name: server.slots for name, server in devices.pool.servers.items()})
        if strangers := ", ".join(sorted(devices.strangers)):
            notes.append(f"{strangers} of other groups share its devices: their joules are in its blocks, as noise")
        if devices.step_s > made.design.block_s / 20:
            notes.append(f"its meter tells more every {devices.step_s:.3g} s: coarse for blocks of {made.design.block_s:g} s")
        if not self.kept:
            notes.append("experiments.path is not set: it ends with the process")
        return notes

    async def stop(self, name: str, why: str = "by the operator") -> Plan:
        """End an experiment: control is in force when this returns.

        Raises:
            KeyError: there is none of that name that runs.
        """
        one = self.running[name]
        await one.stop(STOPPED, f"stopped {why}; control is in force")
        if self.running.get(name) is one:
            self._set_aside(one)
        return one.plan

    def refusal(self, groups: Iterable[str]) -> str | None:
        """Why the strategy of these groups cannot be changed; None: it can."""
        for one in self.running.values():
            if one.plan.group in groups:
                return (
                    f"experiment {one.plan.name} decides which strategy is in force in group {one.plan.group}. "
                    + HOW_TO_STOP.format(name=one.plan.name)
                )
        return None

    def policy_name(self, pool: Pool) -> str:
        """The policy that lets requests out of a group now: of an experiment, that of the arm that rules."""
        for one in self.running.values():
            if one.pool is pool and one.in_force:
                return one.ruling_policy()
        return pool.scheduler.strategy.policy_name

    # --- what happens to requests: microseconds, and nothing that they could notice -----------------------------------

    def arrived(self, pool: Pool, entry: Entry, waiting: Waiting | None = None) -> None:
        for one in self.running.values():
            if one.pool is pool and one.in_force:
                self._safely(one, lambda one: one.arrived(entry, waiting))

    def released(self, entry: Entry) -> None:
        """A request leaves to a server: let out by the policy of the arm that rules."""
        for one in self.running.values():
            if entry.server in one.pool.servers and one.in_force:
                self._safely(one, lambda one: setattr(entry, "policy", one.ruling_policy(entry.server)))

    def final(self, entry: Entry) -> None:
        """No more will be known of a request."""
        for one in self.running.values():
            self._safely(one, lambda one: one.counting.final(entry))

    def settled(self) -> None:
        """Meters have told more, and it was given to requests."""
        for one in self.running.values():
            self._safely(one, lambda one: one.settled())

    def _safely(self, one: Running, do: Callable[[Running], None]) -> None:
        try:
            do(one)
        except Exception as error:
            if one.plan.name not in self._faults:
                log.exception("experiment %s: a fault of ours ends it; requests are not touched by that", one.plan.name)
            self._faults[one.plan.name] = f"{type(error).__name__}: {error}"

    def shadows(self) -> dict[str, Strategy]:
        """The arms of those that run, where they shall run as shadows too."""
        return {name: arm for one in self.running.values() for name, arm in one.plan.shadows().items()}
