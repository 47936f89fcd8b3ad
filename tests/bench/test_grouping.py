"""What the study says of its pairs."""

from __future__ import annotations

from math import exp
from typing import Any

import pytest

from bench.grouping import summary


def run(joules: float, *, problems: tuple[str, ...] = ()) -> dict[str, Any]:
    one = {"p50": 1.0, "p99": 2.0}
    energy = {"j_per_request": joules, "active_j_per_request": joules / 2, "mean_power_w": 300.0, "unattributed_j": 0.0}
    return {
        "completed": 60,
        "problems": list(problems),
        "energy": {**energy, "counted_j": 60 * joules},
        "latency": {"all": {"wait_s": one, "ttft_s": one, "tpot_s": one}},
        "groups": {"mean": 2.0},
    }


def test_the_ratio_has_an_interval_by_pairs() -> None:
    pairs = [{"passthrough": run(100 * exp(x)), "span": run(100.0)} for x in (0.3, 0.4, 0.5)]
    told = summary(pairs)
    assert told["saving"]["ratio"] == pytest.approx(exp(0.4))
    # t(2) = 4.303, standard error 0.1 / sqrt(3)
    assert told["saving"]["low_95"] == pytest.approx(exp(0.4 - 4.303 * 0.1 / 3**0.5))
    assert told["passthrough"]["requests"] == 180


def test_a_void_run_voids_its_pair() -> None:
    pairs = [
        {"passthrough": run(200.0), "span": run(100.0, problems=("late",))},
        {"passthrough": run(150.0), "span": run(100.0)},
    ]
    told = summary(pairs)
    assert (told["pairs"], told["void_pairs"], told["ratios"]) == (1, 1, [1.5])
    assert "saving" not in told
