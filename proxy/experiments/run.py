"""One experiment at work: its strategy in force, its blocks counted, told, compared, and ended; driven by `tick`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from policies.base import Waiting
from policies.split import NAME as SPLIT
from proxy.experiments.count import Counting, Joules, block_of
from proxy.experiments.devices import Devices
from proxy.experiments.judging import compared, seen
from proxy.experiments.keeper import Keeper
from proxy.experiments.plan import ARMS, FINISHED, RUNNING, TRIPPED, Plan
from proxy.fleet import Pool
from telemetry.blocks import MOST_UNFINISHED, Block
from telemetry.comparison import Comparison
from telemetry.design import SIDES
from telemetry.guardrails import breaches
from telemetry.ledger import Entry

log = logging.getLogger("paceline.experiment")

BURN_IN = "burn_in"  # as a request's arm: it is in no arm's sums
PATIENCE_S = (
    60.0  # at least so long, and a block's length, the ends of a block's requests are waited for; then they are unfinished
)
MOST_MOVED = 0.01  # ... and may have gone to the other side's servers
LOOK_S = 5.0  # other replicas tell when they can
LEAST_GAP_S, GAP = 1.0, 0.1  # joules told for longer at once, or for more of a block, are nobody knows whose
CLOCK_S = 0.5  # a wall clock that is set by more than this within a block spoils it


@dataclass(slots=True)
class Running:
    """A running experiment. Everything but statistics and storing happens on the event loop, in microseconds.

    Attributes:
        plan: as it is kept; replaced whole when the state changes.
        leads: whether this replica is the one that judges pairs; what its own blocks break at once each judges for itself.
        expected: replicas that have something to tell of a block; without one of them it is not complete.
        blocks: all that have been told, merged over replicas.
        comparison: of them; None: none has been compared yet.
        in_force: its arms rule; while its end is being kept, which may take a while, they do not any more.
        closing: the proxy lets everybody go, so no arm rules any more: blocks that end from now on are not complete.
    """

    plan: Plan
    pool: Pool
    devices: Devices
    keeper: Keeper
    wall: Callable[[], float]
    clock: Callable[[], float]
    leads: Callable[[], bool] = lambda: True
    expected: Callable[[Block], Collection[str]] = lambda block: ()
    blocks: list[Block] = field(default_factory=list)
    comparison: Comparison | None = None
    in_force: bool = False
    closing: bool = False
    patience_s: float = PATIENCE_S
    counting: Counting = field(init=False)
    joules: tuple[Joules, ...] = field(init=False)  # of each side; of one, where there are no sides
    _sides: tuple[Devices, ...] = field(init=False)  # likewise
    _first: int = 0  # the window (a block, or two at a time) with which this process began
    _begun: int = -1  # the latest window that has
    _offset_s: float = 0.0  # wall less monotonic, when it did
    _servers: frozenset[str] = frozenset()  # ... of the group then
    _waiting: list[int] = field(default_factory=list)  # blocks that are over, and not told
    _looked_at: float = float("-inf")
    _ticking: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        design = self.plan.design
        self.counting = Counting(design, self.plan.side_with)
        self._sides = self.devices.of_sides(self.plan.split)
        gap_s = max(LEAST_GAP_S, GAP * design.block_s)
        self.joules = tuple(Joules(self.counting, gap_s, devices.between) for devices in self._sides)

    # --- putting it in force ------------------------------------------------------------------------------------

    def begin(self, entries: Sequence[Entry]) -> None:
        """Its strategy is in force; counting begins with the next block that is due whole.

        Args:
            entries: of the group, that are there already.
        """
        design, now = self.plan.design, self.wall()
        window = design.window_at(now)
        began_late = window is not None and now > design.window_starts_unix_s(window) + 0.1
        self._first = design.windows if now >= design.ends_unix_s else 0 if window is None else window + began_late
        for entry in entries:
            self.counting.was_there(entry, self.plan.side_with(entry.server) or 0)
        for meter, block in zip(self.joules, design.blocks_in(self._first), strict=True):
            meter.begin(block, design.window_starts_unix_s(self._first) - (now - self.clock()))
        self._begun = self._first - 1
        self.pool.scheduler.wall = self.wall  # which all replicas have in common
        self.pool.scheduler.use(self.plan.strategy())
        self.in_force = True

    def fall_back(self) -> None:
        """Control is in force, at once, and nothing is counted any more."""
        self.put_control()
        self.counting.forget()

    def put_control(self) -> None:
        """Control is in force, at once; if it was before, the strategy is somebody else's by now."""
        if self.in_force:
            self.in_force = False
            self.pool.scheduler.use(self.plan.control)

    # --- what happens to requests -------------------------------------------------------------------------------

    def arrived(self, entry: Entry, waiting: Waiting | None = None) -> None:
        """A request of the group has come; where there are sides, it belongs to one by what `waiting` says of it."""
        unix_s = self.wall()
        window = self.plan.design.window_at(unix_s)
        side = 0
        if self.plan.split is not None:
            if waiting is None:
                raise ValueError("nobody told what decides the side that a request belongs to")
            side = self.plan.split.side_of(waiting)
        if window is None or window < self._first:
            self.counting.was_there(entry, side)
            if window is not None:
                entry.experiment, entry.arm = self.plan.name, BURN_IN
            return
        counted = self.counting.arrived(entry, unix_s, side)
        entry.experiment = self.plan.name
        entry.arm = BURN_IN if counted is None else ARMS[self.plan.design.arm_of(counted)]

    def ruling_policy(self, server: str = "") -> str:
        """The policy that lets requests out to a server now; to any, if none is named."""
        names = [self.plan.arm(one.arm).policy_name for one in self.plan.ruling(self.wall())]
        side = self.plan.side_with(server)
        return names[side] if side is not None else names[0] if len(set(names)) == 1 else SPLIT

    def settled(self) -> None:
        """Meters have told more."""
        for devices, meter in zip(self._sides, self.joules, strict=True):
            if (until := devices.settled_until) is not None:
                meter.settled(until, self.wall() - self.clock())

    # --- what happens with time ---------------------------------------------------------------------------------

    async def stop(self, state: str, why: str) -> None:
        """End it: control is in force at once, and the rest is written down."""
        self.put_control()
        async with self._ticking:
            if self.plan.state == RUNNING:
                await self._over(state, why)

    async def overruled(self, plan: Plan) -> None:
        """Another replica has ended it."""
        self.put_control()
        async with self._ticking:
            await self._tell_waiting()
            self.counting.forget()
            self.plan = plan

    async def tick(self) -> None:
        """Blocks that have begun, ended, or of which all is known."""
        async with self._ticking:
            await self.keeper.flush()
            if self.plan.state == RUNNING:
                await self._tick()

    async def _tick(self) -> None:
        design = self.plan.design
        for window in self._passed():
            if self._begun >= self._first:
                for index in design.blocks_in(self._begun):
                    self._end(index)
            self._begun = window
            for index in design.blocks_in(window) if window < design.windows else ():
                await self._begin_block(index)
        for index in [index for index in self._waiting if self._is_known(index)]:
            await self._tell(index)
            self._looked_at = float("-inf")
        if self.clock() - self._looked_at >= LOOK_S:
            await self._compare()
        if self.plan.state == RUNNING and self._begun >= design.windows and not self._waiting:
            await self._over(FINISHED, "all blocks are over; control is in force")

    def _passed(self) -> list[int]:
        """Windows that have begun since the last look; the one after the last stands for the end."""
        design, now = self.plan.design, self.wall()
        current = design.windows if now >= design.ends_unix_s else design.window_at(now)
        return list(range(self._begun + 1, current + 1)) if current is not None else []

    async def _begin_block(self, index: int) -> None:
        design = self.plan.design
        counted = self.counting.of(index)
        late_s = self.wall() - design.start_unix_s(index)
        if late_s > min(CLOCK_S + 0.5, design.block_s / 2):
            counted.faults.append(f"the proxy stood still, or its clock was set: it was noticed {late_s:.1f} s after its begin")
        self._offset_s, self._servers = self.wall() - self.clock(), frozenset(self.pool.servers)
        if why := self.unmetered():
            counted.unmetered.append(why)
        counted.temperature_c = await self._sides[design.side_of(index)].temperature_c()
        about = {"arm": ARMS[design.arm_of(index)], "side": SIDES[design.side_of(index)] if design.parallel else None}
        await self.keeper.note("block_began", block=index, **about, start_unix_s=design.start_unix_s(index))

    def _end(self, index: int) -> None:
        """A block is over, and waits until all is known of it."""
        faults = self.counting.of(index).faults
        if abs(self.wall() - self.clock() - self._offset_s) > CLOCK_S:
            faults.append("the wall clock was set")
        if self.closing:
            faults.append("the proxy was closing, and no arm held anybody")
        if frozenset(self.pool.servers) != self._servers:
            faults.append("the group had other servers at its end than at its begin")
        self._waiting.append(index)
        self._looked_at = float("-inf")

    def _is_known(self, index: int) -> bool:
        known = self.counting.of(index).energy_uj is not None or self.devices.unmetered
        return bool(known and not self.counting.waits_for(index)) or self._is_overdue(index)

    def _is_overdue(self, index: int) -> bool:
        """Who has not ended by now may hang."""
        design = self.plan.design
        return self.wall() > design.end_unix_s(index) + max(design.block_s, self.patience_s)

    def unmetered(self) -> str:
        """Why the joules of a block that begins now will not be known; empty: they may be."""
        if missing := ", ".join(sorted(self.devices.unmetered)):
            return f"no meter tells the devices' joules of {missing}"
        now, then = self.devices.names, self.plan.devices
        if now and then and now != then:
            return f"it is about the devices {', '.join(then)}, and this proxy meters {', '.join(now)}"
        return ""

    @property
    def trouble(self) -> str:
        """What costs it its blocks now, in words; empty: nothing does."""
        why = self.unmetered()
        if not why and self._begun >= self._first and self.devices.settled_until is None:
            why = "the meters tell nothing"
        if not why and self.plan.design.block_s < least_block_s(step_s := self.devices.step_s):
            why = f"its meter tells more every {step_s:.3g} s, which is too seldom for blocks of {self.plan.design.block_s:g} s"
        return f"blocks are lost: {why}" if why else ""

    async def _tell(self, index: int) -> None:
        """Write a block down, with what is known of it."""
        counted = self.counting.of(index)
        left = self.counting.give_up(index)
        if self._is_overdue(index):
            counted.unfinished = left
        elif left > MOST_UNFINISHED * counted.requests:
            counted.unmetered.append(f"it had to be told while {left} of its {counted.requests} requests were running")
        if counted.moved > MOST_MOVED * counted.requests:
            # guardrails go on looking: an arm that makes its servers fail must not hide behind it
            counted.unmetered.append(f"{counted.moved} of its {counted.requests} requests went to the other side's servers")
        if counted.energy_uj is None:
            counted.unmetered.append("its joules are not known")
        block = await asyncio.to_thread(block_of, index, self.plan.design, counted)  # it sorts
        self._waiting.remove(index)
        self.counting.told(index)
        await self.keeper.part(block)
        why = "; ".join(counted.faults + counted.unmetered) or None
        moved = counted.moved if self.plan.split is not None else None
        await self.keeper.note("block_ended", why=why, running=left, moved=moved, block=block.as_json())

    async def lose(self, told: Sequence[int], *, only_latest: bool = False) -> None:
        """Blocks that were due while the proxy was away, and that it has not told: they are incomplete, and said to be.

        Args:
            told: blocks of which the store knows already.
            only_latest: the others had other replicas; just the one that runs has, for a part of it, none of its arm's.
        """
        design, until = self.plan.design, min(self._first, self.plan.design.windows)
        since = max(until - 1, 0) if only_latest else 0
        for index in range(design.sides * since, design.sides * until):
            if index not in told:
                starts, ends = design.start_unix_s(index), design.end_unix_s(index)
                await self.keeper.part(Block(index, design.arm_of(index), starts, ends, complete=False))
                await self.keeper.note("block_lost", block=index, why="the proxy was away for a part of it")

    async def cut(self) -> None:
        """The proxy ends: blocks that are over are told with what is known; the one that runs is lost, at the next start."""
        async with self._ticking:
            await self._tell_waiting()
            await self.keeper.flush()

    async def _tell_waiting(self) -> None:
        """Blocks that are over, with what is known of them now."""
        for index in list(self._waiting):
            await self._tell(index)

    # --- comparing ----------------------------------------------------------------------------------------------

    async def _compare(self) -> None:
        """All that has been told; a guardrail that trips ends the experiment, and control is in force before that is kept.

        What a block breaks by itself is seen at its end, by whoever had it: no other replica is asked, and no pair waited for.
        """
        self._looked_at = self.clock()
        try:
            parts = await self.keeper.parts()
        except OSError:  # the keeper says so, and what is known goes on to be known
            return
        blocks, own = await asyncio.to_thread(seen, parts, self.keeper.replica, self.expected, self.plan.design)
        if blocks != self.blocks:
            self.comparison, self.blocks = await asyncio.to_thread(compared, self.plan, blocks), blocks
        tripped = breaches([*own, *await self._so_far()], self.plan.guardrails)
        if self.comparison is not None and self.leads():
            tripped |= {one.name: one.why for one in self.comparison.guardrails if one.judgement == "tripped"}
        if tripped:
            await self._trip(tripped)

    async def _so_far(self) -> list[Block]:
        """Blocks that are over and not told: when all is known of them, there are no fewer errors in them."""
        over = [(index, self.counting.of(index)) for index in self._waiting]
        return [await asyncio.to_thread(block_of, index, self.plan.design, counted) for index, counted in over]

    async def _trip(self, tripped: Mapping[str, str]) -> None:
        self.put_control()
        why = "; ".join(tripped.values())
        await self.keeper.note("guardrail_tripped", guardrails=list(tripped), why=why)
        await self._over(TRIPPED, f"{why}; control is in force")

    async def _over(self, state: str, why: str) -> None:
        """Nobody is tried any more; blocks that are over are told with what is known of them."""
        self.put_control()
        await self._tell_waiting()
        self.counting.forget()
        ended = self.plan.ended(state, why, self.wall())
        log.info("experiment %s: %s: %s", self.plan.name, state, why)
        await self.keeper.note(state, why=why)
        await self.keeper.state(ended)
        self.plan = ended

    # --- telling ------------------------------------------------------------------------------------------------

    def now(self) -> dict[str, Any]:
        """Which arm rules: on side A, where there are sides, and which on each."""
        rules, design = self.plan.ruling(self.wall()), self.plan.design
        window = rules[0].block if 0 <= rules[0].block < design.windows else None
        ends = rules[0].until_unix_s if rules[0].until_unix_s != float("inf") else None
        told = {"block": None if window is None else design.sides * window, "arm": ARMS[rules[0].arm], "ends_unix_s": ends}
        return told | ({"sides": [ARMS[one.arm] for one in rules]} if design.parallel else {})


def least_block_s(step_s: float) -> float:
    """The shortest block that a meter can tell apart which tells more every so many seconds, half as many more now and then."""
    return 0.0 if 1.5 * step_s <= LEAST_GAP_S else 1.5 * step_s / GAP
