"""The simulator held against a live proxy and engine, and against what was measured on real GPUs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.arrivals import Load
from bench.validation.__main__ import KEPT, adjusted, main
from bench.validation.case import PASSTHROUGH, SPAN, Case, arrivals, of_report
from bench.validation.cells import Cell, Grid
from bench.validation.compare import Line, Pair, compare, lines
from bench.validation.live import validated
from bench.validation.readers import Unreadable, read
from bench.validation.tables import markdown
from bench.validation.twin import simulated
from policies.base import Tier
from policies.strategy import Choice
from telemetry.cost import BUILT_IN, load_profile

# --- live ---------------------------------------------------------------------------------------------------------


def cell(policy: Choice, placement: str = "spread", servers: int = 1) -> Cell:
    return Cell(12.0, policy, Choice(placement, {}), servers, 24, 0.5, "uniform:64:256", "uniform:16:64", 3)


@pytest.mark.parametrize(
    "one",
    [cell(SPAN), cell(PASSTHROUGH, "pack", 2)],
    ids=["grouped on one engine", "packed on two"],
)
async def test_the_simulator_says_what_a_live_proxy_and_engine_do(one: Cell) -> None:
    """Real processes and real HTTP; about five seconds, which is the load and the starts."""
    pair = await validated(one, BUILT_IN, 3, lambda text: None)
    if pair is None:
        pytest.skip("this machine is too busy: the engine's wire was late three times")
    judged = {c.figure: c for c in compare(pair.case.measured, pair.simulated)}
    assert judged["j_per_request"].holds, judged["j_per_request"]
    assert judged["wait_p99_s"].holds, judged["wait_p99_s"]
    assert judged["e2e_p50_s"].holds, judged["e2e_p50_s"]
    # and a simulator that is wrong about the policy, the placement or the model would be found out
    wrong = replace(pair.case, policy=PASSTHROUGH) if one.servers == 1 else replace(pair.case, placement=Choice("spread", {}))
    assert simulated(wrong, load_profile())["j_per_request"] > 1.05 * judged["j_per_request"].measured
    dearer = adjusted(load_profile(), None, 1.3)
    assert not compare(pair.case.measured, simulated(pair.case, dearer))[0].holds


def test_a_grid_leaves_out_what_is_not_there_and_says_so() -> None:
    choices = [PASSTHROUGH, Choice("nothing_like_it", {})]
    grid = Grid([1.0, 4.0], choices, [2], [4.0], [Choice("spread", {}), Choice("pack", {})], 15.0, 2.0, "64", "32", 1)
    assert [(c.study, c.arm) for c in grid.cells()] == [
        ("1/s, 1 engine", "passthrough"),
        ("4/s, 1 engine", "passthrough"),
        ("4/s, 2 engines", "passthrough, spread"),
        ("4/s, 2 engines", "passthrough, pack"),
    ]
    assert [c.requests for c in grid.cells()] == [40, 60, 60, 60]
    assert "nothing_like_it" in grid.absent()[0]


# --- real GPUs ----------------------------------------------------------------------------------------------------


@cache
def found(profile: str) -> list[Line]:
    model = load_profile(profile)
    pairs = [Pair(case, simulated(case, model)) for path in KEPT for case in read(path)]
    return lines(pairs, model.name)


def some(profile: str, study: str) -> list[Line]:
    told = [line for line in found(profile) if line.study.startswith(study) and not line.seen]
    assert told
    return told


def figure(line: Line, name: str) -> float:
    one = line.of(name)
    assert one is not None
    assert one.relative is not None
    return one.relative


def test_a_profile_predicts_other_loads_of_its_own_card() -> None:
    """Calibrated before the proof was run, on the same card: bursts, Poisson, two classes together, a mixed load."""
    proof = some("h200-llama8b-bf16", "proof")
    assert len(proof) == 9
    for line in proof:
        assert abs(figure(line, "j_per_request")) < 0.03, line
        assert abs(figure(line, "tpot_p50_s")) < 0.05, line
        assert abs(figure(line, "e2e_p99_s")) < 0.05, line


def test_the_built_in_profile_predicts_the_open_loops_of_its_day() -> None:
    for line in [*some(BUILT_IN, "one GPU"), *some(BUILT_IN, "two GPUs")]:
        assert abs(figure(line, "j_per_request")) < 0.05, line
        assert line.note, "arrivals were drawn, and that is told"
        assert (line.sd_j or 0.0) >= 0.0


def test_another_card_differs_by_its_steps_cost_alone() -> None:
    """Of the study of grouping, one arm gives the card's factor; the other five and the savings follow from it."""
    files = next(path.parent for path in KEPT if path.name == "rate2-slack2.json")
    cases = read(files)
    model = load_profile()
    idle_w = sum(case.measured["idle_power_w"] for case in cases) / len(cases)
    first = [case for case in cases if case.study == "grouping, 2/s, 2 s of slack" and case.base]
    measured = sum(case.measured["above_idle_j_per_request"] for case in first)
    factor = measured / sum(simulated(case, model)["above_idle_j_per_request"] for case in first)
    assert 0.8 < factor < 1.0
    own = adjusted(model, idle_w, factor)
    for line in lines([Pair(case, simulated(case, own)) for case in cases], own.name):
        assert abs(figure(line, "j_per_request")) < 0.05, line
        if line.arm == "span":
            assert abs(figure(line, "saving")) < 0.05, line


def test_runs_that_a_profile_was_fitted_to_are_marked() -> None:
    seen = {line.study.split(",")[0] for line in found(BUILT_IN) if line.seen}
    assert seen == {"decode", "prefill"}
    assert not any(line.seen for line in found("h200-llama8b-bf16"))
    assert "fitted" in markdown("h200", found(BUILT_IN))


def test_a_journal_of_a_study_is_read_and_planned_again(tmp_path: Path) -> None:
    """Runs whose figures are the twin's own come back without a difference; those that say nothing are left out."""
    (tmp_path / "runs").mkdir()
    straight = {"name": "straight through", "policy": {"name": "passthrough", "params": {}}, "hold_s": 0.0}
    window = {"name": "window every_s=1, hold 2 s", "policy": {"name": "window", "params": {"every_s": 1.0}}, "hold_s": 2.0}
    for number, arm in enumerate((window, straight)):
        write(tmp_path / f"runs/{number}.json", journalled({**arm, "placement": {"name": "spread", "params": {}}}))
    void = journalled({**straight, "placement": {"name": "spread", "params": {}}})
    void["report"]["problems"] = ["mean power was that of an idle device"]
    write(tmp_path / "runs/2.json", void)
    write(tmp_path / "summary.json", {"cells": []})
    cases = read(tmp_path)
    assert [case.arm for case in cases] == ["window every_s=1, hold 2 s", "straight through"]
    assert {case.joules for case in cases} == {"counter"}
    assert cases[0].source == "0.json, H200"
    one, base = lines([Pair(case, simulated(case, load_profile())) for case in cases], BUILT_IN)
    assert base.of("saving") is None
    assert one.of("saving") is not None
    for line in (one, base):
        assert figure(line, "j_per_request") == pytest.approx(0.0, abs=1e-9)
    assert figure(one, "saving") == pytest.approx(0.0, abs=1e-9)
    assert one.compared[0].measured < base.compared[0].measured


def journalled(arm: dict[str, Any]) -> dict[str, Any]:
    """A run of `bench.grid` as its journal holds it, with the simulator's own joules."""
    since_s = 1234.56
    plan = Load(rate=4.0, requests=30, seed=7, prompt_tokens="256", output_tokens="uniform:64:128").plan()
    coming = arrivals(plan, {Tier.INTERACTIVE: arm["hold_s"]}, since_s)
    twin = simulated(Case("", "", 7, "", {}, 0.0, Choice(**arm["policy"]), draws=[coming], since_s=since_s), load_profile())
    energy = {
        "source": "counter",
        "counted_j": twin["j_per_request"] * 30,
        "idle_power_w": None,
        "since_s": since_s,
        "window_s": twin["duration_s"],
    }
    report = {"planned": 30, "completed": 30, "failed": 0, "problems": [], "energy": energy, "duration_s": twin["duration_s"]}
    report["latency"] = {"all": dict.fromkeys(("wait_s", "ttft_s", "tpot_s", "e2e_s"))}
    shape = {"model": "m", "meter": "nvml", "prompt_tokens": "256", "output_tokens": "uniform:64:128"}
    told = {"form": 1, "study": "grid", "id": "x", "rate": 4.0, "seed": 7, "requests": 30, "arm": arm, "shape": shape}
    return {**told, "report": report, "samples": {}, "provenance": {"servers": {"http://h:1": ""}, "hardware": "H200"}}


def write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


# --- what is compared ---------------------------------------------------------------------------------------------


def holds(name: str, measured: float, simulated: float) -> bool | None:
    return compare({name: measured}, {name: simulated})[0].holds


@pytest.mark.parametrize(
    ("name", "measured", "simulated", "expected"),
    [
        ("j_per_request", 100.0, 104.9, True),
        ("j_per_request", 100.0, 94.9, False),
        ("wait_p99_s", 0.0005, 0.0, True),  # the wire
        ("wait_p99_s", 2.0, 1.79, False),
        ("ttft_p50_s", 0.02, 0.0151, True),
        ("ttft_p50_s", 0.02, 0.0149, False),
        ("tpot_p99_s", 0.005, 0.0056, False),
        ("above_idle_j_per_request", 1.0, 2.0, None),
    ],
)
def test_what_a_difference_may_be(name: str, measured: float, simulated: float, expected: bool | None) -> None:
    assert holds(name, measured, simulated) is expected


def test_savings_are_paired_by_seed() -> None:
    def pair(arm: str, seed: int, j: float, twin_j: float) -> Pair:
        return Pair(Case("one", arm, seed, "", {"j_per_request": j}, 1.0, base=arm == "plain"), {"j_per_request": twin_j})

    told = lines([pair("held", 1, 50, 40), pair("held", 2, 25, 20), pair("plain", 2, 100, 80), pair("plain", 1, 100, 90)], "")
    saving = told[0].of("saving")
    assert saving is not None
    assert saving.measured == pytest.approx((2 * 4) ** 0.5)
    assert saving.simulated == pytest.approx((90 / 40 * 80 / 20) ** 0.5)
    assert told[1].of("saving") is None
    none_is_base = lines([replace(p, case=replace(p.case, base=False)) for p in [pair("a", 1, 4, 4), pair("b", 1, 2, 2)]], "")
    assert [line.of("saving") is None for line in none_is_base] == [True, False]


def test_a_run_without_joules_validates_nothing() -> None:
    with pytest.raises(ValueError, match="without joules"):
        of_report({"energy": None, "latency": {"all": {}}, "completed": 3, "problems": ["no meter"]})


@pytest.mark.parametrize("text", ["", "{}", "[1, 2]", "no json", '{"study": "grouping"}'])
def test_what_cannot_be_read_says_what_can(tmp_path: Path, text: str) -> None:
    file = tmp_path / "strange.json"
    file.write_text(text)
    with pytest.raises(Unreadable, match=r"strange\.json.*what can be read is"):
        read(file)


# --- the command --------------------------------------------------------------------------------------------------


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, arguments)


def test_the_command_writes_table_and_json_with_their_provenance(tmp_path: Path) -> None:
    done = run("h200", "--out", str(tmp_path), str(KEPT[1]))
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / f"{BUILT_IN}.json").read_text())
    assert told["source"] == {"measured": "counter", "simulated": "simulated"}
    assert told["command"].startswith("python -m bench.validation")
    assert {"date", "machine", "versions", "profile", "bounds"} <= told.keys()
    assert len(told["cells"]) == 6
    assert (tmp_path / f"{BUILT_IN}.png").read_bytes().startswith(b"\x89PNG")
    assert "two GPUs, 12/s" in (tmp_path / f"{BUILT_IN}.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["h200", "--profile", "no-such-card"], "built in are"),
        (["live", "--rates", "fast"], "positive numbers"),
        (["live", "--policies", "window every_s"], "KEY=VALUE"),
        (["live", "--policies", "nothing_like_it", "--fleets", ""], "nothing to compare"),
        (["live", "--prompt-tokens", "long", "--rates", "1", "--policies", "span", "--fleets", ""], "no length in tokens"),
    ],
)
def test_bad_input_is_told(tmp_path: Path, arguments: Sequence[str], message: str) -> None:
    done = run(arguments[0], "--out", str(tmp_path), *arguments[1:])
    assert done.exit_code != 0
    assert message in done.output
