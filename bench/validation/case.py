"""One run that was measured, what is needed to simulate it again, and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from bench.arrivals import Planned
from bench.fit_profile import Measured
from policies.base import Tier, Waiting
from policies.simulate import Arrival
from policies.strategy import Choice

PASSTHROUGH, SPAN, SPREAD = Choice("passthrough", {}), Choice("span", {}), Choice("spread", {})
ROUNDED = ("p50", "p99")

Figures = Mapping[str, float]  # by names with units, as in `compare.BOUNDS`; what is not known is not there


@dataclass(frozen=True, slots=True)
class Case:
    """One measured run.

    Attributes:
        study: runs of one study have the same load but for seed and arm.
        arm: what distinguishes it within the study: a policy, a placement.
        seed: of its load, or which repeat it is.
        source: the file that it was read from, or how it was run.
        policy: who left when.
        placement: where to.
        servers: how many.
        draws: arrivals that may have been: one list where they are known, several drawn ones where they are not.
        since_s: the window's start on the clock of the arrivals.
        window_s: seconds over which joules were counted, from `since_s`.
        measured: its figures.
        closed: a closed loop, which has no arrivals.
        base: whether its arm is what the study's others are compared with; else the first is.
        joules: where the measured ones come from: counter, or simulated, which is no measurement.
        fitted: profiles that were fitted to this run.
        note: what of it is not known and was drawn; empty for nothing.
    """

    study: str
    arm: str
    seed: int
    source: str
    measured: Figures
    window_s: float
    policy: Choice = PASSTHROUGH
    placement: Choice = SPREAD
    servers: int = 1
    draws: Sequence[Sequence[Arrival]] = ()
    since_s: float = 0.0
    closed: Measured | None = None
    base: bool = False
    joules: str = "counter"
    fitted: frozenset[str] = field(default_factory=frozenset)
    note: str = ""


def arrivals(plan: Sequence[Planned], hold_s: Mapping[Tier, float], since_s: float = 0.0) -> list[Arrival]:
    """A plan as the room meets it; `hold_s` is what each tier may be held, and `since_s` when its first request comes."""
    first_s = plan[0].at_s
    return [
        arrival(str(n), p.at_s - first_s + since_s, p.prompt_tokens, p.output_tokens, hold_s.get(p.tier, 0.0), p.tier)
        for n, p in enumerate(plan)
    ]


def arrival(id: str, at_s: float, prompt: int, output: int, hold_s: float = 0.0, tier: Tier = Tier.INTERACTIVE) -> Arrival:
    return Arrival(Waiting(id, at_s, at_s + hold_s, prompt, output, tier), output)


def of_report(report: Mapping[str, Any]) -> Figures:
    """The figures of a load's report (`bench/report.py`).

    Raises:
        ValueError: its energy is not known.
    """
    energy, latency = report["energy"], report["latency"]["all"]
    if energy is None or not report["completed"]:
        raise ValueError(f"a run without joules or requests validates nothing: {report['problems']}")
    found = {"j_per_request": energy["counted_j"] / report["completed"], "duration_s": report["duration_s"]}
    if energy["idle_power_w"] is not None:
        above_j = energy["counted_j"] - energy["idle_power_w"] * energy["window_s"]
        found |= {"idle_power_w": energy["idle_power_w"], "above_idle_j_per_request": above_j / report["completed"]}
    for name in ("wait_s", "ttft_s", "tpot_s", "e2e_s"):
        if latency[name] is not None:
            found |= {f"{name[:-2]}_{rank}_s": latency[name][rank] for rank in ROUNDED}
    return found


def scatter(several: Sequence[Figures]) -> Figures:
    """The standard deviation of the joules of several draws: what one measured run can differ by and mean nothing."""
    return {"j_per_request_sd": stdev(one["j_per_request"] for one in several)} if len(several) > 1 else {}


def mean_figures(several: Sequence[Figures]) -> Figures:
    """The mean of each figure that all of them have."""
    return {name: fmean(one[name] for one in several) for name in several[0] if all(name in one for one in several)}
