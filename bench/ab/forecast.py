"""Before an experiment: how small a difference it can be expected to show, from what former blocks or the simulator say.

What counts is how far pairs of blocks differ by chance: the standard deviation of ln(treatment / control) over pairs. Former
experiments of the same servers tell it, if their blocks were about as long. Else the control strategy is simulated against
itself on requests drawn from the proxy's latest ones, arriving at random at their mean rate. Real traffic comes in waves, and
real servers warm up, so the simulated figure is too small rather than too large.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import stdev
from tempfile import TemporaryDirectory
from typing import Any

from bench.ab.client import Client
from bench.ab.document import Document
from bench.advise import live
from bench.draws import BadSpec
from bench.experiments.simulated import simulated_blocks
from bench.simulation.traces import load
from policies.simulate import Arrival
from policies.strategy import Strategy
from proxy.admin_address import AdminAddress
from telemetry.blocks import Block
from telemetry.cost import load_profile
from telemetry.design import Design
from telemetry.detection import detectable, needed
from telemetry.pairs import METRICS, paired

ALIKE = 1.5  # block lengths that differ by more say little of each other
FEWEST_PAIRS = 5
MOST_REQUESTS = 20_000  # simulated: a few seconds
SIMULATED_PAIRS, MOST_PAIRS = 12, 40
POWER = 0.8


@dataclass(frozen=True, slots=True)
class Forecast:
    """How much pairs differ by chance.

    Attributes:
        sd: of ln(treatment / control) over pairs.
        pairs: it was had from so many.
        source: from where, in words.
        simulated: whether the joules were the model's.
    """

    sd: float
    pairs: int
    source: str
    simulated: bool

    def detectable(self, pairs: int, alpha: float) -> float:
        """The smallest relative difference that so many pairs show in four of five experiments."""
        return detectable(self.sd, pairs, alpha, POWER)

    def needed(self, effect: float, alpha: float) -> int | None:
        """Pairs that show a saving of so much; None: more than anybody makes."""
        return needed(-effect, self.sd, alpha, POWER)


@dataclass(frozen=True, slots=True)
class Unknown:
    """There is no forecast; why."""

    why: str


def from_past(former: Iterable[Document], design: Design, metric: str) -> Forecast | None:
    """Of the former experiments that are like this one, what the one with most pairs says."""
    best: Forecast | None = None
    for one in former:
        alike = 1 / ALIKE <= one.design.block_s / design.block_s <= ALIKE and one.design.parallel == design.parallel
        differences = log_ratios(one.blocks, one.design, metric)
        if alike and len(differences) >= max(FEWEST_PAIRS, best.pairs if best is not None else 0):
            told = f"the {len(differences)} pairs of {one.name!r} (blocks of {one.design.block_s:g} s)"
            simulated = any(block.source in ("simulated", "modelled") for block in one.blocks)
            best = Forecast(stdev(differences), len(differences), told, simulated)
    return best


def log_ratios(blocks: Sequence[Block], design: Design, metric: str) -> list[float]:
    """ln(treatment / control) of each pair that can be analysed."""
    pairs, _ = paired(blocks, design, metric)
    return [value for pair in pairs if (value := pair.log_ratio(METRICS[metric])) is not None]


def from_simulator(at: AdminAddress, group: str | None, control: Strategy, design: Design, metric: str) -> Forecast | Unknown:
    """Control against itself on requests like the proxy's latest."""
    try:
        with TemporaryDirectory() as folder:
            told = live.ask(at, group, Path(folder))
            known = load(told.ledger, format="ledger").arrivals
            model = load_profile(told.profile)
    except (live.NotTold, BadSpec, ValueError, OSError) as error:
        return Unknown(str(error))
    if design.parallel and told.servers < 2:
        return Unknown("a split needs two servers")
    span_s = known[-1].waiting.arrived_at
    if len(known) < 20 or span_s <= 0:
        return Unknown(f"the proxy has seen {len(known)} whole requests, too few to simulate")
    rate = (len(known) - 1) / span_s
    like = affordable(design, rate)
    coming = drawn(known, rate, like.ends_unix_s, Random(f"forecast {design.seed}"))
    blocks = simulated_blocks(coming, control, control, like, model, servers=told.servers, slots=told.slots)
    differences = log_ratios(blocks, like, metric)
    if len(differences) < 2:
        return Unknown(f"at {rate:.2g} requests a second, blocks of {design.block_s:g} s are empty too often to be compared")
    # what is counted twice as long varies by half as much, squared
    scaled = ((like.block_s - like.burn_in_s) / (design.block_s - design.burn_in_s)) ** 0.5
    said = f"{len(differences)} pairs simulated with {model.name} on requests like the latest {len(known)} ({rate:.2g}/s)"
    said += f", of blocks of {like.block_s:.0f} s, scaled" if scaled < 1 else ""
    return Forecast(scaled * stdev(differences), len(differences), said, simulated=True)


def affordable(design: Design, rate: float) -> Design:
    """Like it, with as many pairs as take seconds to simulate; with shorter blocks, if those would be too few."""
    pairs = int(MOST_REQUESTS / (rate * design.block_s * 2))
    if pairs >= SIMULATED_PAIRS:
        return replace(design, began_unix_s=design.block_s, pairs=min(pairs, MOST_PAIRS))
    counted_s = max(MOST_REQUESTS / (rate * 2 * SIMULATED_PAIRS) - design.burn_in_s, 0.1 * design.burn_in_s, 1.0)
    block_s = min(design.burn_in_s + counted_s, design.block_s)
    return replace(design, began_unix_s=block_s, block_s=block_s, pairs=SIMULATED_PAIRS)


def drawn(known: Sequence[Arrival], rate: float, until_s: float, random: Random) -> list[Arrival]:
    """Requests like the known ones, each drawn from them, arriving at random."""
    found: list[Arrival] = []
    at = random.expovariate(rate)
    while at < until_s:
        like = random.choice(known)
        slack_s = like.waiting.deadline - like.waiting.arrived_at
        waiting = replace(like.waiting, id=f"r-{len(found)}", arrived_at=at, deadline=at + slack_s)
        found.append(Arrival(waiting, like.output_tokens))
        at += random.expovariate(rate)
    return found


def forecast(client: Client, asked: Mapping[str, Any], control: Strategy, design: Design) -> Forecast | Unknown:
    """From the past where it says enough, else from the simulator."""
    group, metric = asked.get("group"), asked["metric"]
    alike = [one for one in client.all_of_them() if not group or one.group == group]
    return from_past(alike, design, metric) or from_simulator(client.at, group, control, design, metric)
