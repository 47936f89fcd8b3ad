"""Reads the runs of `docs/results/2026-11-23-h200-steps`: one GPU in closed loops, at random and in windows; two GPUs.

Instants of arrival were not kept, only how many came and how long it took. A Poisson process of which the count is known is
a set of independent uniform instants, so that is what arrives, over the time that was measured less the last request's own;
several draws are simulated. One measured run is one draw, whose own scatter, told beside, is part of the difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random
from statistics import fmean
from typing import Any

from bench.fit_profile import Measured
from bench.validation.case import PASSTHROUGH, SPREAD, Case, Figures, arrival
from policies.simulate import Arrival
from policies.strategy import Choice

PROMPT_TOKENS, OUTPUT_TOKENS = 256, 128  # of every run on one GPU but the closed loops
FLEET_PROMPT_TOKENS = 700
LONGEST_HOLD_S = 100.0  # a window ends every hold before that
ALONE_S = 0.64  # of one such request, as measured
DRAWS = 10
LEAST_S = 0.3  # the counter moves every 100 ms: shorter runs are not known
FITTED = frozenset({"h200-llama8b"})  # to the rows decode, prefill and idle_loaded (`bench/fit_profile.py`)

Row = Mapping[str, Any]


def cases(rows: Sequence[Row], source: str) -> Iterator[Case]:
    """Every row that can be simulated."""
    idle = [row["W"] for row in rows if row["exp"] == "idle_loaded"]
    idle_w = fmean(idle) if idle else sum(next(row["W"] for row in rows if row["exp"] == "idle"))
    spans = {(row["rate"], row["n"]): row["wall_s"] - ALONE_S for row in rows if row["exp"] == "poisson"}
    for row in rows:
        match row["exp"]:
            case "decode" | "prefill" | "sequential" if row["wall_s"] >= LEAST_S:
                yield _closed(row, source, idle_w)
            case "poisson" | "window":
                yield _open(row, source, idle_w, spans[row["rate"], row["n"]])
            case "burst128":
                yield _burst(row, source, idle_w)
            case "fleet":
                yield _fleet(row, source, idle_w)


def _measured(row: Row, metered_s: float, idle_w: float) -> dict[str, float]:
    joules = row["joules"]
    energy_j = sum(joules) if isinstance(joules, list) else joules
    above_j = (energy_j - idle_w * metered_s) / row["n"]
    return {
        "j_per_request": energy_j / row["n"],
        "idle_power_w": idle_w,
        "above_idle_j_per_request": above_j,
        "duration_s": row["wall_s"],
    }


def _closed(row: Row, source: str, idle_w: float) -> Case:
    lengths = (row.get("pl", PROMPT_TOKENS), row.get("ol", 1 if row["exp"] == "prefill" else OUTPUT_TOKENS))
    metered_s = row["joules"] / row["avg_W"]
    concurrency = row.get("conc", 1)
    closed = Measured(row["n"], concurrency, *lengths, row["joules"], metered_s, row["wall_s"], row["p50"])
    name = f"{row['exp']}, {concurrency} at a time, {lengths[0]} in, {lengths[1]} out"
    figures = _measured(row, metered_s, idle_w)
    fitted = frozenset[str]() if row["exp"] == "sequential" else FITTED
    return Case(name, "closed loop", row["n"], source, figures, metered_s, closed=closed, fitted=fitted)


def _open(row: Row, source: str, idle_w: float, span_s: float) -> Case:
    """`span_s` is how long requests came, as the run straight through with the same rate and number tells."""
    every_s = row.get("W", 0)
    policy = Choice("window", {"every_s": every_s}) if every_s else PASSTHROUGH
    metered_s = row["joules"] / row["avg_W"]
    draws = [
        [
            arrival(str(n), at, PROMPT_TOKENS, OUTPUT_TOKENS, LONGEST_HOLD_S)
            for n, at in enumerate(_instants(dice, row["n"], span_s))
        ]
        for dice in map(Random, range(DRAWS))
    ]
    figures = _measured(row, metered_s, idle_w) | {"e2e_p50_s": row["p50"], "e2e_p99_s": row["p99"]}
    return Case(
        f"one GPU, {row['rate']:g}/s, arrivals drawn",
        str(policy),
        1,
        source,
        _without_duration(figures),
        metered_s,
        policy,
        base=policy == PASSTHROUGH,
        draws=draws,
        note="instants drawn",
    )


def _burst(row: Row, source: str, idle_w: float) -> Case:
    metered_s = row["joules"] / row["avg_W"]
    figures = _measured(row, metered_s, idle_w) | {"e2e_p50_s": row["p50"], "e2e_p99_s": row["p99"]}
    draws = [[arrival(str(n), 0.0, PROMPT_TOKENS, OUTPUT_TOKENS) for n in range(row["n"])]]
    return Case(f"{row['n']} at once", "passthrough", 1, source, figures, metered_s, draws=draws)


def _fleet(row: Row, source: str, idle_w: float) -> Case:
    """Lengths were not kept either: exponential ones of the measured means stand in."""
    figures = _measured(row, row["wall_s"], idle_w) | {
        f"{name}_{rank}_s": row[f"{name}_{rank}"] for name in ("ttft", "tpot") for rank in ("p50", "p99")
    }
    return Case(
        f"two GPUs, {row['rate']:g}/s, arrivals and lengths drawn",
        row["mode"],
        1,
        source,
        _without_duration(figures),
        row["wall_s"],
        PASSTHROUGH,
        Choice(row["mode"], {}) if row["mode"] != "spread" else SPREAD,
        servers=2,
        base=row["mode"] == "spread",
        draws=[_fleet_draw(row, Random(seed)) for seed in range(DRAWS)],
        note="instants and lengths drawn",
    )


def _fleet_draw(row: Row, dice: Random) -> list[Arrival]:
    output_tokens = row["J_per_req"] / row["J_per_tok"]
    span_s = row["wall_s"] - output_tokens * row["tpot_p50"]

    def length(mean: float) -> int:
        return max(1, round(dice.expovariate(1 / mean)))

    instants = _instants(dice, row["n"], span_s)
    return [arrival(str(n), at, length(FLEET_PROMPT_TOKENS), length(output_tokens)) for n, at in enumerate(instants)]


def _instants(dice: Random, n: int, span_s: float) -> list[float]:
    """Those of a Poisson process, given that there are `n` and when the last one is."""
    return sorted([*(dice.uniform(0, span_s) for _ in range(n - 1)), span_s])


def _without_duration(figures: Figures) -> Figures:
    """Of drawn arrivals it is what was put in."""
    return {name: value for name, value in figures.items() if name != "duration_s"}
