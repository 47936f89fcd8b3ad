"""What the blocks of an experiment come to: requests counted where they arrived, joules between borders. It has no clock.

A request's joules grow as intervals of the meter are settled; which of them lie on which side of a border is seen when the
account has been settled up to the border, so they are told apart to within one settlement (a tenth of a second).

In counterphase there is a block of each side at a time: a request is of its side's block, and joules of a block are its side's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf

from policies.base import Outcome
from policies.lived import LATE_S
from telemetry.blocks import Block
from telemetry.design import Design
from telemetry.ledger import Entry
from telemetry.reservoir import Reservoir


@dataclass(slots=True)
class Counted:
    """One block so far; see `telemetry/blocks.py` for what each figure means."""

    requests: int = 0
    completed: int = 0
    output_tokens: int = 0
    prompt_tokens: int = 0
    errors: int = 0
    late: int = 0
    burn_in_requests: int = 0
    crossing: int = 0
    unfinished: int = 0
    moved: int = 0  # of its requests, those that the other side's servers had
    boundary_uj: int = 0
    carried_uj: int = 0
    energy_uj: int | None = None
    burn_in_uj: int | None = None
    source: str = ""
    ttft_s: Reservoir = field(default_factory=Reservoir)
    tpot_s: Reservoir = field(default_factory=Reservoir)
    wait_s: Reservoir = field(default_factory=Reservoir)
    temperature_c: float | None = None
    faults: list[str] = field(default_factory=list)  # why it is not complete
    unmetered: list[str] = field(default_factory=list)  # why its joules are not known; all else is, and guardrails look at it


@dataclass(slots=True)
class _Open:
    """A request of which more can become known.

    Attributes:
        side: that it belongs to; 0 where there are none.
        block: whose sums it is in; None: it came during a burn-in, or before the experiment.
        had_uj: what it had been charged when its block ended.
        strange_uj: what it had been charged when the analysed part of another block, `strange`, began.
    """

    entry: Entry
    side: int
    block: int | None
    had_uj: int | None = None
    strange: int | None = None
    strange_uj: int = 0


@dataclass(slots=True)
class Counting:
    """All blocks of one experiment that have not been told yet.

    Attributes:
        side_with: the side that a server is on, where there are sides; None: on neither.
    """

    design: Design
    side_with: Callable[[str], int | None] = lambda server: 0
    blocks: dict[int, Counted] = field(default_factory=dict)
    _open: dict[str, _Open] = field(default_factory=dict)

    def of(self, index: int) -> Counted:
        return self.blocks.setdefault(index, Counted())

    def was_there(self, entry: Entry, side: int = 0) -> None:
        """It came before the experiment, or before the block with which the experiment goes on."""
        self._open[entry.id] = _Open(entry, side, None)

    def arrived(self, entry: Entry, unix_s: float, side: int = 0) -> int | None:
        """Count it where it arrives; the block of whose sums it is, None for a burn-in and outside of the experiment."""
        index = self.design.block_at(unix_s, side)
        counted = index if index is not None and unix_s >= self._analysed_from(index) else None
        self._open[entry.id] = _Open(entry, side, counted)
        if counted is not None:
            self.of(counted).requests += 1
        elif index is not None:
            self.of(index).burn_in_requests += 1
        return counted

    def _analysed_from(self, index: int) -> float:
        return self.design.start_unix_s(index) + self.design.burn_in_s

    def began(self, index: int) -> None:
        """Joules are settled up to the end of a block's burn-in: who is there and not of the block is a stranger."""
        for one in self._open.values():
            if one.block != index and self._runs_on(one) == self.design.side_of(index):
                one.strange, one.strange_uj = index, one.entry.energy.active_uj

    def ended(self, index: int) -> None:
        """Joules are settled up to a block's end."""
        for one in self._open.values():
            if one.block == index:
                one.had_uj = one.entry.energy.active_uj
            elif one.strange == index:
                self._carry(one)

    def _runs_on(self, one: _Open) -> int:
        """The side whose joules it uses, or will: its own, unless it went to the other's servers."""
        found = self.side_with(one.entry.server) if one.entry.server else None
        return one.side if found is None else found

    def _carry(self, one: _Open) -> None:
        if one.strange is not None:
            self.of(one.strange).carried_uj += one.entry.energy.active_uj - one.strange_uj
        one.strange = None

    def final(self, entry: Entry) -> None:
        """No more will be known of a request."""
        one = self._open.pop(entry.id, None)
        if one is None:
            return
        self._carry(one)
        if one.block is not None and one.block in self.blocks:
            counted = self.blocks[one.block]
            if one.had_uj is not None:
                counted.boundary_uj += entry.energy.active_uj - one.had_uj
            counted.moved += self._runs_on(one) != one.side
            add(counted, entry, self.design.end_unix_s(one.block))

    def waits_for(self, index: int) -> int:
        """Requests of a block of which more can become known."""
        return sum(one.block == index for one in self._open.values())

    def give_up(self, index: int) -> int:
        """A block is told without those that still run: they are of its requests, and of no other sum. How many they are.

        Those that have ended, and whose joules a meter does not tell, are of every sum but those.
        """
        left = [one for one in self._open.values() if one.block == index]
        running = [one for one in left if one.entry.ended_at is None]
        for one in left:
            one.block = None
            self.of(index).moved += self._runs_on(one) != one.side
            if one.entry.ended_at is not None:
                add(self.of(index), one.entry, self.design.end_unix_s(index))
        self.of(index).crossing += len(running)
        return len(running)

    def told(self, index: int) -> None:
        """A block is written down."""
        self.blocks.pop(index, None)

    def forget(self) -> None:
        """The experiment is over."""
        self.blocks.clear()
        self._open.clear()


def add(counted: Counted, entry: Entry, block_ends_unix_s: float) -> None:
    """A request of the block, of which all is known."""
    inside = entry.duration_s is not None and entry.arrived_unix_s + entry.duration_s <= block_ends_unix_s
    counted.crossing += not inside
    counted.late += is_late(entry)
    if entry.error or not 0 < entry.status < 400:
        counted.errors += entry.error != "client_gone"
        return
    counted.completed += 1
    counted.output_tokens += entry.output_tokens
    counted.prompt_tokens += entry.prompt_tokens
    if inside:
        counted.wait_s.add(entry.held_s + entry.queued_s)
        if entry.streamed and entry.ttft_s is not None and not entry.slack_s:
            counted.ttft_s.add(entry.ttft_s)
        if entry.tpot_s is not None:
            counted.tpot_s.add(entry.tpot_s)


def is_late(entry: Entry) -> bool:
    """It left after its deadline, or was refused for want of a slot."""
    if entry.released_at is None or entry.slack_s is None:
        return entry.outcome in (Outcome.EXPIRED, Outcome.REJECTED)
    return entry.released_at > entry.arrived_at + entry.slack_s + LATE_S


def block_of(index: int, design: Design, counted: Counted) -> Block:
    """The block as it is written down."""
    starts, ends = design.start_unix_s(index), design.end_unix_s(index)
    return Block(
        index=index,
        arm=design.arm_of(index),
        start_unix_s=starts,
        end_unix_s=ends,
        energy_j=None if counted.unmetered else _joules(counted.energy_uj),
        burn_in_j=_joules(counted.burn_in_uj),
        boundary_j=counted.boundary_uj / 1e6,
        carried_j=counted.carried_uj / 1e6,
        source=counted.source,
        requests=counted.requests,
        completed=counted.completed,
        output_tokens=counted.output_tokens,
        prompt_tokens=counted.prompt_tokens,
        errors=counted.errors,
        late=counted.late,
        burn_in_requests=counted.burn_in_requests,
        crossing=counted.crossing,
        unfinished=counted.unfinished,
        ttft_p95_s=counted.ttft_s.quantile(0.95),
        tpot_p95_s=counted.tpot_s.quantile(0.95),
        ttft_of=counted.ttft_s.seen,
        tpot_of=counted.tpot_s.seen,
        wait_p99_s=counted.wait_s.quantile(0.99),
        arrival_rate=counted.requests / (design.block_s - design.burn_in_s),
        temperature_c=counted.temperature_c,
        complete=not counted.faults,
    )


def _joules(uj: int | None) -> float | None:
    return uj / 1e6 if uj is not None else None


@dataclass(frozen=True, slots=True)
class Border:
    """Where something of a block begins or ends.

    Attributes:
        index: of the block.
        ends: whether the block ends here; else its burn-in does.
    """

    index: int
    ends: bool

    def unix_s(self, design: Design) -> float:
        return design.end_unix_s(self.index) if self.ends else design.start_unix_s(self.index) + design.burn_in_s


def borders(design: Design, first: int) -> Iterator[Border]:
    """All of one side that are to come, from a block's begin on."""
    for index in range(first, design.blocks, design.sides):
        yield Border(index, ends=False)
        yield Border(index, ends=True)


@dataclass(slots=True)
class Joules:
    """Adds up what meters counted from border to border, as it is settled; in counterphase, one side's.

    It adds up often and a little at a time, since accounts remember an hour only and blocks may be longer.

    Attributes:
        gap_s: joules that are settled for so long at once cannot be told apart: those of blocks that they touch are unknown.
        between: microjoules and source between two monotonic instants; None while they are not settled.
        at: told of each border up to which all is settled.
    """

    counting: Counting
    gap_s: float
    between: Callable[[float, float], tuple[int, str] | None]
    at: Callable[[Border], None] = lambda border: None
    _left: Iterator[Border] = field(default_factory=lambda: iter(()))
    _next: Border | None = None
    _until: float = -inf  # monotonic
    _settled: float = -inf
    _so_far: int = 0
    _source: str = ""

    def begin(self, first: int, at: float) -> None:
        """Count from a block's begin on, which is at this monotonic instant."""
        self._left = borders(self.counting.design, first)
        self._next = next(self._left, None)
        self._until, self._so_far = at, 0

    def settled(self, until: float, wall_offset_s: float) -> None:
        """All is settled up to an instant, monotonic; `wall_offset_s` more is seconds since the epoch."""
        silent_since, self._settled = max(self._settled, self._until), until
        while self._next is not None and until > self._until:
            border_at = max(self._next.unix_s(self.counting.design) - wall_offset_s, self._until)
            upto = min(until, border_at)
            found = self.between(self._until, upto) if upto > self._until else (0, self._source)
            if found is None:
                return
            self._so_far, self._source = self._so_far + found[0], found[1]
            self._until = upto
            if until - silent_since > self.gap_s and upto > silent_since:
                self._silent(self._next.index, until - silent_since)
            if upto < border_at:
                return
            self._pass(self._next)

    def _silent(self, index: int, seconds: float) -> None:
        unmetered, why = self.counting.of(index).unmetered, f"the meter told nothing for {seconds:.1f} s"
        if not any(known.startswith("the meter told nothing") for known in unmetered):
            unmetered.append(why)

    def _pass(self, border: Border) -> None:
        counted = self.counting.of(border.index)
        if border.ends:
            counted.energy_uj, counted.source = self._so_far, self._source
            self.counting.ended(border.index)
        else:
            counted.burn_in_uj = self._so_far
            self.counting.began(border.index)
        self._so_far, self._next = 0, next(self._left, None)
        self.at(border)
