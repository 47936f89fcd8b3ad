"""A measured run again, in simulated time: the same arrivals through the same room and the model's engine."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from bench.fit_profile import replay
from bench.reckoning import percentiles
from bench.validation.case import ROUNDED, Case, Figures, mean_figures, scatter
from policies.simulate import Arrival, Served, Simulation
from policies.strategy import build
from telemetry.cost import StepModel


def simulated(case: Case, model: StepModel) -> Figures:
    """The figures that the simulator has for a case, the mean over its draws.

    Joules are counted over the measured window; over a longer time, if the simulated load ends later than that.

    Raises:
        ValueError: somebody was never served.
    """
    if case.closed is not None:
        wall_s, energy_j = replay(case.closed, model)
        above_j = energy_j - model.idle_power_w * (case.closed.metered_s - case.closed.wall_s + wall_s)
        return _energy(energy_j, above_j, case.closed.requests, model, 1) | {"duration_s": wall_s}
    draws = [_once(case, draw, model) for draw in case.draws]
    return {**mean_figures(draws), **scatter(draws)}


def _once(case: Case, coming: Sequence[Arrival], model: StepModel) -> Figures:
    names: dict[str, int | None] = dict.fromkeys(f"engine-{n}" for n in range(case.servers))
    simulation = Simulation(build(case.policy, case.placement), model, names, began_at=case.since_s)
    served: list[Served] = []
    simulation.on_served = served.append
    for arrival in coming:
        simulation.arrive(arrival)
    while not simulation.over and simulation.next_at < inf:
        simulation.advance(simulation.next_at)
    done = [one for one in served if one.ended_at < inf]
    if len(done) < len(coming):
        raise ValueError(f"{case.study}, {case.arm}: {len(coming) - len(done)} of {len(coming)} were never served")
    ended_at = max(one.ended_at for one in done)
    window_s = max(case.window_s, ended_at - case.since_s)
    simulation.advance(case.since_s + window_s)
    energy_j = sum(simulation.energy_j().values())
    above_j = energy_j - case.servers * model.idle_power_w * window_s
    first_at = min(one.waiting.arrived_at for one in done)
    return _energy(energy_j, above_j, len(done), model, case.servers) | {"duration_s": ended_at - first_at} | _waits(done)


def _energy(energy_j: float, above_j: float, requests: int, model: StepModel, servers: int) -> dict[str, float]:
    return {
        "j_per_request": energy_j / requests,
        "idle_power_w": model.idle_power_w * servers,
        "above_idle_j_per_request": above_j / requests,
    }


def _waits(done: Sequence[Served]) -> dict[str, float]:
    """Seconds at the ranks that are compared."""
    values = {
        "wait": [one.wait_s for one in done],
        "ttft": [one.ttft_s for one in done],
        "tpot": [one.tpot_s for one in done if one.output_tokens > 1],
        "e2e": [one.ended_at - one.waiting.arrived_at for one in done],
    }
    found = {name: percentiles(of) for name, of in values.items()}
    return {f"{name}_{rank}_s": getattr(p, rank) for name, p in found.items() if p is not None for rank in ROUNDED}
