"""What a simulated run's joules stand for in grams or money, when a kilowatt-hour's value changes over time.

The joules of all servers, idle ones included, are read whenever the value changes; each interval's joules count with the value
that holds in it. Where none is known, joules count for nothing and are told as such: the nearest value is never taken.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from pathlib import Path

from bench.draws import BadSpec
from policies.base import Policy
from policies.carbon import Carbon
from policies.simulate import Arrival, Run, Simulation
from telemetry.factors import GRAMS, Rate, read_rate

STEP_S = 3600.0  # a file's last value holds so long, as in `energy.carbon.step_s`
UNIT = re.compile(r"(.*?\S)(?:\s*/\s*|[_\s]+per[_\s]+)kwh$", re.IGNORECASE)  # a header such as gCO2/kWh or eur_per_kwh
Span = tuple[float, float, float]  # simulated seconds from and until, and joules


@dataclass(frozen=True, slots=True)
class Footprint:
    """What joules stand for.

    Attributes:
        unit: grams (g), or what the file's values are of.
        amount: of all joules whose value is known.
        unknown_j: joules at times for which the file has no value.
    """

    unit: str
    amount: float
    unknown_j: float

    def __add__(self, other: Footprint) -> Footprint:
        return Footprint(self.unit, self.amount + other.amount, self.unknown_j + other.unknown_j)


def rate_for(file: Path | None, policies: Iterable[Policy]) -> Rate | None:
    """The rate in a file or, where none is asked for, in the one that the policies themselves look at.

    Raises:
        BadSpec: the file cannot be read, or the policies look at several.
    """
    known = {Path(one.file): one.step_s for policy in policies for one in _within(policy)}
    if file is None and len(known) > 1:
        raise BadSpec(f"policies look at {len(known)} files; --carbon FILE says which one's values count")
    chosen = file or next(iter(known), None)
    if chosen is None:
        return None
    try:
        unit = _unit(chosen) or (GRAMS if file is not None else "units")
        return read_rate(chosen, unit, str(chosen), known.get(chosen, STEP_S))
    except ValueError as error:
        raise BadSpec(str(error)) from error


def _within(policy: Policy | None) -> Iterator[Carbon]:
    """A policy and those that it goes around, as far as they are `carbon`."""
    while policy is not None:
        if isinstance(policy, Carbon):
            yield policy
        policy = getattr(policy, "policy", None)


def _unit(file: Path) -> str:
    """What the header of the second column says; empty: nothing that is understood."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            cells = next(csv.reader(text), [])
    except (OSError, csv.Error, UnicodeDecodeError):
        return ""  # who reads the values says why
    found = UNIT.match(cells[1].strip()) if len(cells) == 2 else None
    return found[1] if found else ""


def changes(rate: Rate, wall_offset_s: float) -> list[float]:
    """Simulated seconds at which another value begins, or none holds any more; only those after the begin."""
    ends = (since + rate.step_s for since in rate.since_unix_s) if rate.step_s < inf else ()
    instants = {at - wall_offset_s for at in (*rate.since_unix_s, *ends)}
    return sorted(at for at in instants if 0 < at < inf)


def weigh(rate: Rate, wall_offset_s: float, spans: Iterable[Span]) -> Footprint:
    """What the joules of spans stand for, in none of which the value changes."""
    amount = unknown_j = 0.0
    for begins, ends, joules in spans:
        factor = rate.at(wall_offset_s + (begins + ends) / 2)  # the middle: at an edge, clocks are not exact
        if factor is None:
            unknown_j += joules
        else:
            amount += factor.of(round(joules * 1e6))
    return Footprint(rate.unit, amount, unknown_j)


def even(rate: Rate, wall_offset_s: float, begins: float, ends: float, joules: float) -> Footprint:
    """What joules stand for that are drawn evenly over a time."""
    inside = [at for at in changes(rate, wall_offset_s) if begins < at < ends]
    spans = pairwise([begins, *inside, ends]) if ends > begins else ()
    return weigh(rate, wall_offset_s, [(a, b, joules * (b - a) / (ends - begins)) for a, b in spans])


def covered_s(rate: Rate, wall_offset_s: float, until_s: float) -> float:
    """So many of the seconds until then have a known value."""
    inside = [at for at in changes(rate, wall_offset_s) if at < until_s]
    return sum(b - a for a, b in pairwise([0.0, *inside, until_s]) if rate.at(wall_offset_s + (a + b) / 2) is not None)


def metered(
    simulation: Simulation, arrivals: Sequence[Arrival], rate: Rate, watch: Callable[[float], None]
) -> tuple[Run, Footprint]:
    """The same run as `policies.simulate.simulate`, and what its joules stand for.

    Args:
        simulation: that has seen nobody yet.
        arrivals: in order of time.
        rate: what a kilowatt-hour stands for.
        watch: told of each instant that has been simulated.

    Raises:
        ValueError: somebody never leaves.
    """
    run = Run()
    simulation.on_served = lambda served: run.served.__setitem__(served.waiting.id, served)
    for arrival in arrivals:
        simulation.arrive(arrival)
    at, read_j = [simulation.now], [0.0]
    for edge in (*changes(rate, simulation.wall_offset_s), inf):
        simulation.play(edge, watch)
        simulation.advance(simulation.now if simulation.over else edge)
        at.append(simulation.now)
        run.energy_j = simulation.energy_j()
        read_j.append(sum(run.energy_j.values()))
        if simulation.over:
            break
    run.served = {arrival.waiting.id: run.served[arrival.waiting.id] for arrival in arrivals}
    run.ended_at, run.faults, run.actions = simulation.now, simulation.faults, simulation.actions
    spans = [(*times, after - before) for times, (before, after) in zip(pairwise(at), pairwise(read_j), strict=True)]
    return run, weigh(rate, simulation.wall_offset_s, spans)
