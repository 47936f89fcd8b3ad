from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import mean

import pytest

from bench.arrivals import ARRIVALS, Load
from bench.draws import BadSpec, by_tier, lengths, tiers
from policies.base import Tier

TRACE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:47.6805900,396,109
2023-11-16 18:15:50.6805900,12,0
"""


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(TRACE)
    return path


def test_the_same_seed_gives_the_same_plan_and_another_seed_another():
    load = {"rate": 3.0, "requests": 50, "prompt_tokens": "exp:200", "tiers": tiers("flex=1,interactive=2")}
    assert Load(**load, seed=4).plan() == Load(**load, seed=4).plan()
    assert Load(**load, seed=4).plan() != Load(**load, seed=5).plan()


def test_tiers_and_lengths_leave_the_instants_as_they_are():
    plain = Load(rate=2, duration_s=30, seed=1).plan()
    mixed = Load(rate=2, duration_s=30, seed=1, tiers=tiers("flex=1,batch=1"), output_tokens="uniform:1:9").plan()
    assert [planned.at_s for planned in plain] == [planned.at_s for planned in mixed]
    assert {planned.tier for planned in mixed} == {Tier.FLEX, Tier.BATCH}


@pytest.mark.parametrize("arrivals", ["poisson", "fixed", "uniform"])
def test_the_mean_rate_is_what_was_asked_for(arrivals: str):
    plan = Load(arrivals, rate=5, requests=4000, seed=2).plan()
    assert plan[0].at_s == 0
    assert plan[-1].at_s / (len(plan) - 1) == pytest.approx(1 / 5, rel=0.05)
    assert all(earlier.at_s <= later.at_s for earlier, later in pairwise(plan))


def test_a_burst_comes_at_once_and_a_duration_ends_a_load():
    assert [planned.at_s for planned in Load("burst", requests=3).plan()] == [0, 0, 0]
    assert [planned.at_s for planned in Load("fixed", rate=2, duration_s=1.2).plan()] == [0, 0.5, 1.0]


def test_a_trace_gives_instants_and_lengths(trace: Path):
    plan = Load("trace", trace=trace, speedup=2).plan()
    assert [(p.at_s, p.prompt_tokens, p.output_tokens) for p in plan] == [(0, 374, 44), (0.5, 396, 109), (2, 12, 1)]
    assert len(Load("trace", trace=trace, requests=2).plan()) == 2
    assert [p.prompt_tokens for p in Load("trace", trace=trace, prompt_tokens="7").plan()] == [7, 7, 7]


@pytest.mark.parametrize(
    ("spec", "expected"), [("256", 256), ("uniform:100:300", 200), ("exp:150", 150), ("lognormal:400:0.8", 400)]
)
def test_lengths_have_the_mean_that_was_asked_for(spec: str, expected: float):
    random, draw = Random(3), lengths(spec)
    drawn = [draw(random) for _ in range(20_000)]
    assert min(drawn) >= 1
    assert mean(drawn) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("spec", ["", "0", "-3", "1.5", "uniform:9:1", "uniform:1", "exp:x", "exp:0", "normal:3", "exp:inf"])
def test_a_bad_length_says_what_is_allowed(spec: str):
    with pytest.raises(BadSpec, match=r"lognormal:MEAN:SIGMA"):
        lengths(spec)


@pytest.mark.parametrize("spec", ["", "flex", "flex=x", "gold=1", "flex=1,flex=2", "flex=-1", "flex=nan", "flex=0"])
def test_bad_tiers_are_refused(spec: str):
    with pytest.raises(BadSpec):
        tiers(spec)


def test_a_number_for_each_tier():
    assert by_tier("flex=4, interactive=0", "hold") == {Tier.FLEX: 4.0, Tier.INTERACTIVE: 0.0}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"arrivals": "bursty"}, ", ".join(ARRIVALS)),
        ({"arrivals": "trace"}, "trace file"),
        ({"arrivals": "burst"}, "number of requests"),
        ({}, "must end the load"),
        ({"rate": 0, "requests": 1}, "rate"),
        ({"requests": 0}, "requests"),
        ({"speedup": float("nan"), "requests": 1}, "speedup"),
    ],
)
def test_a_bad_load_says_what_is_wrong(wrong: dict[str, object], says: str):
    with pytest.raises(BadSpec, match=says):
        Load(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n1,2\n", "TIMESTAMP"),
        (TRACE + "soon,1,1\n", "line 5"),
        (TRACE + "2023-11-16 18:15:40.0,1,1\n", "before"),
        (TRACE.splitlines()[0] + "\n", "no request"),
    ],
)
def test_a_bad_trace_says_where(tmp_path: Path, text: str, says: str):
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(BadSpec, match=says):
        Load("trace", trace=path).plan()


def test_a_missing_trace_is_told(tmp_path: Path):
    with pytest.raises(BadSpec, match="nowhere"):
        Load("trace", trace=tmp_path / "nowhere.csv").plan()
