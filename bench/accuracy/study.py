"""Runs the cells: each traffic is served once a seed, and settled again for every cell that looks at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product

from bench.accuracy.cells import MODELS, Cell, Plan
from bench.accuracy.figures import Figures, figures
from bench.accuracy.metering import Metered, meter
from bench.accuracy.replay import Settled, replay
from bench.accuracy.traffic import Traffic, serve
from telemetry.cost import BUILT_IN, StepModel, load_profile

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One cell on one seed."""

    cell: Cell
    mean_batch: float
    metered: Metered
    settled: Settled


def study(plan: Plan, seeds: int, processes: int, tell: Tell) -> list[Figures]:
    """All cells in the plan's order; what is found depends on plan and seeds alone, but for the times that settling took."""
    outcomes: dict[Cell, list[Outcome]] = {cell: [] for cell in plan.cells}
    work = list(product(plan.traffics, range(1, seeds + 1)))
    for number, done in enumerate(_done(plan, work, processes), 1):
        for outcome in done:
            outcomes[outcome.cell].append(outcome)
        traffic = done[0].cell.traffic
        tell(f"{number}/{len(work)}  {traffic.shape} {traffic.rate:g}/s: {len(done)} cells")
    return [
        figures(cell, [o.mean_batch for o in found], [o.metered for o in found], [o.settled for o in found])
        for cell, found in outcomes.items()
    ]


def _done(plan: Plan, work: list[tuple[Traffic, int]], processes: int) -> Iterator[list[Outcome]]:
    one = partial(_settle_all, plan, load_profile(BUILT_IN))
    if processes == 1:
        yield from map(one, work)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(one, work)


def _settle_all(plan: Plan, model: StepModel, work: tuple[Traffic, int]) -> list[Outcome]:
    """All cells that look at one traffic."""
    traffic, seed = work
    run = serve(traffic, model, seed)
    metered: dict[object, Metered] = {}
    found = []
    for cell in plan.cells:
        if cell.traffic != traffic:
            continue
        if cell.metering not in metered:
            metered[cell.metering] = meter(run, cell.metering, model.idle_power_w, seed)
        readings = metered[cell.metering]
        settled = replay(run, readings, cell.sight, MODELS[cell.model].of(model), seed)
        found.append(Outcome(cell, run.mean_batch, Metered([], readings.foreign_j), settled))
    return found
