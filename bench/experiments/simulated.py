"""A whole switchback in the simulator, told in the same blocks that a live one is told in. All joules are the model's.

Joules of a block are the engines' counters between the instants of its borders, idle included. What crosses a border is told
beside them, from what each request's steps have been charged by then (`bench/experiments/looking.py`).

In counterphase a block is one side's: its requests, and its engines' counters.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from types import MappingProxyType

from bench.experiments.looking import ChargingEngine, Look, look
from policies.sides import BOTH, Split
from policies.simulate import Arrival, Served, Simulation
from policies.split import counterphase
from policies.strategy import Strategy
from policies.switchback import ruling, switchback
from telemetry.blocks import Block, quantile
from telemetry.cost import StepModel
from telemetry.design import Design
from telemetry.snapshot import Source

ROUNDING_S = 1e-6


def simulated_blocks(
    arrivals: Iterable[Arrival],
    control: Strategy,
    treatment: Strategy,
    design: Design,
    model: StepModel,
    *,
    servers: int = 1,
    slots: int | None = None,
    queue_timeout_s: float = inf,
    wall_offset_s: float = 0.0,
    watch: Callable[[float], None] = lambda now: None,
    models: Mapping[str, StepModel] = MappingProxyType({}),
) -> list[Block]:
    """Run arrivals through a switchback, and tell each of its blocks.

    Those who arrive after the last block are there as well, so it ends like the others.

    Args:
        arrivals: in any order; before the first block they warm the servers up.
        control: whose blocks are `design.CONTROL`.
        treatment: whose are the others; it may be the same (A/A).
        design: its instants are seconds since the epoch.
        model: each engine's step model.
        servers: how many engines.
        slots: each server's; None is no limit.
        queue_timeout_s: longest wait for a slot.
        wall_offset_s: what to add to an arrival's seconds for seconds since the epoch.
        watch: told of each border that has been simulated, in seconds since the epoch.
        models: of engines that are not as `model` says, by their names: engine-0, engine-1, ...

    Raises:
        ValueError: one server cannot be in counterphase; or somebody of a block never leaves, since a placement sends him
            nowhere.
    """
    coming = sorted(arrivals, key=lambda arrival: arrival.waiting.arrived_at)
    began_at = min([design.began_unix_s - wall_offset_s, *(one.waiting.arrived_at for one in coming[:1])])
    names = dict.fromkeys((f"engine-{n}" for n in range(servers)), slots)
    split = halves(list(names), design.seed) if design.parallel else None
    strategy = counterphase(design, split, control, treatment) if split else switchback(design, control, treatment)
    simulation = Simulation(
        strategy, model, names, queue_timeout_s=queue_timeout_s, began_at=began_at, wall_offset_s=wall_offset_s
    )
    simulation.engines = {name: ChargingEngine(models.get(name, model), clock=began_at) for name in names}
    served: list[Served] = []
    simulation.on_served = served.append
    for arrival in coming:
        simulation.arrive(arrival)
    looks = list(_looks(simulation, design, watch))
    _finish(simulation, design.ends_unix_s - wall_offset_s)
    if split is None:
        return blocks_of(served, design, looks, wall_offset_s)
    told = (_blocks_of_side(side, split, served, design, looks, wall_offset_s) for side in BOTH)
    return [block for both in zip(*told, strict=True) for block in both]


def halves(names: Sequence[str], seed: int) -> Split:
    """Engines that have a meter each, parted in two.

    Raises:
        SplitRefused: there is one only.
    """
    return Split(tuple(names[: len(names) // 2]), tuple(names[len(names) // 2 :]), seed)


def _blocks_of_side(
    side: int, split: Split, served: Sequence[Served], design: Design, looks: Sequence[Look], wall_offset_s: float
) -> list[Block]:
    """One side's, as if it were all there is; then with the numbers that they have in the whole."""
    own = [one for one in served if split.side_of(one.waiting) == side]
    seen = [one.of_servers(split.servers(side)) for one in looks]
    blocks = blocks_of(own, design.of_side(side), seen, wall_offset_s)
    return [replace(block, index=design.blocks_in(block.index)[side]) for block in blocks]


def _instants(design: Design) -> Iterator[float]:
    """Each window's begin and its burn-in's end, and the end of the last."""
    for window in range(design.windows):
        yield design.window_starts_unix_s(window)
        yield design.window_starts_unix_s(window) + design.burn_in_s
    yield design.ends_unix_s


def _looks(simulation: Simulation, design: Design, watch: Callable[[float], None]) -> Iterator[Look]:
    for unix_s in _instants(design):
        simulation.advance(unix_s - simulation.wall_offset_s)
        watch(unix_s)
        yield look(simulation)


def _finish(simulation: Simulation, ended_at: float) -> None:
    """Go on until everybody of the experiment has ended."""
    left = {id for id, one in simulation.open.items() if one.waiting.arrived_at < ended_at}
    while left:
        if simulation.next_at == inf:
            raise ValueError(f"{len(left)} requests never leave: the placement sends them nowhere")
        simulation.advance(simulation.next_at)
        left &= simulation.open.keys()


@dataclass(slots=True)
class _Counted:
    """A block's requests, and joules that crossed its borders."""

    served: list[Served] = field(default_factory=list)
    burn_in_requests: int = 0
    boundary_j: float = 0.0
    carried_j: float = 0.0


def blocks_of(served: Sequence[Served], design: Design, looks: Sequence[Look], wall_offset_s: float = 0.0) -> list[Block]:
    """The blocks of requests, and of what was seen at the borders.

    Args:
        served: everybody who was there, ended or refused.
        design: of the switchback.
        looks: at each block's begin and at its burn-in's end, in turn, and at the end of the last.
        wall_offset_s: what to add to simulated seconds for seconds since the epoch.
    """
    counted = [_Counted() for _ in range(design.blocks)]
    instants = [unix_s - wall_offset_s for unix_s in _instants(design)]
    for one in served:
        own = _sort_in(one, design, counted, wall_offset_s)
        if one.ended_at < inf:
            _charge(one, own, counted, instants, looks)
    return [_block(index, design, counted[index], looks, wall_offset_s) for index in range(design.blocks)]


def _sort_in(one: Served, design: Design, counted: Sequence[_Counted], wall_offset_s: float) -> int | None:
    """Count a request where it arrived; the block, if it is of its sums."""
    unix_s = one.waiting.arrived_at + wall_offset_s
    index = ruling(design, unix_s).block
    if not 0 <= index < design.blocks:
        return None
    if unix_s < design.start_unix_s(index) + design.burn_in_s:
        counted[index].burn_in_requests += 1
        return None
    counted[index].served.append(one)
    return index


def _charge(
    one: Served, own: int | None, counted: Sequence[_Counted], instants: Sequence[float], looks: Sequence[Look]
) -> None:
    """Tell a request's joules to the blocks whose analysed part lacks them, or has them though it is not theirs."""

    def charged_j(number: int) -> float:
        return looks[number].of(one, instants[number])

    if own is not None:
        counted[own].boundary_j += one.energy_j - charged_j(2 * own + 2)
    first = max(bisect_right(instants, one.released_at) - 1, 0) // 2
    last = min(bisect_right(instants, one.ended_at) // 2, len(counted) - 1)
    for index in range(first, last + 1):
        if index != own:
            counted[index].carried_j += charged_j(2 * index + 2) - charged_j(2 * index + 1)


def _block(index: int, design: Design, counted: _Counted, looks: Sequence[Look], wall_offset_s: float) -> Block:
    begins, ends = design.start_unix_s(index), design.end_unix_s(index)
    done = [one for one in counted.served if one.ended_at < inf]
    inside = [one for one in done if one.ended_at + wall_offset_s <= ends]
    first_s = [one.ttft_s for one in inside if one.waiting.deadline <= one.waiting.arrived_at]
    token_s = [one.tpot_s for one in inside if one.output_tokens > one.waiting.sequences]
    late = sum(one.released_at - one.waiting.deadline > ROUNDING_S for one in counted.served)
    at_begin, at_burn_in, at_end = (seen.energy_j for seen in looks[2 * index : 2 * index + 3])
    return Block(
        index=index,
        arm=design.arm_of(index),
        start_unix_s=begins,
        end_unix_s=ends,
        energy_j=at_end - at_burn_in,
        burn_in_j=at_burn_in - at_begin,
        boundary_j=counted.boundary_j,
        carried_j=counted.carried_j,
        source=Source.SIMULATED.value,
        requests=len(counted.served),
        completed=len(done),
        output_tokens=sum(one.output_tokens for one in done),
        prompt_tokens=sum(one.waiting.prompt_tokens for one in done),
        errors=len(counted.served) - len(done),
        late=late,
        burn_in_requests=counted.burn_in_requests,
        crossing=len(done) - len(inside),
        ttft_p95_s=quantile(first_s, 0.95),
        tpot_p95_s=quantile(token_s, 0.95),
        ttft_of=len(first_s),
        tpot_of=len(token_s),
        wait_p99_s=quantile([one.wait_s for one in inside], 0.99),
        arrival_rate=len(counted.served) / (design.block_s - design.burn_in_s),
    )
