"""Attribution against an engine whose every joule is known: the study is right about the truth, and the truth is met."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.accuracy.__main__ import command
from bench.accuracy.cells import EXACT, IDEAL, MODELS, QUICK_LOADS, USUAL, quick
from bench.accuracy.figures import Figures, by_kind, coverage, errors, quantile
from bench.accuracy.metering import Metering, meter
from bench.accuracy.replay import Charge, replay
from bench.accuracy.study import study
from bench.accuracy.traffic import Traffic, serve
from telemetry.cost import load_profile

H200 = load_profile()
BUSY = Traffic("chat", 8, 15)


@pytest.fixture(scope="module")
def told() -> list[Figures]:
    return study(quick(), seeds=1, processes=1, tell=lambda text: None)


@pytest.mark.parametrize("traffic", [BUSY, *QUICK_LOADS])
def test_what_requests_used_is_what_the_engine_drew(traffic: Traffic) -> None:
    run = serve(replace(traffic, cancelled=0.4), H200, seed=3)
    used_j = sum(one.used_j for one in run.served)
    # one who leaves in the step of its first token takes that token's joules with it
    assert used_j + H200.idle_power_w * run.ended_at == pytest.approx(run.energy_j[-1], abs=0.02 * len(run.served))
    assert any(one.cancelled for one in run.served)


def test_a_seed_decides_everything() -> None:
    first, again, other = (serve(BUSY, H200, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    metering = Metering(wobble=0.03, foreign_w=50.0)
    assert meter(first, metering, H200.idle_power_w, 1) == meter(again, metering, H200.idle_power_w, 1)
    charges = [replay(run, meter(run, EXACT, H200.idle_power_w, 1), USUAL, H200, 1).charges for run in (first, again)]
    assert charges[0] == charges[1]


@pytest.mark.parametrize("edges", ["exact", "polled", "loose"])
@pytest.mark.parametrize("interval_s", [0.1, 1.0, 15.0])
def test_steps_are_as_far_off_as_the_meter_says(edges: str, interval_s: float) -> None:
    run = serve(BUSY, H200, seed=1)
    exact = meter(run, Metering(interval_s, "exact"), H200.idle_power_w, 1).intervals
    seen = meter(run, Metering(interval_s, edges), H200.idle_power_w, 1).intervals
    instants = {round(i.start_s, 6) for i in exact}
    off_s = [min(abs(i.start_s - at) for at in instants) for i in seen]
    assert all(off <= i.start_edge_s + 1e-6 for off, i in zip(off_s, seen, strict=True))
    assert (max(off_s) > 1e-6) == (edges != "exact")
    assert seen[0].start_s < 0
    assert seen[-1].end_s > run.ended_at


def test_a_neighbour_and_a_wobble_change_what_is_counted_and_not_what_is_true() -> None:
    run = serve(BUSY, H200, seed=1)

    def counted_j(metering: Metering) -> float:
        return sum(i.energy_uj for i in meter(run, metering, H200.idle_power_w, 1).intervals) / 1e6

    foreign = meter(run, replace(EXACT, foreign_w=100.0), H200.idle_power_w, 1).foreign_j
    assert foreign > 0
    assert counted_j(replace(EXACT, foreign_w=100.0)) == pytest.approx(counted_j(EXACT) + foreign, abs=0.01)
    assert counted_j(replace(EXACT, wobble=0.03)) == pytest.approx(counted_j(EXACT), rel=0.1)
    assert counted_j(replace(EXACT, wobble=0.03)) != pytest.approx(counted_j(EXACT), rel=1e-6)


def test_figures_are_worked_out_by_hand() -> None:
    charges = [
        Charge(10.0, 11.0, 1.0, 10.0, 0.0, streamed=True, cancelled=False),
        Charge(10.0, 9.5, 0.1, 10.0, 0.0, streamed=False, cancelled=False),
        Charge(0.0, 0.5, 0.6, 0.0, 0.0, streamed=True, cancelled=True),
    ]
    found = errors(charges, lambda charge: charge.charged_j)
    assert (found.median, found.p95) == (pytest.approx(0.075), pytest.approx(0.1))
    assert found.p95_j == pytest.approx(1.0)
    assert found.bias == pytest.approx(21 / 20 - 1)
    assert coverage(charges) == pytest.approx(2 / 3)
    assert coverage([]) is None
    assert [quantile([3, 1, 2, 4], level) for level in (0.0, 0.25, 0.5, 1.0)] == [1, 1, 2, 4]


def test_every_joule_is_somebodys_in_every_cell(told: list[Figures]) -> None:
    assert [(one.unbalanced_uj, one.not_final) for one in told] == [(0, 0)] * len(told)


def test_lone_requests_are_charged_what_they_used() -> None:
    run = serve(Traffic("chat", 0.05, 400, cancelled=0.0), H200, seed=1)
    settled = replay(run, meter(run, EXACT, H200.idle_power_w, 1), IDEAL, H200, 1)
    assert errors(settled.charges, lambda charge: charge.charged_j).median < 0.002


def test_a_wrong_profile_is_wrong_in_what_it_says() -> None:
    off = MODELS["mixed 25 %"].of(H200)
    assert off.step_j.base == pytest.approx(1.25 * H200.step_j.base)
    assert off.step_s.per_prompt_token == pytest.approx(0.75 * H200.step_s.per_prompt_token)
    assert off.idle_power_w == H200.idle_power_w
    assert MODELS["exact"].of(H200) == H200


@pytest.mark.parametrize("kind", list(dict.fromkeys(cell.kind for cell in quick().cells)))
def test_the_truth_lies_within_the_stated_uncertainty(told: list[Figures], kind: str) -> None:
    assert by_kind(told)[kind] >= 0.95


@pytest.mark.parametrize("interval_s", [0.1, 1.0, 15.0])
def test_the_uncertainty_says_something(told: list[Figures], interval_s: float) -> None:
    """Bars that are wider than the joules themselves would cover any truth."""
    stated = [one.stated for one in told if one.cell.kind == f"every {interval_s:g} s"]
    assert 0 < max(stated) < 0.6


def test_the_command_writes_report_tables_and_picture(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["--quick", "--out", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "Truth within the stated uncertainty" in result.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["source"] == "simulated"
    assert len(report["cells"]) == len(quick().cells)
    assert set(report["coverage"]) == {cell.kind for cell in quick().cells}
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
