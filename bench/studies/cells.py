"""What a journal says: a cell for each rate and arm, from its pairs with straight through at the same rate and seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

from bench.reckoning import percentiles
from bench.report import Percentiles
from bench.studies.arms import STRAIGHT
from bench.studies.intervals import Interval, ratio_interval
from bench.studies.journal import good

ENOUGH = 300  # completed requests in each arm of a cell, below which it is marked

Run = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Side:
    """One arm's runs of a cell: means over runs, but tokens' times over all their requests."""

    requests: int
    j_per_request: float
    mean_power_w: float
    unattributed_share: float
    wait_p50_s: float
    wait_p99_s: float
    ttft_p50_s: float | None
    ttft_p99_s: float | None
    tpot_p50_s: float | None
    tpot_p99_s: float | None
    group_mean: float | None
    in_flight_mean: float | None
    devices_w: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Cell:
    """One rate and arm against straight through.

    Attributes:
        saving: joules straight through over joules of the arm, whole counters, idle included, by pairs.
        ttft_p99_ratio: of the arm over straight through, by pairs, as is the next; more is slower.
        void: runs of it that say nothing and that no better one replaces.
    """

    rate: float
    arm: str
    hold_s: float
    source: str
    pairs: int
    void: int
    saving: Interval
    ttft_p99_ratio: Interval | None
    tpot_p99_ratio: Interval | None
    straight: Side
    side: Side

    @property
    def enough(self) -> bool:
        return min(self.straight.requests, self.side.requests) >= ENOUGH

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "enough": self.enough}


def cells(runs: Sequence[Run]) -> list[Cell]:
    """Every rate and arm that has a pair, in order of rate and name."""
    best = {run["id"]: run for run in runs if good(run)}
    void = [run for run in {run["id"]: run for run in runs}.values() if run["id"] not in best]
    straight = {_load(run): run for run in best.values() if run["arm"]["name"] == str(STRAIGHT)}
    pairs: dict[tuple[float, str], list[tuple[Run, Run]]] = defaultdict(list)
    for run in best.values():
        if run["arm"]["name"] != str(STRAIGHT) and _load(run) in straight:
            pairs[run["rate"], run["arm"]["name"]].append((straight[_load(run)], run))
    return [_cell(rate, arm, pairs[rate, arm], void) for rate, arm in sorted(pairs)]


def _load(run: Run) -> tuple[float, int, int]:
    return run["rate"], run["seed"], run["requests"]


def _cell(rate: float, arm: str, pairs: list[tuple[Run, Run]], void: Iterable[Run]) -> Cell:
    saving = ratio_interval([_j(first) / _j(second) for first, second in pairs])
    assert saving is not None  # there is a pair
    return Cell(
        rate=rate,
        arm=arm,
        hold_s=pairs[0][1]["arm"]["hold_s"],
        source="/".join(sorted({run["report"]["energy"]["source"] for pair in pairs for run in pair})),
        pairs=len(pairs),
        void=sum(run["rate"] == rate and run["arm"]["name"] == arm for run in void),
        saving=saving,
        ttft_p99_ratio=_slower(pairs, "ttft_s"),
        tpot_p99_ratio=_slower(pairs, "tpot_s"),
        straight=_side([first for first, _ in pairs]),
        side=_side([second for _, second in pairs]),
    )


def _j(run: Run) -> float:
    return float(run["report"]["energy"]["j_per_request"])


def _slower(pairs: list[tuple[Run, Run]], what: str) -> Interval | None:
    """How many times the arm's 99th percentile is straight through's."""
    tails = [[percentiles(run["samples"][what]) for run in pair] for pair in pairs]
    return ratio_interval([second.p99 / first.p99 for first, second in tails if first and second and first.p99 > 0])


def _side(runs: Sequence[Run]) -> Side:
    reports = [run["report"] for run in runs]
    energy = [report["energy"] for report in reports]
    waits = [report["latency"]["all"]["wait_s"] for report in reports]
    first, each = _pooled(runs, "ttft_s"), _pooled(runs, "tpot_s")
    return Side(
        requests=sum(report["completed"] for report in reports),
        j_per_request=mean(_j(run) for run in runs),
        mean_power_w=mean(used["mean_power_w"] for used in energy),
        unattributed_share=sum(used["unattributed_j"] for used in energy) / sum(used["counted_j"] for used in energy),
        wait_p50_s=mean(wait["p50"] for wait in waits if wait),
        wait_p99_s=mean(wait["p99"] for wait in waits if wait),
        ttft_p50_s=first.p50 if first else None,
        ttft_p99_s=first.p99 if first else None,
        tpot_p50_s=each.p50 if each else None,
        tpot_p99_s=each.p99 if each else None,
        group_mean=_mean(report["groups"] and report["groups"]["mean"] for report in reports),
        in_flight_mean=_mean(report["in_flight_mean"] for report in reports),
        devices_w=_devices_w(runs),
    )


def _pooled(runs: Sequence[Run], what: str) -> Percentiles | None:
    """Over the requests of all runs."""
    return percentiles(value for run in runs for value in run["samples"][what])


def _devices_w(runs: Sequence[Run]) -> dict[str, float]:
    """Mean power of each device over the runs' windows; of those whose counter was seen in all of them."""
    names = list(dict.fromkeys(name for run in runs for name in run["devices_j"]))
    known = [name for name in names if all(run["devices_j"].get(name) is not None for run in runs)]
    seconds = sum(run["report"]["energy"]["window_s"] for run in runs)
    return {name: sum(run["devices_j"][name] for run in runs) / seconds for name in known}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None
