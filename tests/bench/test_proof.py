"""The proof: in small against a simulated engine, and its verdicts, each of which can be lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.processes import engine
from bench.proof.__main__ import main
from bench.proof.claims import Judged, Verdict
from bench.proof.companions import NotHere, companion
from bench.proof.core import judge_core, predicted_j
from bench.proof.counted import judge_counted
from bench.proof.equal import judge_equal
from bench.proof.measure import RECORDING, measure
from bench.proof.methods import judge_methods
from bench.proof.neighbour import judge_neighbour
from bench.proof.phases import Settings
from bench.proof.plans import BLOCK, Kind, Shape, mixed, one_kind, swapped, together
from bench.proof.plot import plot_proof
from bench.proof.recording import Recording
from bench.proof.rows import Phase, Row, Run
from bench.proof.verdicts import judge
from telemetry.cost import Linear, StepModel, profile_text

QUICK = StepModel("quick", Linear(0.001, 0.0, 0.0, 0.0), Linear(0.4, 0.004, 0.001, 0.0), idle_power_w=100.0)
TINY = Shape(
    equal=Kind("equal", 64, 120, rate=20.0, requests=8),
    alone=2,
    bursts=1,
    burst=8,
    kinds=(Kind("A", 400, 60, rate=20.0, requests=6), Kind("B", 20, 180, rate=16.0, requests=4)),
    repeats=2,
    calm_s=0.2,
)


def energy(active_j: float, uncertainty_j: float = 1.0, **split_j: float) -> dict[str, Any]:
    by_method_j = {"shapley": active_j, "tokens": active_j, "time": active_j} | split_j
    told = {"active_j": active_j, "uncertainty_j": uncertainty_j, "by_method_j": by_method_j}
    return {"energy": told | {"timeline": "streamed", "final": True}}


def row(active_j: float, *, run: str = "alone", repeat: int = 1, number: int = 0, streamed: bool = True, **more: Any) -> Row:
    record = energy(active_j, more.pop("uncertainty_j", 1.0), **more.pop("split_j", {}))
    given = {"kind": "equal", "sent_s": 0.0, "ended_s": 1.0, "error": "", "record": record} | more
    return Row(run, repeat, number=number, streamed=streamed, prompt_tokens=64, output_tokens=8, **given)


def run(name: str, *, unattributed_j: float = 0.0, repeat: int = 1, since_s: float = 0.0) -> Run:
    joules = {"counted_j": 1000.0, "requests_j": 900.0 - unattributed_j, "idle_j": 100.0, "unattributed_j": unattributed_j}
    return Run(name, repeat, since_s, since_s + 10.0, 10.0, ["gpu"], joules)


def recording(folder: Path, seconds: float, *, counter_w: float = 500.0, power_w: float | None = 500.0) -> Recording:
    """As the recorder writes it: looks every 20 ms, a counter that moves every 100."""
    lines = ["at_s,device,energy_uj,integral_uj,source"]
    for look in range(int((seconds + 2) * 50)):
        integral = "" if power_w is None else round(look / 50 * power_w * 1e6)
        lines.append(f"{look / 50 - 1:.6f},gpu,{round(look // 5 / 10 * counter_w * 1e6)},{integral},counter")
    (folder / RECORDING).write_text("\n".join(lines) + "\n12.3,gp")  # the last line was being written
    return Recording.read(folder / RECORDING)


def found(judged: Judged, part: str) -> Verdict:
    return next(verdict for verdict in judged.verdicts if part in verdict.claim)


# --- the whole of it, in small -----------------------------------------------------------------------------------------


async def test_a_small_proof_of_a_simulated_engine(tmp_path: Path) -> None:
    profile = tmp_path / "quick.json"
    profile.write_text(profile_text(QUICK, {}))
    out = tmp_path / "out"
    out.mkdir()
    told: list[str] = []
    async with engine("--dialect", "openai", "--profile", str(profile)) as url:
        settings = Settings(url, "m", "simulated", out, ["b", "c", "f"], str(profile))
        await measure(settings, TINY, 0.0, 0.0, told.append, {"command": "here"})
    verdicts = {f"{verdict.proof} {verdict.claim}": verdict for verdict in judge(out, QUICK)}

    equal, core = Phase.read(out / "b.json"), Phase.read(out / "c.json")
    assert len(equal.rows) == 2 * (2 + 8 + 8)
    assert len(core.rows) == 2 * 2 * (6 + 4)
    assert not [row for phase in (equal, core) for row in phase.rows if row.energy is None]
    assert {row.streamed for row in equal.rows_of("bursts", 1)} == {True, False}
    assert len([line for line in told if "J each" in line]) == len(equal.runs) + len(core.runs)

    conserved = next(verdict for claim, verdict in verdicts.items() if "requests + idle" in claim)
    assert conserved.holds
    assert all(verdict.holds for verdict in verdicts.values() if verdict.proof == "d")
    summary = json.loads((out / "summary.json").read_text())
    for one in summary["c"]["repeats"]:
        # the engine is the model: what was recorded apart from the proxy is what it predicts, as far as this machine keeps time
        assert one["measured_j"]["AB"] == pytest.approx(one["predicted_j"]["AB"], rel=0.3)
    for run in core.runs:  # a run begins and ends in calm, so its requests' joules are the window's
        charged_j = sum(row.energy["active_j"] for row in core.rows_of(run.name, run.repeat) if row.energy is not None)
        assert charged_j == pytest.approx(run.joules["requests_j"], abs=1e-4)
    assert summary["b"]["bursts"]["pooled_j"] < summary["b"]["alone"]["pooled_j"] / 2
    assert "skipped" in next(verdict.told for verdict in verdicts.values() if verdict.proof == "f")
    assert json.loads((out / "provenance.json").read_text())["status_at_end"]["energy"]["source"] == "simulated"
    assert len(list(out.iterdir())) <= 8

    plot_proof(summary, [equal, core], out / "proof.png")
    assert (out / "proof.png").read_bytes().startswith(b"\x89PNG")

    # the same folder, with streams that are charged ten times
    Phase(equal.name, [_tenfold(row) for row in equal.rows], equal.runs, equal.seconds).save(out)
    again = {f"{verdict.proof} {verdict.claim}": verdict for verdict in judge(out, QUICK, ["b"])}
    assert {verdict.proof for verdict in again.values()} == {"b"}
    assert not any(verdict.holds for claim, verdict in again.items() if "on average" in claim)


def _tenfold(row: Row) -> Row:
    assert row.record is not None
    energy = row.record["energy"]
    return replace(
        row, record={**row.record, "energy": {**energy, "active_j": energy["active_j"] * (10 if row.streamed else 1)}}
    )


def test_what_cannot_be_measured_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text("{}")
    earlier = CliRunner().invoke(main, ["--meter", "simulated", "--out", str(tmp_path)])
    assert "earlier measurement" in earlier.output
    nothing = CliRunner().invoke(main, ["--meter", "simulated", "--only", "d", "--out", str(tmp_path / "new")])
    assert "name one of them too" in nothing.output
    assert "there are a, b, c, d, f" in CliRunner().invoke(main, ["--only", "x", "--out", str(tmp_path)]).output


async def test_a_companion_that_cannot_work_says_why(tmp_path: Path) -> None:
    nowhere = ("--meter", "simulated", "--url", "http://127.0.0.1:9", "--out", str(tmp_path / RECORDING))
    with pytest.raises(NotHere, match=r"no answer from .*127\.0\.0\.1:9"):
        async with companion("bench.proof.recorder", *nowhere):
            pass


@pytest.mark.skipif(find_spec("torch") is not None, reason="torch is here")
async def test_no_neighbour_without_torch() -> None:
    with pytest.raises(NotHere, match="no torch"):
        async with companion("bench.proof.foreign"):
            pass


# --- plans ------------------------------------------------------------------------------------------------------------


def test_half_of_each_block_is_streamed_and_pairs_are_swapped() -> None:
    plan = one_kind(Kind("equal", 64, 8, rate=4.0, requests=2 * BLOCK), seed=3)
    flags = [asked.streamed for asked in plan]
    assert sum(flags[:BLOCK]) == sum(flags[BLOCK:]) == BLOCK // 2
    assert flags[:BLOCK] != flags[BLOCK:]  # shuffled
    assert [asked.planned for asked in swapped(plan)] == [asked.planned for asked in plan]
    assert all(one.streamed is not other.streamed for one, other in zip(plan, swapped(plan), strict=True))


def test_classes_come_together_when_they_came_alone() -> None:
    first, second = (one_kind(kind, seed=1) for kind in Shape().kinds)
    both = together(first, second)
    assert [asked for asked in both if asked.kind == "A"] == first
    assert [asked for asked in both if asked.kind == "B"] == second


def test_mixed_load_changes_and_is_bounded() -> None:
    plan = mixed(60.0, seed=1)
    assert mixed(60.0, seed=1) == plan != mixed(60.0, seed=2)
    assert max(asked.planned.at_s for asked in mixed(20.0, seed=1)) < 20
    by_part = [sum(start <= asked.planned.at_s < start + 4 for asked in plan) for start in (12, 16, 26)]
    assert by_part[0] == 0 < by_part[1]  # a pause, then 12 a second
    assert by_part[2] == 32  # a burst
    assert max(asked.planned.prompt_tokens for seed in range(20) for asked in mixed(60.0, seed)) <= 4096


def test_the_fixed_phases_leave_time_for_mixed_load() -> None:
    assert sum(Shape().seconds(StepModel("h", Linear(0.005, 0, 2.4e-5, 0), Linear(1.8, 0, 0, 0), 118.0)).values()) < 345


# --- verdicts ---------------------------------------------------------------------------------------------------------


def seconds(count: int, *, unattributed_j: float = 0.0, counted_j: float = 500.0) -> list[dict[str, float]]:
    return [
        {
            "since_s": float(n),
            "counted_j": counted_j,
            "requests_j": counted_j - 100 - unattributed_j,
            "idle_j": 100.0,
            "unattributed_j": unattributed_j,
        }
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("counter_w", "power_w", "count", "holds"),
    [(500.0, 505.0, 600, True), (500.0, 530.0, 600, False), (500.0, 505.0, 300, None), (500.0, None, 600, None)],
)
def test_the_counter_is_held_to_power(
    tmp_path: Path, counter_w: float, power_w: float | None, count: int, holds: bool | None
) -> None:
    record = recording(tmp_path, count, counter_w=counter_w, power_w=power_w)
    phase = Phase("a", [row(1.0)], [run("mixed")], list(seconds(count)))
    judged = judge_counted([phase], record)
    assert found(judged, "integrated power").holds is holds
    assert found(judged, "the counter moved").holds
    if power_w is not None:
        assert judged.numbers["ratio"] == pytest.approx(counter_w / power_w, rel=1e-3)
        assert len(judged.numbers["windows_of_10_s"]) == count // 10


def test_an_account_that_misses_joules_is_seen(tmp_path: Path) -> None:
    short = Phase("a", [row(1.0)], [run("mixed")], list(seconds(60, counted_j=490.0)))
    assert found(judge_counted([short], recording(tmp_path, 60)), "the counter moved").holds is False


def test_unattributed_shares_are_told_apart_and_bounded(tmp_path: Path) -> None:
    record = recording(tmp_path, 60)
    busy = row(1.0, sent_s=0.0, ended_s=29.5)
    phase = Phase("a", [busy], [run("mixed")], [*seconds(60, unattributed_j=50.0)[:30], *seconds(60)[30:]])
    judged = judge_counted([phase], record)
    assert judged.numbers["unattributed"] == {"all": pytest.approx(0.05), "loaded": pytest.approx(0.1), "idle": 0.0}
    assert found(judged, "unattributed with no neighbour").holds is False
    # the same beside a neighbour is not held against us
    assert found(judge_counted([replace(phase, name="f")], record), "unattributed with no neighbour").holds is None


def test_a_joule_that_is_nowhere_is_seen(tmp_path: Path) -> None:
    lost = seconds(60)
    lost[7]["requests_j"] -= 0.001
    assert (
        found(judge_counted([Phase("a", [], [run("mixed")], list(lost))], recording(tmp_path, 60)), "in every").holds is False
    )


def pairs(*differences_j: float, run: str = "alone") -> Phase:
    """Ten joules when plain, so much more when streamed."""
    rows = [
        row(10.0 + difference_j * streamed, run=run, repeat=1 + streamed, number=number, streamed=bool(streamed))
        for number, difference_j in enumerate(differences_j)
        for streamed in (0, 1)
    ]
    return Phase("b", rows)


@pytest.mark.parametrize(("difference_j", "equal", "agree"), [(0.5, True, True), (1.2, False, True), (3.0, False, False)])
def test_streams_are_held_to_plain_answers(difference_j: float, equal: bool, agree: bool) -> None:
    judged = judge_equal(pairs(difference_j, difference_j, difference_j, run="poisson"))
    assert found(judged, "on average").holds is equal
    assert found(judged, "95% agree").holds is agree  # in pairs: a difference may reach both uncertainties together
    assert judged.numbers["poisson"]["difference_j"]["mean"] == pytest.approx(difference_j)


def test_in_bursts_everybody_is_held_to_the_mean_of_all() -> None:
    judged = judge_equal(pairs(4.0, -4.0, 0.0, 0.0, run="bursts"))
    assert found(judged, "on average").holds
    assert found(judged, "95% agree").holds is False
    assert judged.numbers["bursts"]["agree_with_pooled"] == 0.75


def test_unknown_joules_are_not_zero() -> None:
    unknown = Phase("b", [replace(one, record={"energy": None}) for one in pairs(0.0).rows])
    assert [verdict.holds for verdict in judge_equal(unknown).verdicts] == [None]
    left = replace(pairs(0.0).rows[0], error="timeout")
    assert left.energy is None


def classes(charged_a_j: float, repeats: int = 2) -> Phase:
    """E(A) = E(B) = E(AB) = 4,900 J: alone or together, by the recorder below."""
    rows, runs = [], []
    for repeat in range(1, repeats + 1):
        wobble_j = 0.1 * repeat
        for number, name in enumerate(("A", "B", "AB")):
            runs.append(run(name, repeat=repeat, since_s=10.0 * number))
            for kind in name:
                charged_j = charged_a_j if kind == "A" else 4900.0 - charged_a_j
                rows.append(row(charged_j + wobble_j if name == "AB" else 4900.0, run=name, repeat=repeat, kind=kind))
    return Phase("c", rows, runs)


@pytest.mark.parametrize(
    ("charged_a_j", "holds"), [(2000.0, True), (-10.0, False), (5000.0, False)]
)  # between what A adds, nothing, and what it costs alone
def test_a_class_is_held_to_its_bounds(tmp_path: Path, charged_a_j: float, holds: bool) -> None:
    judged = judge_core(classes(charged_a_j), recording(tmp_path, 60), QUICK)
    assert judged.numbers["repeats"][0]["measured_j"]["AB"] == pytest.approx(4900.0, rel=1e-3)
    assert found(judged, "phi(A)").holds is holds
    assert found(judged, "AB: the step model").holds is False  # it predicts a few joules


def test_one_repeat_gives_no_confidence_and_none_no_verdict(tmp_path: Path) -> None:
    record = recording(tmp_path, 60)
    assert found(judge_core(classes(2000.0, repeats=1), record, QUICK), "phi(A)").holds is False
    phase = classes(2000.0)
    phase.rows[0] = replace(phase.rows[0], error="timeout")
    phase.rows[4] = replace(phase.rows[4], record=None)
    assert [verdict.holds for verdict in judge_core(phase, record, QUICK).verdicts] == [None]


def test_a_prediction_is_the_models_steps() -> None:
    alone = row(0.0)  # 64 tokens in one step, then seven more of one token
    assert predicted_j([alone], QUICK) == pytest.approx(8 * 0.404 + 0.064)
    assert predicted_j([alone, alone], QUICK) == pytest.approx(8 * 0.408 + 2 * 0.064)


def test_methods_must_split_the_same_joules() -> None:
    fair = [row(10.0, split_j={"tokens": 15.0}), row(10.0, number=1, split_j={"tokens": 5.0})]
    judged = judge_methods([Phase("b", fair)])
    assert [verdict.holds for verdict in judged.verdicts] == [True, True]
    ratios = judged.numbers["b: equal in alone"]
    assert (ratios["tokens_over_shapley"]["least"], ratios["tokens_over_shapley"]["most"]) == (0.5, 1.5)
    assert ratios["time_over_shapley"]["p95"] == 1.0
    made = judge_methods([Phase("b", [row(10.0, split_j={"tokens": 11.0})])])
    assert found(made, "by tokens").holds is False
    assert [verdict.holds for verdict in judge_methods([]).verdicts] == [None, None]


def beside(during_j: Callable[[int], float], unattributed_j: float) -> Phase:
    parts = {"before": lambda number: 10.0, "during": during_j, "after": lambda number: 10.0}
    rows = [row(joules(number), run=name, number=number) for name, joules in parts.items() for number in range(20)]
    runs = [run(name, unattributed_j=unattributed_j if name == "during" else 1.0) for name in parts]
    return Phase("f", rows, runs)


def test_a_neighbour_must_show_and_must_not_be_charged() -> None:
    fair = judge_neighbour(beside(lambda number: 10.5, unattributed_j=200.0))
    assert [verdict.holds for verdict in fair.verdicts] == [True, True]
    hidden = judge_neighbour(beside(lambda number: 12.0, unattributed_j=2.0))
    assert [verdict.holds for verdict in hidden.verdicts] == [False, False]
    assert hidden.numbers["rise"]["risen_beyond_uncertainty"] == 1.0
    some = judge_neighbour(beside(lambda number: 20.0 if number < 2 else 10.0, unattributed_j=200.0))
    assert found(some, "not charged").holds is False  # two of twenty


def test_a_neighbour_that_was_not_there_proves_nothing() -> None:
    skipped = judge_neighbour(Phase("f", skipped="no torch"))
    assert [(verdict.holds, "no torch" in verdict.told) for verdict in skipped.verdicts] == [(None, True)]
    half = beside(lambda number: 10.0, 200.0)
    half.runs.pop()
    assert [verdict.holds for verdict in judge_neighbour(half).verdicts] == [None]


def test_phases_are_read_as_they_were_written(tmp_path: Path) -> None:
    phase = Phase("b", [row(1.0)], [run("alone")], list(seconds(2)))
    phase.save(tmp_path)
    assert asdict(Phase.read(tmp_path / "b.json")) == asdict(phase)
