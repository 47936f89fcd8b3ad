"""Runs strategies over the same arrivals, on one core or several, and the clairvoyant optimum beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from multiprocessing import get_context

from bench.simulation.figures import Figures, figures, level, sleeping_at_end
from bench.simulation.footprint import Footprint, even, metered
from bench.simulation.strategies import Pairing
from policies.clairvoyant import Optimum, Replay, clairvoyant
from policies.minimum_span import TooLarge
from policies.pack import Pack
from policies.simulate import Arrival, Run, Simulation, simulate
from policies.spread import Spread
from policies.strategy import Strategy
from telemetry.cost import StepModel
from telemetry.factors import Rate

CLAIRVOYANT = "clairvoyant schedule"
REFUSED = "There is no clairvoyant bound: it is of all requests, and strategies that refuse some do less work."
MOST_STATES = 400_000  # about half a minute

Watch = Callable[[str, float], None]  # which strategy, and which part of it is done


@dataclass(frozen=True, slots=True)
class Setting:
    """What all strategies have in common.

    Attributes:
        arrivals: in order of time.
        model: of each server.
        servers: how many.
        slots: of each; None: no limit.
        queue_timeout_s: longest wait for a slot.
        wall_offset_s: seconds since the epoch at the first instant.
        rate: what a kilowatt-hour stands for over time; None: only joules are told.
        notes: what is to be said of the arrivals.
    """

    arrivals: Sequence[Arrival]
    model: StepModel
    servers: int = 1
    slots: int | None = None
    queue_timeout_s: float = inf
    wall_offset_s: float = 0.0
    rate: Rate | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """What a simulation found.

    Attributes:
        strategies: the first is straight through.
        optimum: None: it was not asked for, or is too large.
        achieved: the optimum's own schedule, simulated.
        without: why there is no optimum.
    """

    strategies: Sequence[Figures]
    optimum: Optimum | None = None
    achieved: Figures | None = None
    without: str = ""

    @property
    def straight(self) -> Figures:
        return self.strategies[0]

    @property
    def least_active(self) -> Figures:
        """Of those that served as many as straight through, the one of the fewest active joules."""
        return min(self.strategies, key=lambda one: (-one.completed, one.active_j))


def perform(
    setting: Setting, pairings: Sequence[Pairing], *, jobs: int = 1, bound: bool = True, watch: Watch = lambda name, part: None
) -> Found:
    """Simulate each pairing.

    Args:
        setting: what they have in common.
        pairings: the first is what the others are compared with.
        jobs: processes; with more than one, `watch` is told of whole strategies only.
        bound: whether to look for the clairvoyant optimum, too.
        watch: told of progress.
    """
    ran = list(_in_parallel(setting, pairings, jobs, watch) if jobs > 1 else _one_by_one(setting, pairings, watch))
    refused = any(one.refused for one, _ in ran)
    optimum, without = _optimum(setting, watch) if bound and not refused else (None, REFUSED if bound else "")
    achieved = _achieved(setting, optimum, watch) if optimum is not None else None
    until_s = max(one.until_s for one, _ in (*ran, *([achieved] if achieved else [])))
    levelled = [_level(setting, until_s, *one) for one in ran]
    return Found(levelled, optimum, _level(setting, until_s, *achieved) if achieved else None, without)


def _level(setting: Setting, until_s: float, found: Figures, asleep: int) -> Figures:
    levelled = level(found, until_s, setting.model, setting.servers - asleep, asleep)
    if setting.rate is None or found.footprint is None:
        return levelled
    more = even(setting.rate, setting.wall_offset_s, found.until_s, until_s, levelled.idle_j - found.idle_j)
    return replace(levelled, footprint=found.footprint + more)


def _one_by_one(setting: Setting, pairings: Sequence[Pairing], watch: Watch) -> Iterator[tuple[Figures, int]]:
    for pairing in pairings:
        yield _run(setting, str(pairing), pairing.build(), pairing.swept, watch)


def _in_parallel(setting: Setting, pairings: Sequence[Pairing], jobs: int, watch: Watch) -> list[tuple[Figures, int]]:
    with ProcessPoolExecutor(min(jobs, len(pairings)), get_context("spawn")) as pool:
        told = {pool.submit(_run_pairing, setting, pairing): pairing for pairing in pairings}
        for done in as_completed(told):
            done.result()
            watch(str(told[done]), 1.0)
    return [done.result() for done in told]


def _run_pairing(setting: Setting, pairing: Pairing) -> tuple[Figures, int]:
    return _run(setting, str(pairing), pairing.build(), pairing.swept, lambda name, part: None)


def _run(setting: Setting, name: str, strategy: Strategy, swept: str, watch: Watch) -> tuple[Figures, int]:
    """The figures, and how many servers slept at the end."""
    began = time.perf_counter()
    run, footprint = _simulated(setting, strategy, partial(_tell, setting.arrivals[-1].waiting.arrived_at, name, watch, [0.0]))
    watch(name, 1.0)
    if setting.model.sleep_power_w is None:
        run.actions.clear()  # who cannot sleep was told to, and stayed awake
    seconds = time.perf_counter() - began
    told = {"seconds": seconds, "swept": swept, "described": strategy.describe(), "footprint": footprint}
    return figures(name, run, **told), sleeping_at_end(run)


def _simulated(setting: Setting, strategy: Strategy, watch: Callable[[float], None]) -> tuple[Run, Footprint | None]:
    if setting.rate is None:
        run = simulate(
            setting.arrivals,
            strategy,
            setting.model,
            servers=setting.servers,
            slots=setting.slots,
            queue_timeout_s=setting.queue_timeout_s,
            wall_offset_s=setting.wall_offset_s,
            watch=watch,
        )
        return run, None
    names = dict.fromkeys((f"engine-{number}" for number in range(setting.servers)), setting.slots)
    simulation = Simulation(
        strategy, setting.model, names, queue_timeout_s=setting.queue_timeout_s, wall_offset_s=setting.wall_offset_s
    )
    return metered(simulation, setting.arrivals, setting.rate, watch)


def _tell(last_s: float, name: str, watch: Watch, told: list[float], now: float) -> None:
    """At every hundredth part."""
    part = min(now / last_s, 1.0) if last_s > 0 else 1.0
    if part >= told[0] + 0.01:
        told[0] = part
        watch(name, part)


def _optimum(setting: Setting, watch: Watch) -> tuple[Optimum | None, str]:
    watch("clairvoyant bound", 0.0)
    try:
        return clairvoyant(setting.arrivals, setting.model, MOST_STATES), ""
    except TooLarge as error:
        return None, f"the clairvoyant optimum is too large to find here: {error}"
    finally:
        watch("clairvoyant bound", 1.0)


def _achieved(setting: Setting, optimum: Optimum, watch: Watch) -> tuple[Figures, int]:
    placement = Pack(setting.model.max_sequences) if setting.servers > 1 else Spread()
    strategy = Strategy(Replay(optimum.releases), placement, "replay", "pack" if setting.servers > 1 else "spread")
    found, asleep = _run(setting, CLAIRVOYANT, strategy, "", watch)
    return replace(found, described={}), asleep
