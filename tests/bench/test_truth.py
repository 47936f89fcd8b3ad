"""Experiments whose truth is known say it as often as they promise; `make test-long` asks for many more of them."""

from __future__ import annotations

import os
from math import comb, exp, log, log1p
from pathlib import Path
from random import Random
from statistics import fmean

import pytest

from bench.truth.noise import NOISES, design_of, noisy_blocks
from bench.truth.serving import experiment
from bench.truth.split import split, whole
from bench.truth.study import HOLDING, RATES, SD, Cell, summary
from bench.truth.tables import tables
from bench.truth.trials import Share, Trial, share, trial
from telemetry.comparison import Guardrails, compare
from telemetry.detection import probability

EXPERIMENTS = int(os.environ.get("PACELINE_EXPERIMENTS", "60"))
PAIRS = 12
CHANCE = 1e-4  # how improbable a count must be until a promise is taken to be broken


def bound(experiments: int, rate: float) -> int:
    """A count that events of this rate exceed with no more than `CHANCE`."""
    left, count = 1.0, -1
    while left > CHANCE:
        count += 1
        left -= comb(experiments, count) * rate**count * (1 - rate) ** (experiments - count)
    return count


def trials(noise: str, effect: float, experiments: int = EXPERIMENTS, pairs: int = PAIRS) -> list[Trial]:
    found = []
    for seed in range(experiments):
        design, random = design_of(pairs, seed), Random(f"test {noise} {effect} {seed}")
        found.append(trial(design, noisy_blocks(design, effect, noise, SD, random), log1p(effect)))
    return found


def test_the_bound_is_that_of_the_binomial() -> None:
    assert bound(60, 0.05) == 11
    assert bound(1000, 0.05) == 77


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("noise", NOISES)
def test_without_an_effect_watching_shows_one_as_rarely_as_promised(noise: str) -> None:
    found, most = trials(noise, 0.0), bound(EXPERIMENTS, 0.05)
    assert sum(one.watched for one in found) <= most
    assert sum(one.randomised for one in found) <= most
    assert sum(one.student for one in found) <= most
    assert sum(one.adjusted_watched for one in found) <= most
    assert sum(not one.covered for one in found) <= most
    assert sum(one.tripped for one in found) <= most


@pytest.mark.timeout(600)
def test_what_is_not_made_for_watching_errs_when_it_is_watched() -> None:
    """Else the test above would prove nothing."""
    found, most = trials("independent", 0.0), bound(EXPERIMENTS, 0.05)
    assert sum(one.watched_student for one in found) > most - 2
    assert sum(one.watched_asymptotic for one in found) > most - 2


@pytest.mark.timeout(600)
def test_a_true_effect_is_found_as_often_as_was_predicted_and_covered_as_often_as_promised() -> None:
    effect = -0.05
    found, most = trials("independent", effect), bound(EXPERIMENTS, 0.05)
    assert sum(not one.covered for one in found) <= most
    assert sum(not one.student_covered for one in found) <= most
    assert sum(not one.sums_covered for one in found) <= most
    assert sum(one.adjusted_covered is False for one in found) <= most
    assert sum(not one.adjusted_always for one in found) <= most
    assert exp(fmean(one.estimate for one in found)) - 1 == pytest.approx(effect, abs=0.01)
    for watched, shown in ((True, [one.at_the_end for one in found]), (False, [one.student for one in found])):
        # a block's tokens are drawn as well, but its joules follow them: the ratio's noise is what was asked for
        predicted = probability(effect, SD * 2**0.5, PAIRS, watched=watched)
        low, high = share(shown).interval
        assert low - 0.1 < predicted < high + 0.1


def test_a_guardrail_that_is_really_broken_trips() -> None:
    design = design_of(PAIRS, 1)
    blocks = noisy_blocks(design, 0.0, "independent", SD, Random(1))
    assert not trial(design, blocks, 0.0).tripped
    assert trial(design, blocks, 0.0, Guardrails(tpot_p95=1.0001, ttft_p95=None)).tripped is False, "chance is no proof"
    assert not compare(blocks, design).tripped


def test_the_simulated_server_is_told_truly() -> None:
    """Half a minute of simulated traffic a block: the same policy twice is nothing, holding is what whole runs say it is."""
    design, blocks = experiment("span", "span", 3)
    same = compare(blocks, design, guardrails=HOLDING)
    assert same.verdict == "not shown"
    assert "simulated" in same.says[0]
    assert compare(*reversed(experiment("passthrough", "span", 3)), guardrails=HOLDING).verdict == "saves"


@pytest.mark.timeout(600)
def test_requests_split_on_one_server_do_not_tell_the_truth() -> None:
    """At 8/s the held ride on those who are let go at once, and a split shows twice what is to be had."""
    rate, seeds = RATES[-1], range(2)
    dealt = [split(seed, rate, 120).shared for seed in seeds]
    true = [whole(seed, rate, 120).shared for seed in seeds]
    assert max(dealt) < min(true) - log(1.06)


def test_shares_have_wilsons_interval() -> None:
    low, high = Share(100, 5).interval
    assert (low, high) == (pytest.approx(0.0215, abs=1e-3), pytest.approx(0.1118, abs=1e-3))
    assert Share(0, 0).interval == (0.0, 1.0)
    assert share([True, None, False]) == Share(2, 1)


def test_a_report_has_tables_and_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from bench.truth.plot import plot

    cells = [Cell("noise", "independent", effect, PAIRS, 3) for effect in (0.0, -0.05, -0.1)]
    told = [summary(cell, log1p(cell.effect or 0), trials(cell.name, cell.effect or 0, 3)) for cell in cells]
    kinds = ("dealt", "dealt_net", "true", "true_net", "switchback")
    splits = [{"rate": rate, **{kind: [-1.0, -2.0] for kind in kinds}} for rate in RATES]
    report = {"date": "today", "experiments": 3, "cells": told, "splits": splits}
    written = tables(report)
    assert "noise: independent, 12 pairs, 3 experiments" in written
    assert "| 8/s, 2 experiments | -1.5 % ± 0.7 |" in written
    plot(report, tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 20_000
