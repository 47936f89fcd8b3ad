"""`paceline simulate` as a user runs it, and what its figures must say of each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.draws import BadSpec
from bench.simulation.figures import figures, front, level, sleeping_at_end
from bench.simulation.run import Setting, perform
from bench.simulation.strategies import choice, pairings, swept
from policies.base import Action, Waiting
from policies.simulate import Arrival, Run
from policies.strategy import Choice
from tests.bench.simulating import MODEL, report, simulate

FIFTEEN = ",".join(str(n) for n in range(1, 16))


def crowd(count: int = 60, slack: float = 2.0) -> list[Arrival]:
    return [Arrival(Waiting(f"r{n}", n * 0.4, n * 0.4 + slack, 20 + n % 7, 40), 5 + 9 * (n % 5)) for n in range(count)]


def test_grouping_saves_and_nothing_beats_the_optimum() -> None:
    told = report("--rate", 1, "--requests", 60, "--slack-all", 8, "--seed", 3)
    assert (told["source"], told["profile"], told["traffic"]["requests"]) == ("simulated", "h200-llama8b", 60)
    straight, *others = told["strategies"]
    assert straight["name"] == "passthrough / spread"
    assert [one["name"] for one in others] == ["span / spread", "cohort / spread", "adaptive / spread"]
    bound = told["clairvoyant"]["bound_active_j"]
    assert bound <= told["clairvoyant"]["achieved"]["active_j"] <= min(one["active_j"] for one in told["strategies"])
    for one in told["strategies"]:
        assert one["completed"] == 60
        assert one["energy_j"] == pytest.approx(one["active_j"] + one["idle_j"])
        assert one["idle_j"] == pytest.approx(118.25 * one["until_s"])
        assert one["until_s"] == straight["until_s"]  # over the same time
        assert one["latency"]["all"]["wait_s"]["max"] <= 8.0 + 1e-9
    assert others[0]["active_j"] < 0.7 * straight["active_j"]


def test_the_table_marks_its_joules_and_says_what_is_best() -> None:
    result = simulate("--rate", 2, "--requests", 40, "--slack-all", 4, "--policy", "span")
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    assert "Simulated with profile h200-llama8b: joules are modelled, none is measured" in said
    assert "no schedule spends less than" in said
    assert "Least active joules: span / spread" in said
    assert "simulated: span / spread" in result.stderr  # progress


def test_without_slack_there_is_nothing_to_decide() -> None:
    result = simulate("--rate", 2, "--requests", 20)
    assert "Nobody may be held" in result.stdout
    assert "span" not in result.stdout


def test_the_same_seed_gives_the_same_report_on_one_core_or_two() -> None:
    asked = ("--rate", 2, "--requests", 30, "--slack-all", 3, "--policy", "span", "--sweep", "window every_s=0.5,2")
    one, two = report(*asked), report(*asked, "--jobs", 2)
    for told in (one, two):
        for strategy in told["strategies"]:
            del strategy["seconds"]
    assert one["strategies"] == two["strategies"]
    assert [told["name"] for told in one["strategies"]][2:] == ["window every_s=0.5 / spread", "window every_s=2 / spread"]
    assert one["strategies"] != report(*asked, "--seed", 1)["strategies"]


def test_a_trace_with_tiers_and_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = "".join(f"2023-11-16 18:15:{second:02}.5,200,{20 + second}\n" for second in range(60))
    (tmp_path / "trace.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
    asked = ("--tiers", "flex=0.5,interactive=0.5", "--slack", "flex=5", "--policy", "span", "--out", tmp_path / "out")
    result = simulate(tmp_path / "trace.csv", "--servers", 2, "--placement", "spread", "--placement", "pack", *asked)
    assert result.exit_code == 0, result.output
    assert "By tier" in result.stdout
    assert (tmp_path / "out" / "report.png").read_bytes().startswith(b"\x89PNG")
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [one["name"] for one in told["strategies"]] == ["passthrough / spread", "span / spread", "span / pack"]
    assert told["traffic"]["format"] == "azure"
    assert len(told["traffic"]["sha256"]) == 64
    for one in told["strategies"]:
        assert one["latency"]["interactive"]["wait_s"]["max"] == 0.0
        assert one["latency"]["flex"]["wait_s"]["max"] <= 5.0 + 1e-9
    assert told["strategies"][1]["latency"]["flex"]["wait_s"]["max"] > 0.0


def test_a_policy_of_ones_own_with_parameters() -> None:
    told = report("--requests", 10, "--policy", "policies.window:Window every_s=3", "--slack-all", 3, "--no-bound")
    assert told["strategies"][1]["name"] == "policies.window:Window every_s=3 / spread"
    assert told["strategies"][1]["described"]["policy"] == {"name": "policies.window:Window", "params": {"every_s": 3.0}}
    assert told["clairvoyant"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--policy", "spam"], "no policy 'spam': built in are adaptive"),
        (["--policy", "window eevry_s=2"], "no parameter 'eevry_s'; it has every_s"),
        (["--policy", "window every_s"], "write NAME key=value"),
        (["--placement", "pack knee=0"], "knee must be at least 1"),
        (["--sweep", "window every_s=2"], "some parameter must have several values"),
        (
            ["--sweep", "size n=1,2,3,4,5,6,7,8,9,10,11,12,13,14,15 wait_s=1,2,3,4,5,6,7,8,9,10,11,12,13,14,15"],
            "225 strategies",
        ),
        (["--profile", "h300"], "built in are h100-llama8b-bf16, h200-llama8b,"),
        (["--slack", "vip=2"], "write TIER=NUMBER"),
        (["--speedup", "2"], "are for a trace"),
        (["trace.csv", "--rate", "2"], "--rate is for drawn arrivals"),
        (["trace.csv"], "trace.csv"),
        (["--out", "/dev/null/study"], "--out /dev/null/study"),
        (["--duration", "0"], "--duration"),
        (["--tiers", "flex=0.5"], "shares add up to 0.5, not 1; write --tiers flex=0.5,interactive=0.5"),
        (["--tiers", "flex=0.2,interactive=0.2"], "write --tiers flex=0.2,interactive=0.8"),
        (["--tiers", "flex=3,batch=1"], "shares add up to 4, not 1; write --tiers flex=0.75,batch=0.25"),
    ],
)
def test_what_cannot_be_understood_says_what_is_allowed(arguments: list[str], said: str) -> None:
    result = simulate(*arguments)
    assert result.exit_code != 0
    assert said in " ".join(result.output.split())


def test_choices_and_sweeps_as_they_are_written() -> None:
    assert choice("span") == Choice("span", {})
    assert choice("capped in_flight=64 policy.name=window policy.params.every_s=2") == Choice(
        "capped", {"in_flight": 64, "policy": {"name": "window", "params": {"every_s": 2}}}
    )
    assert [dict(one.params) for one in swept("size n=2,4 wait_s=1")] == [{"n": 2, "wait_s": 1}, {"n": 4, "wait_s": 1}]
    with pytest.raises(BadSpec, match="write NAME key=value"):
        choice("span 'half")


def test_every_policy_with_every_placement_and_straight_through_first() -> None:
    told = pairings(["span", "passthrough"], ["spread", "pack"], ["pack knee=8,16"], [])
    assert [str(one) for one in told] == [
        "passthrough / spread",
        "span / spread",
        "span / pack",
        "passthrough / pack",
        "span / pack knee=8",
        "span / pack knee=16",
        "passthrough / pack knee=8",
        "passthrough / pack knee=16",
    ]


def test_servers_that_sleep_are_charged_what_sleeping_costs() -> None:
    burst = [Arrival(Waiting(f"b{n}", 0.0, 0.0, 20, 40), 20) for n in range(6)]  # enough for all three servers
    setting = Setting([*burst, *crowd(40)], MODEL, servers=3)
    placements = ["pack knee=2", "sleepy after_s=1 placement.name=pack placement.params.knee=2"]
    told = perform(setting, pairings(["passthrough"], placements, [], []), bound=False)
    _, packed, sleepy = told.strategies
    assert packed.asleep_s == 0.0 < sleepy.asleep_s
    assert sleepy.completed == packed.completed == 46
    assert packed.idle_j == pytest.approx(3 * 20.0 * packed.until_s)
    most_j = 15.0 * sleepy.asleep_s  # 20 W less 5 W, had nobody to be woken or to fall asleep
    assert packed.idle_j - most_j <= sleepy.idle_j < packed.idle_j


def test_servers_that_cannot_sleep_do_not() -> None:
    told = report("--requests", 30, "--servers", 2, "--placement", "sleepy after_s=1", "--no-bound")
    assert [one["asleep_s"] for one in told["strategies"]] == [0.0, 0.0]
    assert any("h200-llama8b does not say that a server can sleep" in said for said in told["remarks"])
    for one in told["strategies"]:
        assert one["idle_j"] == pytest.approx(2 * 118.25 * one["until_s"])


def test_a_run_is_levelled_by_what_its_servers_draw_after_it() -> None:
    run = Run(ended_at=10.0, energy_j={"a": 200.0, "b": 100.0}, actions=[(4.0, "b", Action.SLEEP)])
    found = figures("x", run)
    assert (found.asleep_s, sleeping_at_end(run)) == (6.0, 1)
    later = level(found, 12.0, MODEL, awake=1, asleep=1)
    assert (later.energy_j, later.idle_j, later.asleep_s, later.until_s) == (350.0, 350.0, 8.0, 12.0)


def test_short_slots_are_told_as_late_and_refused() -> None:
    setting = Setting(crowd(30, slack=0.0), MODEL, slots=1, queue_timeout_s=3.0)
    (only,) = perform(setting, pairings(["passthrough"], [], [], []), bound=False).strategies
    assert only.late > 0
    assert only.refused > 0
    assert only.completed + only.refused == 30


def test_the_front_is_what_nothing_beats_in_both() -> None:
    told = perform(Setting(crowd(), MODEL), pairings(["span"], [], ["window every_s=0.3,1.9"], []), bound=False).strategies
    best = front(told)
    assert "passthrough / spread" in best  # nobody waits less
    assert min(told, key=lambda one: one.j_per_request).name in best
    for one in told:
        beaten = any(o.j_per_request < one.j_per_request and o.wait_mean_s < one.wait_mean_s for o in told)
        assert (one.name in best) is not beaten


def test_progress_is_told_in_parts_that_grow() -> None:
    parts: dict[str, list[float]] = {}
    perform(
        Setting(crowd(), MODEL),
        pairings(["span"], [], [], []),
        watch=lambda name, part: parts.setdefault(name, []).append(part),
    )
    assert list(parts) == ["passthrough / spread", "span / spread", "clairvoyant bound", "clairvoyant schedule"]
    for told in parts.values():
        assert told == sorted(told)
        assert told[-1] == 1.0
    assert len(parts["span / spread"]) > 10


@pytest.mark.parametrize("option", ["--slack-all", "--queue-timeout", "--duration", "--speedup", "--rate"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_numbers_that_never_end_are_refused(option: str, value: str) -> None:
    """With endless slack nothing would ever happen, and the simulation would not end."""
    result = simulate("--requests", 3, option, value)
    assert (result.exit_code, f"{option} must be a number that ends, not {value}" in result.output) == (1, True)


def test_strategies_that_differ_only_inside_are_two() -> None:
    inner = "capped in_flight=8 policy.name=window policy.params.every_s="
    told = report("--rate", 2, "--requests", 20, "--slack-all", 4, "--sweep", f"{inner}0.5,2", "--no-bound")
    assert [one["name"] for one in told["strategies"][1:]] == [
        "capped in_flight=8 policy=(window every_s=0.5) / spread",
        "capped in_flight=8 policy=(window every_s=2) / spread",
    ]
    assert told["strategies"][1]["wait_mean_s"] < told["strategies"][2]["wait_mean_s"]
    pairs = pairings(["policies.span:Span", "span"], [], [], [])
    assert [str(pair) for pair in pairs[1:]] == ["policies.span:Span / spread", "span / spread"]


def test_who_is_refused_is_in_no_group_and_under_no_bound() -> None:
    result = ("--arrivals", "burst", "--requests", 30, "--slots", 1, "--queue-timeout", 1)
    told = report(*result)
    straight = told["strategies"][0]
    assert straight["refused"] + straight["completed"] == 30
    assert straight["refused"] > 0
    assert straight["group_mean"] == straight["completed"] / straight["groups"]
    assert told["clairvoyant"] is None
    assert any("strategies that refuse some do less work" in remark for remark in told["remarks"])


def test_a_report_says_all_that_it_takes_to_make_it_again() -> None:
    told = report("--requests", 5, "--rate", 3, "--prompt-tokens", "uniform:10:20", "--queue-timeout", 9, "--slots", 4)
    assert told["model"]["step_j"]["base"] > 0
    assert told["model"]["idle_power_w"] == 118.25
    assert (told["asked"]["queue_timeout"], told["asked"]["prompt_tokens"]) == (9.0, "uniform:10:20")
    assert {"command", "versions", "seed", "servers", "slots", "date"} <= set(told)


def test_slack_of_a_tier_that_nobody_is_of_says_how_to_draw_it() -> None:
    result = simulate("--requests", 5, "--slack", "flex=3")
    assert "no request is flex, so --slack flex=3 holds nobody; --tiers flex=0.5,interactive=0.5 draws them" in result.stdout
    assert "Nobody may be held" not in result.stdout
    told = report("--requests", 20, "--slack", "flex=3", "--slack", "batch=9", "--tiers", "flex=0.5,interactive=0.5")
    assert next(remark for remark in told["remarks"] if "no request is" in remark).startswith("no request is batch")
    assert told["traffic"]["slack_s"] == {"flex": 3.0, "batch": 9.0}


def test_a_ledgers_slack_is_kept_when_tiers_are_drawn(tmp_path: Path) -> None:
    records = [
        {"id": f"r{n}", "arrived_unix_s": 1.8e9 + n, "server": "a", "status": 200, "prompt_tokens": 9, "output_tokens": 9}
        for n in range(40)
    ]
    file = tmp_path / "requests.jsonl"
    file.write_text("".join(json.dumps({**one, "slack_s": 5.0}) + "\n" for one in records))
    drawn = ("--tiers", "flex=0.5,batch=0.5", "--policy", "window every_s=100", "--no-bound")
    kept = report(file, *drawn)["strategies"][1]["latency"]
    assert (kept["flex"]["wait_s"]["max"], kept["batch"]["wait_s"]["max"]) == (pytest.approx(5.0), pytest.approx(5.0))
    asked = report(file, *drawn, "--slack", "batch=2")["strategies"][1]["latency"]
    assert (asked["flex"]["wait_s"]["max"], asked["batch"]["wait_s"]["max"]) == (pytest.approx(5.0), pytest.approx(2.0))


def test_a_path_that_cannot_be_is_named_once() -> None:
    for arguments, path in ((["missing.csv"], "missing.csv"), (["--out", "/dev/null/study"], "/dev/null/study")):
        result = simulate(*arguments)
        assert (result.exit_code, result.output.count(path)) == (1, 1), result.output
