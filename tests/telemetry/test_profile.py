"""The built-in profile against measured runs that it was not fitted to.

A run's instants of arrival were not kept, only how many came and how long it took. A Poisson process of which the count
is known is a set of independent uniform instants, so that is what arrives here, over the time that was measured less the
last request's own; several draws are simulated, and their mean is compared. One measured run is one draw, whose own
scatter is part of the difference: a few percent at 30 requests. Idle joules are counted as long as the meter ran.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any

import pytest

from policies.base import Waiting
from policies.simulate import Arrival, Run, simulate
from policies.strategy import Choice, build
from telemetry.cost import load_profile

RUNS = Path(__file__).parents[2] / "docs/results/2026-11-23-h200-steps"
MODEL = load_profile()
PROMPT_TOKENS, OUTPUT_TOKENS = 256, 128  # of every run on one GPU
ALONE_S = MODEL.alone_s(PROMPT_TOKENS, OUTPUT_TOKENS)
LONGEST_SLACK_S = 100.0  # a window ends every hold before that


def rows(file: str, *kinds: str) -> list[Any]:
    """Runs of some kinds, each with a name for pytest."""
    found = [json.loads(line) for line in (RUNS / file).read_text().splitlines()]
    return [pytest.param(row, id=name(row)) for row in found if row["exp"] in kinds]


def name(row: dict[str, Any]) -> str:
    return "-".join(str(row[key]) for key in ("exp", "mode", "W", "rate") if key in row)


def arrival(id: int, at: float, prompt_tokens: int = PROMPT_TOKENS, output_tokens: int = OUTPUT_TOKENS) -> Arrival:
    return Arrival(Waiting(str(id), at, at + LONGEST_SLACK_S, prompt_tokens, output_tokens), output_tokens)


def instants(dice: random.Random, n: int, span_s: float) -> list[float]:
    """Those of a Poisson process, given that there are `n`."""
    return sorted(dice.uniform(0, span_s) for _ in range(n))


def served(arrivals: list[Arrival], row: dict[str, Any], policy: Choice, placement: str = "spread", servers: int = 1) -> Run:
    strategy = build(policy, Choice(placement, {}))
    return simulate(arrivals, strategy, MODEL, servers=servers, until=row["wall_s"])


def drawn(draws: int, draw: Callable[[random.Random], Run]) -> list[Run]:
    return [draw(random.Random(seed)) for seed in range(draws)]


def joules(runs: list[Run]) -> float:
    return mean(run.joules_per_request for run in runs)


@pytest.mark.parametrize("row", rows("one-gpu.jsonl", "poisson", "window"))
def test_poisson_arrivals_straight_through_and_in_windows(row: dict[str, Any]) -> None:
    window_s = row.get("W", 0)
    policy = Choice("window", {"every_s": window_s}) if window_s else Choice("passthrough", {})
    span_s = row["wall_s"] - window_s - ALONE_S

    def draw(dice: random.Random) -> Run:
        return served([arrival(n, at) for n, at in enumerate(instants(dice, row["n"], span_s))], row, policy)

    assert joules(drawn(10, draw)) == pytest.approx(row["J_per_req"], rel=0.10)


@pytest.mark.parametrize("row", rows("one-gpu.jsonl", "sequential"))
def test_one_after_another(row: dict[str, Any]) -> None:
    arrivals = [arrival(n, n * row["wall_s"] / row["n"]) for n in range(row["n"])]
    run = served(arrivals, row, Choice("passthrough", {}))
    assert run.joules_per_request == pytest.approx(row["J_per_req"], rel=0.02)
    assert median(one.ended_at - one.waiting.arrived_at for one in run.served.values()) == pytest.approx(row["p50"], rel=0.02)


@pytest.mark.parametrize("row", rows("one-gpu.jsonl", "burst128"))
def test_all_at_once(row: dict[str, Any]) -> None:
    run = served([arrival(n, 0.0) for n in range(row["n"])], row, Choice("passthrough", {}))
    assert run.joules_per_request == pytest.approx(row["J_per_req"], rel=0.05)
    assert run.ended_at == pytest.approx(row["wall_s"], rel=0.05)


@pytest.mark.parametrize("row", rows("two-gpus.jsonl", "fleet"))
def test_two_servers_spread_and_packed(row: dict[str, Any]) -> None:
    """Lengths were not kept either: exponential ones of the measured means (about 700 in, out as J a token tell) stand in."""
    output_tokens = row["J_per_req"] / row["J_per_tok"]
    alone_s = MODEL.alone_s(700, round(output_tokens))

    def length(dice: random.Random, of: float) -> int:
        return max(1, round(dice.expovariate(1 / of)))

    def draw(dice: random.Random) -> Run:
        at = instants(dice, row["n"], row["wall_s"] - alone_s)
        arrivals = [arrival(n, t, length(dice, 700), length(dice, output_tokens)) for n, t in enumerate(at)]
        return served(arrivals, row, Choice("passthrough", {}), row["mode"], servers=2)

    runs = drawn(4, draw)
    assert joules(runs) == pytest.approx(row["J_per_req"], rel=0.10)
    everybody = [one for run in runs for one in run.served.values() if one.output_tokens > 1]
    assert median(one.tpot_s for one in everybody) == pytest.approx(row["tpot_p50"], rel=0.10)


def test_packing_saves_what_it_saved() -> None:
    """The claim that matters is a ratio: packed against spread, measured against simulated."""
    fleet = {name(row.values[0]): row.values[0] for row in rows("two-gpus.jsonl", "fleet")}
    for rate in (4, 12):
        measured = fleet[f"fleet-spread-{rate}"]["J_per_req"] / fleet[f"fleet-pack-{rate}"]["J_per_req"]
        row = fleet[f"fleet-pack-{rate}"]
        output_tokens = row["J_per_req"] / row["J_per_tok"]
        dice = random.Random(rate)
        at = instants(dice, row["n"], row["wall_s"] - 1.0)
        arrivals = [arrival(n, t, 700, round(dice.expovariate(1 / output_tokens)) + 1) for n, t in enumerate(at)]
        spread, packed = (served(arrivals, row, Choice("passthrough", {}), mode, servers=2) for mode in ("spread", "pack"))
        simulated = spread.joules_per_request / packed.joules_per_request
        assert simulated == pytest.approx(measured, rel=0.10)
