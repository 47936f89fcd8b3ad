"""What `paceline advise` says of traffic whose answer is known."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bench.advise.command import command
from bench.advise.findings import Guardrails, Row, Saving
from bench.advise.further import on_top, with_slack
from bench.advise.judge import Judge, split
from bench.advise.levers import STRAIGHT, Lever, Setting
from bench.advise.paste import configuration
from bench.advise.report import Context, as_json
from bench.advise.trial import Stage, pessimistic, run, shareable
from policies.base import Tier, Waiting
from policies.simulate import Arrival
from policies.strategy import Choice, Strategy
from proxy.sources import load
from telemetry.cost import BUILT_IN, StepModel, load_profile, profile_text

MODEL = load_profile()
SLEEPER = replace(MODEL, name="sleeper", sleep_power_w=40.0, sleep_s=1.0, wake_s=2.0, wake_j=100.0)


def poisson(
    rate: float, seconds: float, slack: float = 0.0, tier: Tier = Tier.INTERACTIVE, tokens: int = 60, seed: int = 3
) -> list[Arrival]:
    random, at, made = Random(seed), 0.0, []
    while (at := at + random.expovariate(rate)) < seconds:
        made.append(Arrival(Waiting(f"{tier}{len(made):05}", at, at + slack, 100, 200, tier), tokens))
    return made


def judged(arrivals: Sequence[Arrival], stage: Stage | None = None, **more: Any) -> dict[str, Any]:
    advice = Judge(arrivals, stage or Stage(MODEL), **more).judge()
    return {**as_json(advice, Context("test", "paceline advise")), "by": {row.lever: row for row in advice.rows}}


def test_where_everybody_can_wait_groups_are_advised_and_the_interval_holds_the_saving() -> None:
    told = judged(poisson(2.0, 400, slack=4.0))
    assert told["advice"] == "grouping"
    saving = told["by"][Lever.GROUPING].saving
    assert saving is not None
    assert saving.low < saving.share < saving.high
    assert 0.2 < saving.share <= told["shareable"]
    assert 0 < saving.pessimistic < saving.share
    assert told["by"][Lever.PACKING].why_not == "there is one server"
    assert told["reasons"] == []


def test_where_nobody_agreed_to_wait_the_answer_is_none_and_says_what_it_would_be() -> None:
    told = judged(poisson(2.0, 400))
    assert told["advice"] == "none"
    assert "grouping: nobody agreed to wait" in told["reasons"][0]
    shares = [one["saving"]["share"] for one in told["what_if"]]
    assert [one["slack_s"] for one in told["what_if"]] == [0.25, 0.5, 1.0, 2.0]
    assert shares == sorted(shares)
    assert shares[-1] > 0.1


def test_servers_that_share_traffic_are_to_be_packed_and_the_rest_may_sleep() -> None:
    arrivals = poisson(4.0, 200)
    packed = judged(arrivals, Stage(MODEL, servers=3))
    assert packed["advice"] == "packing"
    assert packed["by"][Lever.SLEEPING].why_not.startswith("the profile does not say")
    asleep = judged(arrivals, Stage(SLEEPER, servers=3))
    sleeping, packing = (asleep["by"][lever].trial for lever in (Lever.SLEEPING, Lever.PACKING))
    assert sleeping is not None
    assert packing is not None
    assert sleeping.energy_j <= packing.energy_j


def test_work_that_may_wait_beside_work_that_may_not() -> None:
    arrivals = poisson(2.0, 400) + poisson(0.5, 400, 60.0, Tier.BATCH, seed=4)
    arrivals.sort(key=lambda arrival: arrival.waiting.arrived_at)
    told = judged(arrivals)
    row = told["by"][Lever.DEFERRING]
    assert row.setting is not None
    assert row.setting.policy.name == "valley"
    assert row.saving is not None
    assert row.saving.share > 0


def test_one_who_may_wait_for_hours_changes_no_other_figure() -> None:
    """Idle power of the time until then is nobody's saving, nor does it hide one; its joules count nonetheless."""
    arrivals = poisson(4.0, 200)
    patient = Arrival(replace(arrivals[-1].waiting, id="patient", deadline=arrivals[-1].waiting.arrived_at + 7200.0), 60)
    alone, beside = (judged(crowd, Stage(SLEEPER, servers=3)) for crowd in (arrivals, [*arrivals, patient]))
    for lever in (Lever.PACKING, Lever.SLEEPING):
        assert beside["by"][lever].saving.share == pytest.approx(alone["by"][lever].saving.share, abs=0.02)
    assert beside["straight"]["span_s"] == alone["straight"]["span_s"]
    held = run([*arrivals, patient], Setting(None, Choice("span", {}), STRAIGHT.placement).strategy(), Stage(MODEL))
    assert held.energy_j > run(arrivals, STRAIGHT.strategy(), Stage(MODEL)).energy_j


def test_the_lever_is_chosen_on_the_first_part_too() -> None:
    """Of the rest, on which all figures are, nothing is asked but whether it keeps the guardrails."""
    arrivals = poisson(3.0, 300, slack=4.0)
    told = Judge(arrivals, Stage(MODEL, servers=2)).judge()
    saved = {row.lever: row.before for row in told.rows if row.saving is not None}
    assert told.best is not None
    assert told.best.lever is next(lever for lever in Lever if saved.get(lever, -1.0) >= max(saved.values()) - 0.03)
    straight, packed = (run(split(arrivals)[0], setting, told.stage) for setting in _strategies(told.rows[0]))
    assert saved[Lever.PACKING] == pytest.approx(1 - packed.energy_j / straight.energy_j)
    doubted = [replace(row, before=1.0 if row.lever is Lever.GROUPING else 0.0) for row in told.rows if row.saving]
    assert Judge(arrivals, told.stage)._simplest(doubted).lever is Lever.GROUPING


def _strategies(row: Row) -> list[Strategy]:
    assert row.setting is not None
    return [STRAIGHT.strategy(), row.setting.strategy()]


def test_no_setting_that_breaks_a_guardrail_is_advised() -> None:
    arrivals = poisson(2.0, 400, slack=4.0)
    free = judged(arrivals)["by"][Lever.GROUPING]
    bound = judged(arrivals, guardrails=Guardrails(wait_s=0.6))["by"][Lever.GROUPING]
    assert free.trial.waits.wait_s > 0.6 >= bound.trial.waits.wait_s
    none = judged(arrivals, guardrails=Guardrails(ttft_s=0.001))
    assert none["advice"] == "none"
    assert none["by"][Lever.GROUPING].why_not == "no setting keeps the guardrails"


def test_saturated_servers_are_left_alone() -> None:
    """Whether it is slots or the engine that they queue for."""
    for stage in (Stage(MODEL, slots=2), Stage(replace(MODEL, max_sequences=2))):
        told = judged(poisson(10.0, 160, slack=2.0, tokens=100), stage)
        assert told["advice"] == "none"
        assert any("more traffic than they can take" in reason for reason in told["reasons"])


def test_full_batches_leave_nothing_to_save() -> None:
    """Weights that are read for nothing cost nothing."""
    free_base = replace(MODEL, step_j=replace(MODEL.step_j, base=1e-6))
    told = judged(poisson(3.0, 300, slack=2.0), Stage(free_base))
    assert told["advice"] == "none"
    assert told["shareable"] < 0.001
    assert any("any schedule could save" in reason for reason in told["reasons"])


def test_little_traffic_is_not_judged() -> None:
    told = judged(poisson(0.5, 60, slack=2.0))
    assert told["advice"] == "none"
    assert told["reasons"][0].startswith("too little to say")


def test_within_the_profiles_error_the_answer_is_none() -> None:
    wild = replace(MODEL, step_j_error=replace(MODEL.step_j_error, base=0.45, per_sequence=2.0, per_prompt_token=2.0))
    arrivals = poisson(2.0, 400, slack=0.5)
    sure = judged(arrivals)["by"][Lever.GROUPING].saving.share
    told = judged(arrivals, Stage(wild), least=0.6 * sure)
    assert told["advice"] == "none"
    assert "as far off as it may be" in told["reasons"][0]


def test_settings_are_chosen_on_the_first_part_and_reported_on_the_rest() -> None:
    arrivals = poisson(2.0, 400, slack=2.0)
    first, rest = split(arrivals)
    told = judged(arrivals)
    assert (told["chosen_on_requests"], told["reported_on_requests"]) == (len(first), len(rest))
    assert max(one.waiting.arrived_at for one in first) < min(one.waiting.arrived_at for one in rest)
    alone = run(rest, STRAIGHT.strategy(), Stage(MODEL))
    assert told["straight"]["blocks_j"] == alone.blocks_j
    assert sum(alone.blocks_j) == alone.energy_j > alone.active_j > 0


def test_what_can_be_shared_is_what_the_steps_cost_apart_from_what_is_in_them() -> None:
    """One request alone: its own share is the model's, the rest could be shared with others."""
    arrival = Arrival(Waiting("a", 0.0, 0.0, 100, 50), 50)
    alone = run([arrival], STRAIGHT.strategy(), Stage(MODEL), blocks=1)
    assert shareable([arrival], alone, MODEL) * alone.energy_j == pytest.approx(50 * MODEL.step_j.base)


def test_the_pessimistic_model_makes_every_saving_smaller() -> None:
    worse = pessimistic(MODEL)
    assert worse.step_j.base < MODEL.step_j.base
    assert worse.step_j.per_sequence > MODEL.step_j.per_sequence
    assert pessimistic(replace(MODEL, step_j_error=replace(MODEL.step_j_error, base=3.0))).step_j.base > 0


def test_the_configuration_that_is_told_is_one_that_can_be_read(tmp_path: Path) -> None:
    advice = Judge(poisson(4.0, 100, slack=1.0), Stage(SLEEPER, servers=3)).judge()
    for row in advice.rows:
        if row.setting is None:
            continue
        file = tmp_path / f"{row.lever}.toml"
        text = configuration(row, {"interactive": 3.0})
        file.write_text('upstreams = ["http://a:1"]\n\n' + text)
        config = load(file, {}, {})
        assert config.policy.name == row.setting.policy.name
        assert config.slack.interactive.default_s == config.slack.interactive.max_s == 3.0
        assert tomllib.loads(text)["placement"]["name"] == row.setting.placement.name


# --- the command ------------------------------------------------------------------------------------------------------


def ledger(path: Path, arrivals: Sequence[Arrival], **more: object) -> Path:
    lines = [
        json.dumps(
            {
                "id": one.waiting.id,
                "arrived_unix_s": 1.8e9 + one.waiting.arrived_at,
                "server": "http://a",
                "status": 200,
                "tier": one.waiting.tier.value,
                "prompt_tokens": one.waiting.prompt_tokens,
                "output_tokens": one.output_tokens,
                "slack_s": one.waiting.deadline - one.waiting.arrived_at,
                **more,
            }
        )
        for one in arrivals
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def advise(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_a_ledger_is_advised_on_in_words(tmp_path: Path) -> None:
    answer = advise(ledger(tmp_path / "requests.jsonl", poisson(2.0, 400, slack=4.0)))
    assert answer.exit_code == 0, answer.output
    for words in (
        "Advice: grouping",
        "kWh a day at this traffic",
        f"simulated with the profile {BUILT_IN}",
        "no calibration was made for this server",
        "to put it in force:",
        "paceline serve --policy",
        "[policy]",
    ):
        assert words in answer.output


def test_a_what_if_is_said_to_be_one_and_is_in_what_is_pasted(tmp_path: Path) -> None:
    file = ledger(tmp_path / "requests.jsonl", poisson(2.0, 400))
    answer = advise(file, "--slack", "interactive=3", "--json")
    told = json.loads(answer.stdout)
    assert (told["advice"], told["slack_s"]) == ("grouping", {"interactive": 3.0})
    assert "[slack.interactive]\ndefault_s = 3\n" in told["configuration"]
    assert told["trace"]["sha256"]
    assert "if interactive requests agreed to 3 s" in advise(file, "--slack", "interactive=3").output


def test_a_profile_of_ones_own_is_not_warned_of(tmp_path: Path) -> None:
    own: StepModel = replace(MODEL, name="ours")
    profile = tmp_path / "ours.json"
    profile.write_text(profile_text(own, {}))
    answer = advise(ledger(tmp_path / "requests.jsonl", poisson(2.0, 60)), "--profile", profile, "--json")
    told = json.loads(answer.stdout)
    assert told["profile"] == "ours"
    assert not any("calibration" in warning for warning in told["warnings"])


def test_every_built_in_profile_is_warned_of_and_what_was_asked_is_in_the_report(tmp_path: Path) -> None:
    file = ledger(tmp_path / "requests.jsonl", poisson(2.0, 60, slack=40.0))
    told = json.loads(advise(file, "--profile", "h200-llama8b-bf16", "--max-wait-p99", 2, "--seed", 7, "--json").stdout)
    assert any("h200-llama8b-bf16 is built in" in warning for warning in told["warnings"])
    assert any("some may wait 40 s, and only 24 s are told of" in warning for warning in told["warnings"])
    assert (told["asked"]["max_wait_p99"], told["asked"]["seed"]) == (2.0, 7)
    assert told["versions"]["paceline"]
    assert told["model"]["name"] == "h200-llama8b-bf16"
    assert told["model"]["step_j"]["base"] > 0


def test_estimated_counts_are_said(tmp_path: Path) -> None:
    file = ledger(tmp_path / "requests.jsonl", poisson(2.0, 60), output_tokens_estimated=True)
    assert "are estimates" in advise(file).output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give a TRACE, or --admin URL"),
        (["x", "--admin", "http://127.0.0.1:1"], "give a TRACE or --admin URL, not both"),
        (["no-such-file.jsonl"], "No such file"),
        (["--admin", "http://127.0.0.1:1"], "--admin takes the admin port's URL"),
        (["{file}", "--slack", "spam=1"], "write TIER=NUMBER,... with tiers of priority, interactive, flex, batch"),
        (["{file}", "--slack", "flex=-1"], "slack in seconds not negative"),
        (["{file}", "--tiers", "flex=0.5"], "write --tiers flex=0.5,interactive=0.5"),
        (["{file}", "--profile", "no-such"], "no profile 'no-such': built in are"),
    ],
)
def test_what_it_does_not_understand_it_says(arguments: list[str], told: str, tmp_path: Path) -> None:
    file = ledger(tmp_path / "requests.jsonl", poisson(1.0, 30))
    answer = advise(*(argument.format(file=file) for argument in arguments))
    assert answer.exit_code != 0
    assert told in answer.output


def test_one_request_alone_is_too_few(tmp_path: Path) -> None:
    answer = advise(ledger(tmp_path / "requests.jsonl", poisson(2.0, 60)[:1]))
    assert (answer.exit_code, "two requests at least" in answer.output) == (1, True)


def test_slack_and_tiers_are_spelled_as_in_simulate(tmp_path: Path) -> None:
    file = ledger(tmp_path / "requests.jsonl", poisson(2.0, 60))
    told = json.loads(advise(file, "--slack", "flex=3,batch=9", "--slack", "interactive=1", "--json").stdout)
    assert told["slack_s"] == {"flex": 3.0, "batch": 9.0, "interactive": 1.0}
    every = json.loads(advise(file, "--slack-all", 2, "--slack", "batch=9", "--json").stdout)
    assert every["slack_s"] == {"priority": 2.0, "interactive": 2.0, "flex": 2.0, "batch": 9.0}
    nobody = advise(file, "--slack", "flex=8").output.replace("\n", " ")
    assert "no request is flex, so --slack flex=8 holds nobody; --tiers flex=0.5,interactive=0.5 draws them" in nobody
    drawn = json.loads(advise(file, "--tiers", "flex=0.5,interactive=0.5", "--slack", "flex=8", "--json").stdout)
    assert not any("no request is" in warning for warning in drawn["warnings"])
    assert drawn["straight"]["deferrable_wait_s"] == [0.0, 0.0]


def test_of_more_requests_than_are_looked_at_the_latest_are_and_that_is_said(tmp_path: Path) -> None:
    file = ledger(tmp_path / "requests.jsonl", poisson(2.0, 60))
    told = json.loads(advise(file, "--requests", 50, "--json").stdout)
    assert (told["trace"]["cut"], told["trace"]["arrivals"]) == (True, 50)
    assert told["trace"]["began_unix_s"] > 1.8e9 + 10
    assert any("only the latest 50 requests are looked at" in warning for warning in told["warnings"])
    whole = json.loads(advise(file, "--json").stdout)
    assert not any("looked at" in warning for warning in whole["warnings"])


def test_what_flex_and_batch_wait_is_in_the_table_where_there_are_any(tmp_path: Path) -> None:
    arrivals = poisson(2.0, 60) + poisson(0.5, 60, 20.0, Tier.BATCH, seed=4)
    arrivals.sort(key=lambda arrival: arrival.waiting.arrived_at)
    file = ledger(tmp_path / "requests.jsonl", arrivals)
    shown = advise(file).output
    assert "flex/batch wait p50 / p99" in shown
    assert "--policy 'carbon file=FILE'" in " ".join(shown.split())  # not among the levers
    told = json.loads(advise(file, "--json").stdout)
    trial = next(row["trial"] for row in told["levers"] if row["lever"] == "deferring")
    median_s, most_s = trial["deferrable_wait_s"]
    assert 0.0 < median_s <= most_s <= 20.0 + 1e-6
    assert "flex/batch wait" not in advise(ledger(tmp_path / "prompt.jsonl", poisson(2.0, 60))).output


def test_what_holding_saves_on_top_of_the_advised_packing_is_told() -> None:
    arrivals = poisson(4.0, 200, slack=0.5)
    stage = Stage(MODEL, servers=3)
    advice = Judge(arrivals, stage, least=0.15).judge()  # so much apart, the simplest lever is advised
    assert advice.best is not None
    assert advice.best.lever is Lever.PACKING
    assert advice.best.trial is not None
    assert [one.lever for one in advice.on_top] == [Lever.GROUPING]
    (one,) = advice.on_top
    packed = advice.best.setting
    assert packed is not None
    assert one.setting.placement == packed.placement
    again = run(split(arrivals)[1], one.setting.strategy(), stage)
    assert one.saving.share == pytest.approx(1 - again.energy_j / advice.best.trial.energy_j)
    assert one.saving.low <= one.saving.share <= one.saving.high
    told = as_json(advice, Context("t", "c"))
    assert told["on_top"][0]["saving_of_what_is_left"]["share"] == one.saving.share


def test_holding_on_top_that_breaks_a_guardrail_says_so() -> None:
    advice = Judge(poisson(4.0, 200, slack=0.5), Stage(MODEL, servers=3), least=0.15).judge()
    asked = Guardrails(ttft_s=1e-6)
    told = list(on_top(advice.best, advice.rows, [], lambda *_: pytest.fail("it has been run"), _none, asked))
    assert [bool(one.broken) for one in told] == [True]


def _none(*_: object) -> Saving:
    return Saving(0.0, 0.0, 0.0)


def test_what_if_is_asked_with_what_is_advised_in_force() -> None:
    """Slack on spread servers promises what packing has already had."""
    arrivals, stage = poisson(4.0, 200), Stage(MODEL, servers=3)
    advice = Judge(arrivals, stage).judge()
    assert advice.best is not None
    assert advice.best.lever is Lever.PACKING
    assert advice.best.setting is not None
    assert advice.best.trial is not None
    asked = Setting(None, Choice("span", {}), advice.best.setting.placement)
    rest = with_slack(split(arrivals)[1], {Tier.INTERACTIVE: 2.0})
    held = run(rest, asked.strategy(), stage)
    assert advice.what_if[-1].saving.share == pytest.approx(1 - held.energy_j / advice.best.trial.energy_j)
