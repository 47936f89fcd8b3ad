"""One experiment at work: its strategy in force, its blocks counted, told, compared, and ended; driven by `tick`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from policies.switchback import ruling
from proxy.experiments.count import Counting, Joules, block_of
from proxy.experiments.devices import Devices
from proxy.experiments.keeper import Keeper
from proxy.experiments.plan import ARMS, FINISHED, RUNNING, TRIPPED, Plan
from proxy.fleet import Pool
from proxy.replicas import merge
from telemetry.blocks import Block
from telemetry.comparison import Comparison, compare
from telemetry.design import Design
from telemetry.ledger import Entry

log = logging.getLogger("paceline.experiment")

BURN_IN = "burn_in"  # as a request's arm: it is in no arm's sums
PATIENCE_S = 60.0  # at least so long, and a block's length, the ends of a block's requests are waited for
MOST_UNKNOWN = 0.01  # of a block's requests may still run when it is told, and it be complete
LOOK_S = 5.0  # other replicas tell when they can
LEAST_GAP_S = 1.0
CLOCK_S = 0.5  # a wall clock that is set by more than this within a block spoils it
DRAWS = 10_000
SAME_S = 1e-3  # instants of one design, told by different replicas


@dataclass(slots=True)
class Running:
    """A running experiment. Everything but statistics and storing happens on the event loop, in microseconds.

    Attributes:
        plan: as it is kept; replaced whole when the state changes.
        leads: whether this replica is the one that judges.
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
    counting: Counting = field(init=False)
    joules: Joules = field(init=False)
    _first: int = 0  # the block with which this process began
    _begun: int = -1  # the latest block that has
    _offset_s: float = 0.0  # wall less monotonic, when it did
    _servers: frozenset[str] = frozenset()  # ... of the group then
    _waiting: list[int] = field(default_factory=list)  # blocks that are over, and not told
    _compared: int = 0  # parts that the comparison knows
    _looked_at: float = float("-inf")
    _ticking: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        design = self.plan.design
        self.counting = Counting(design)
        self.joules = Joules(self.counting, max(LEAST_GAP_S, 0.1 * design.block_s), self.devices.between)

    # --- putting it in force ------------------------------------------------------------------------------------

    def begin(self, entries: Sequence[Entry]) -> None:
        """Its strategy is in force; counting begins with the next block that is due whole.

        Args:
            entries: of the group, that are there already.
        """
        design, now = self.plan.design, self.wall()
        block = design.block_at(now)
        began_late = block is not None and now > design.start_unix_s(block) + 0.1
        self._first = design.blocks if now >= design.ends_unix_s else 0 if block is None else block + began_late
        for entry in entries:
            self.counting.was_there(entry)
        self.joules.begin(self._first, design.start_unix_s(self._first) - (now - self.clock()))
        self._begun = self._first - 1
        self.pool.scheduler.wall = self.wall  # which all replicas have in common
        self.pool.scheduler.use(self.plan.strategy())
        self.in_force = True

    def fall_back(self) -> None:
        """Control is in force, at once, and nothing is counted any more."""
        self.put_control()
        self.counting.forget()

    def put_control(self) -> None:
        """Control is in force, at once."""
        self.in_force = False
        self.pool.scheduler.use(self.plan.control)

    # --- what happens to requests -------------------------------------------------------------------------------

    def arrived(self, entry: Entry) -> None:
        """A request of the group has come."""
        unix_s = self.wall()
        index = self.plan.design.block_at(unix_s)
        if index is None or index < self._first:
            self.counting.was_there(entry)
            if index is not None:
                entry.experiment, entry.arm = self.plan.name, BURN_IN
            return
        counted = self.counting.arrived(entry, unix_s)
        entry.experiment = self.plan.name
        entry.arm = BURN_IN if counted is None else ARMS[self.plan.design.arm_of(counted)]

    def ruling_policy(self) -> str:
        """The policy that lets requests out now."""
        return self.plan.arm(ruling(self.plan.design, self.wall()).arm).policy_name

    def settled(self) -> None:
        """Meters have told more."""
        if (until := self.devices.settled_until) is not None:
            self.joules.settled(until, self.wall() - self.clock())

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
            self.fall_back()
            self._waiting.clear()
            self.plan = plan

    async def tick(self) -> None:
        """Blocks that have begun, ended, or of which all is known."""
        async with self._ticking:
            await self.keeper.flush()
            if self.plan.state == RUNNING:
                await self._tick()

    async def _tick(self) -> None:
        for index in self._passed():
            if self._begun >= self._first:
                self._end(self._begun)
            self._begun = index
            if index < self.plan.design.blocks:
                await self._begin_block(index)
        for index in [index for index in self._waiting if self._is_known(index)]:
            await self._tell(index)
            self._looked_at = float("-inf")
        if self.clock() - self._looked_at >= LOOK_S:
            await self._compare()
        if self.plan.state == RUNNING and self._begun >= self.plan.design.blocks and not self._waiting:
            await self._over(FINISHED, "all blocks are over; control is in force")

    def _passed(self) -> list[int]:
        """Blocks that have begun since the last look; the one after the last stands for the end."""
        design, now = self.plan.design, self.wall()
        current = design.blocks if now >= design.ends_unix_s else design.block_at(now)
        return list(range(self._begun + 1, current + 1)) if current is not None else []

    async def _begin_block(self, index: int) -> None:
        design = self.plan.design
        counted = self.counting.of(index)
        late_s = self.wall() - design.start_unix_s(index)
        if late_s > min(CLOCK_S + 0.5, design.block_s / 2):
            counted.faults.append(f"the proxy stood still, or its clock was set: it was noticed {late_s:.1f} s after its begin")
        self._offset_s, self._servers = self.wall() - self.clock(), frozenset(self.pool.servers)
        counted.temperature_c = await self.devices.temperature_c()
        arm = ARMS[design.arm_of(index)]
        await self.keeper.note("block_began", block=index, arm=arm, start_unix_s=design.start_unix_s(index))

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

    def _is_known(self, index: int) -> bool:
        counted = self.counting.of(index)
        if counted.energy_uj is not None and not self.counting.waits_for(index):
            return True
        design = self.plan.design
        return self.wall() > design.start_unix_s(index + 1) + max(design.block_s, PATIENCE_S)

    async def _tell(self, index: int) -> None:
        """Write a block down, with what is known of it."""
        counted = self.counting.of(index)
        left = self.counting.give_up(index)
        if left > MOST_UNKNOWN * counted.requests:
            counted.faults.append(f"{left} of its {counted.requests} requests were still running long after its end")
        if counted.energy_uj is None:
            counted.unmetered.append("its joules are not known")
        block = block_of(index, self.plan.design, counted)
        self._waiting.remove(index)
        self.counting.told(index)
        await self.keeper.part(block)
        why = "; ".join(counted.faults + counted.unmetered) or None
        await self.keeper.note("block_ended", why=why, running=left, block=block.as_json())

    async def lose(self, told: Sequence[int], *, only_latest: bool = False) -> None:
        """Blocks that were due while the proxy was away, and that it has not told: they are incomplete, and said to be.

        Args:
            told: blocks of which the store knows already.
            only_latest: the others had other replicas; just the one that runs has, for a part of it, none of its arm's.
        """
        design, until = self.plan.design, min(self._first, self.plan.design.blocks)
        for index in range(max(until - 1, 0) if only_latest else 0, until):
            if index not in told:
                starts, ends = design.start_unix_s(index), design.start_unix_s(index + 1)
                await self.keeper.part(Block(index, design.arm_of(index), starts, ends, complete=False))
                await self.keeper.note("block_lost", block=index, why="the proxy was away for a part of it")

    async def cut(self) -> None:
        """The proxy ends: blocks that are over are told with what is known; the one that runs is lost, at the next start."""
        async with self._ticking:
            for index in list(self._waiting):
                await self._tell(index)
            await self.keeper.flush()

    # --- comparing ----------------------------------------------------------------------------------------------

    async def _compare(self) -> None:
        """All that has been told; a guardrail that trips ends the experiment, and control is in force before that is kept."""
        self._looked_at = self.clock()
        try:
            parts = await self.keeper.parts()
        except OSError:  # the keeper says so, and what is known goes on to be known
            return
        known = sum(map(len, parts.values()))
        if known != self._compared:
            self._compared, self.blocks = known, merged(parts, self.expected, self.plan.design)
            self.comparison = await asyncio.to_thread(compared, self.plan, self.blocks)
        if self.comparison is not None and self.comparison.tripped and self.leads():
            await self._trip(self.comparison)

    async def _trip(self, comparison: Comparison) -> None:
        self.fall_back()
        why = "; ".join(verdict.why for verdict in comparison.guardrails if verdict.name in comparison.tripped)
        await self.keeper.note("guardrail_tripped", guardrails=list(comparison.tripped), why=why)
        await self._over(TRIPPED, f"{why}; control is in force")

    async def _over(self, state: str, why: str) -> None:
        """Nobody is tried any more."""
        self.fall_back()
        ended = self.plan.ended(state, why, self.wall())
        self._waiting.clear()
        log.info("experiment %s: %s: %s", self.plan.name, state, why)
        await self.keeper.note(state, why=why)
        await self.keeper.state(ended)
        self.plan = ended

    # --- telling ------------------------------------------------------------------------------------------------

    def now(self) -> dict[str, Any]:
        """Which arm rules."""
        rules = ruling(self.plan.design, self.wall())
        block = rules.block if 0 <= rules.block < self.plan.design.blocks else None
        ends = rules.until_unix_s if rules.until_unix_s != float("inf") else None
        return {"block": block, "arm": ARMS[rules.arm], "ends_unix_s": ends}


def merged(
    parts: Mapping[int, Mapping[str, Block]], expected: Callable[[Block], Collection[str]], design: Design
) -> list[Block]:
    """Blocks as all replicas saw them, in order.

    Two replicas may have begun it under one name before they knew of each other: what the one counted that gave way is in
    blocks of another design, and those are not whole.
    """
    told = [index for index in sorted(parts) if 0 <= index < design.blocks]
    blocks = [merge(parts[index], expected(next(iter(parts[index].values())))).block for index in told]
    return [one if _is_of(one, design) else replace(one, arm=design.arm_of(one.index), complete=False) for one in blocks]


def _is_of(block: Block, design: Design) -> bool:
    starts, ends = design.start_unix_s(block.index), design.start_unix_s(block.index + 1)
    off_s = max(abs(block.start_unix_s - starts), abs(block.end_unix_s - ends))
    return block.arm == design.arm_of(block.index) and off_s < SAME_S


def compared(plan: Plan, blocks: Sequence[Block]) -> Comparison:
    """What the blocks show; tens of milliseconds of reckoning, in a thread."""
    began = time.monotonic()
    result = compare(blocks, plan.design, metric=plan.metric, alpha=plan.alpha, guardrails=plan.guardrails, draws=DRAWS)
    log.debug("experiment %s: compared %d blocks in %.2f s", plan.name, len(blocks), time.monotonic() - began)
    return result
