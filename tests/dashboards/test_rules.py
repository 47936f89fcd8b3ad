"""Recording rules and alerts by `promtool test rules`: each alert fires when it should, and only then, and has its page."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.dashboards.stage import RULES
from telemetry.names import CIRCUITS
from tests.tools import tool

RUNBOOK = Path(__file__).parents[2] / "docs/runbook.md"
FILES = sorted(RULES.glob("*.yaml"))
ALERTS = {
    rule["alert"]: rule
    for path in FILES
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
}
BY = 'job="paceline",instance="a:9464"'
GPU = f'{BY},hw_id="GPU-1",energy_source="counter"'
DOMAIN = f'{BY},paceline_domain="all",energy_scope="gpu",energy_source="counter"'
SERVER = f'{BY},paceline_server_group="default",server_address="s",server_port="80"'
REQUESTS = f'gen_ai_server_request_duration_seconds_count{{{BY},server_address="s"}}'
TEN_A_SECOND = {REQUESTS: "0+300x60"}  # steps are of 30 s
HW = f"hw_energy_joules_total{{{GPU}}}"


@dataclass(frozen=True)
class Case:
    """What series do when an alert must fire at `at`, and when it must not."""

    fires: Mapping[str, str]
    quiet: Mapping[str, str]
    at: str = "30m"


def energy(unattributed: int, idle: int = 40) -> dict[str, str]:
    """100 J counted a step."""
    return {
        f"paceline_counted_energy_joules_total{{{DOMAIN}}}": "0+100x60",
        f"paceline_idle_energy_joules_total{{{DOMAIN}}}": f"0+{idle}x60",
        f"paceline_unattributed_energy_joules_total{{{DOMAIN}}}": f"0+{unattributed}x60",
    }


def circuits(server: str, state: str) -> dict[str, str]:
    """A server whose circuit has been in one state all the time."""
    return {f'paceline_server_circuit{{{server},paceline_circuit="{one}"}}': f"{one == state:d}x60" for one in CIRCUITS}


def failing(error: str, a_step: int) -> dict[str, str]:
    return {**TEN_A_SECOND, f'gen_ai_server_request_duration_seconds_count{{{BY},error_type="{error}"}}': f"0+{a_step}x60"}


CASES = {
    "PacelineDown": Case({f"up{{{BY}}}": "1x40 0x20"}, {f"up{{{BY}}}": "1x40 0x1 1x20"}, "25m"),
    "PacelineMissing": Case({'up{job="another"}': "1x60"}, {f"up{{{BY}}}": "0x60"}),
    "PacelineConfigurationsDiffer": Case(
        {f'paceline_config_generation{{job="paceline",instance="{i}",paceline_config_digest="{i}"}}': "1x60" for i in "ab"},
        {f'paceline_config_generation{{job="paceline",instance="{i}",paceline_config_digest="x"}}': "1x60" for i in "ab"},
    ),
    "PacelineFailing": Case(failing("upstream", 30), failing("client_gone", 30)),
    "PacelineDeadlinesMissed": Case(
        {**TEN_A_SECOND, f"paceline_request_late_total{{{BY}}}": "0+9x60"},
        {**TEN_A_SECOND, f"paceline_request_late_total{{{BY}}}": "0+2x60"},
    ),
    "PacelineQueueNearBound": Case(
        {f'paceline_queue_depth{{{BY},paceline_wait="{w}"}}': "45x60" for w in ("hold", "capacity")}
        | {f"paceline_queue_limit{{{BY}}}": "100x60"},
        {f'paceline_queue_depth{{{BY},paceline_wait="hold"}}': "79x60", f"paceline_queue_limit{{{BY}}}": "100x60"},
    ),
    "PacelineBodiesNearBound": Case(
        {f"paceline_queue_body_bytes{{{BY}}}": "900x60", f"paceline_queue_body_limit_bytes{{{BY}}}": "1000x60"},
        {f"paceline_queue_body_bytes{{{BY}}}": "9x60", f"paceline_queue_body_limit_bytes{{{BY}}}": "1000x60"},
    ),
    "PacelineRefusing": Case(
        {f'paceline_request_refusals_total{{{BY},error_type="overloaded"}}': "0+3x60"},
        {f'paceline_request_refusals_total{{{BY},error_type="unauthorized"}}': "0+3x60"},
    ),
    "PacelineCircuitOpen": Case(
        {f'paceline_server_circuit{{{SERVER},paceline_circuit="open"}}': "1x60"},
        {  # it was, and works again
            f'paceline_server_circuit{{{SERVER},paceline_circuit="open"}}': "0x55 1x2 0x5",
            f'paceline_server_circuit{{{SERVER},paceline_circuit="closed"}}': "1x55 0x2 1x5",
        },
    ),
    "PacelineGroupDown": Case(
        circuits(SERVER, "open") | circuits(SERVER.replace("80", "81"), "open"),
        circuits(SERVER, "open") | circuits(SERVER.replace("80", "81"), "closed"),
    ),
    "PacelineServerStuck": Case(
        {f'paceline_server_state{{{SERVER},paceline_state="waking"}}': "1x60"},
        {f'paceline_server_state{{{SERVER},paceline_state="asleep"}}': "1x60"},
    ),
    "PacelineGuardrailTripped": Case(
        {f'paceline_experiment_ended_seconds{{{BY},paceline_experiment="x",paceline_end="tripped"}}': "1500x60"},
        {f'paceline_experiment_ended_seconds{{{BY},paceline_experiment="x",paceline_end="finished"}}': "1500x60"},
    ),
    "PacelinePolicyFaults": Case(  # a counter that is there only since its first
        {f'paceline_policy_faults_total{{{BY},paceline_policy="mine"}}': "_x55 1x5"},
        {f'paceline_policy_faults_total{{{BY},paceline_policy="mine"}}': "7x60"},
    ),
    "PacelineShadowFaults": Case(
        {f'paceline_shadow_faults_total{{{BY},paceline_strategy="mine"}}': "0x55 3x5"},
        {f'paceline_shadow_faults_total{{{BY},paceline_strategy="mine"}}': "3x60"},
    ),
    "PacelineShadowBehind": Case(
        {f"paceline_shadow_behind_seconds{{{BY}}}": "301x60"}, {f"paceline_shadow_behind_seconds{{{BY}}}": "2x50 400x10"}
    ),
    "PacelineConservationBroken": Case(
        {f"paceline_energy_conservation_error_joules{{{DOMAIN}}}": "0x50 -0.000001x10"},
        {f"paceline_energy_conservation_error_joules{{{DOMAIN}}}": "0x60"},
    ),
    "PacelineMeterStale": Case(
        {f"paceline_meter_age_seconds{{{GPU}}}": "0x40 0+30x20"}, {f"paceline_meter_age_seconds{{{GPU}}}": "30x60"}
    ),
    "PacelineMeterFrozen": Case({**TEN_A_SECOND, HW: "0+500x40 20000x20"}, {REQUESTS: "900x60", HW: "0+500x40 20000x20"}),
    "PacelineMeterBridged": Case(
        {f'hw_power_watts{{{BY},hw_id="GPU-1",energy_source="power_integral"}}': "300x60"},
        {f"hw_power_watts{{{GPU}}}": "300x60"},
    ),
    "PacelineMetersDisagree": Case(
        {HW: "0+500x60", f"paceline_meter_integrated_energy_joules_total{{{GPU}}}": "0+440x60"},
        {HW: "0+500x60", f"paceline_meter_integrated_energy_joules_total{{{GPU}}}": "0+480x60"},
    ),
    "PacelineEnergyUnknown": Case(
        {REQUESTS.replace("}", ',error_type=""}'): "0+30x60", f"hw_power_watts{{{GPU}}}": "100x60"},
        {REQUESTS.replace("}", ',error_type=""}'): "0+30x60"},  # no meter: unknown is right
    ),
    "PacelineUnattributed": Case(energy(6), energy(2)),
    "PacelineLedgerDropping": Case(
        {f"paceline_ledger_dropped_total{{{BY}}}": "0x58 12x2"}, {f"paceline_ledger_dropped_total{{{BY}}}": "12x60"}
    ),
}


def promtool(folder: Path, tests: list[dict[str, Any]]) -> None:
    """Runs unit tests of rules; its words when they fail."""
    path = folder / "test.yaml"
    path.write_text(json.dumps({"rule_files": [str(file) for file in FILES], "evaluation_interval": "30s", "tests": tests}))
    done = subprocess.run([tool("promtool"), "test", "rules", path], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def scenario(series: Mapping[str, str], **tests: Any) -> dict[str, Any]:
    return {"interval": "30s", "input_series": [{"series": name, "values": values} for name, values in series.items()], **tests}


def count(alert: str, at: str, expected: int) -> dict[str, Any]:
    """How many of an alert fire: none is no sample."""
    samples = [{"labels": "{}", "value": expected}] if expected else []
    expr = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
    return {"expr": expr, "eval_time": at, "exp_samples": samples}


def test_promtool_takes_them() -> None:
    done = subprocess.run([tool("promtool"), "check", "rules", *FILES], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "duplicate" not in done.stdout


def test_every_alert_has_a_case() -> None:
    assert set(CASES) == set(ALERTS)


@pytest.mark.parametrize("alert", CASES)
def test_an_alert_fires_when_it_should_and_only_then(alert: str, tmp_path: Path) -> None:
    case = CASES[alert]
    fires = scenario(case.fires, promql_expr_test=[count(alert, case.at, 1)])
    quiet = scenario(case.quiet, promql_expr_test=[count(alert, case.at, 0)])
    promtool(tmp_path, [fires, quiet])


OPEN, HALF = (f'paceline_server_circuit{{{SERVER},paceline_circuit="{state}"}}' for state in ("open", "half_open"))
CLOSED = f'paceline_server_circuit{{{SERVER},paceline_circuit="closed"}}'
DEAD = {CLOSED: "0x60", OPEN: "1 1 1 0 1 1 0" + " 1 1 1 0" * 13, HALF: "0 0 0 1 0 0 1" + " 0 0 0 1" * 13}
WELL_AND_IDLE = {CLOSED: "1x19 0x40", OPEN: "0x19 1x3 0x36", HALF: "0x23 1x36"}  # its health route is well, nobody has asked
FEW = {REQUESTS: "0x9 1x9 2x9 3x9 4x9 5x9", REQUESTS.replace("}", ',error_type="upstream"}'): "0x47 1x7 2x8"}
OTHER_RELEASE = {
    f'paceline_config_generation{{job="paceline",namespace="{n}",instance="{n}",paceline_config_digest="{n}"}}': "1x60"
    for n in "ab"
}


EDGES = {
    "a server that is tried again in vain": ("PacelineCircuitOpen", DEAD, 1),
    "a group of it": ("PacelineGroupDown", DEAD, 1),
    "a server that waits for its next request": ("PacelineCircuitOpen", WELL_AND_IDLE, 0),
    "a group that waits for its next request": ("PacelineGroupDown", WELL_AND_IDLE, 0),
    "two of few requests": ("PacelineFailing", FEW, 0),
    "TGI's word for a model that failed": ("PacelineFailing", failing("424", 30), 1),
    "what a client asked wrongly": ("PacelineFailing", failing("422", 30), 0),
    "the same in a stream": ("PacelineFailing", failing("validation", 30), 0),
    "a quiet night, in which all that is not idle is noise": ("PacelineUnattributed", energy(4, idle=96), 0),
    "a neighbour in a quiet night": ("PacelineUnattributed", energy(10, idle=90), 1),
    "two releases": ("PacelineConfigurationsDiffer", OTHER_RELEASE, 0),
}


@pytest.mark.parametrize("what", EDGES)
def test_an_alert_is_right_at_its_edges(what: str, tmp_path: Path) -> None:
    """At each of several instants, so that it does not flap."""
    alert, series, expected = EDGES[what]
    promtool(tmp_path, [scenario(series, promql_expr_test=[count(alert, at, expected) for at in ("25m", "27m30s", "30m")])])


def test_what_nothing_is_wrong_with_raises_nothing(tmp_path: Path) -> None:
    well = {
        f"up{{{BY}}}": "1x60",
        **TEN_A_SECOND,
        **energy(1),
        HW: "0+100x60",
        f"hw_power_watts{{{GPU}}}": "100x60",
        f"paceline_meter_age_seconds{{{GPU}}}": "0.1x60",
        f'paceline_request_energy_joules_count{{{BY},energy_source="counter"}}': "0+300x60",
        f'paceline_server_circuit{{{SERVER},paceline_circuit="closed"}}': "1x60",
        f'paceline_server_circuit{{{SERVER},paceline_circuit="open"}}': "0x60",
        f'paceline_server_state{{{SERVER},paceline_state="awake"}}': "1x60",
        f"paceline_energy_conservation_error_joules{{{DOMAIN}}}": "0x60",
        f"paceline_ledger_dropped_total{{{BY}}}": "0x60",
    }
    none = {"expr": "count(ALERTS)", "eval_time": "30m", "exp_samples": []}
    promtool(tmp_path, [scenario(well, promql_expr_test=[none])])


def test_its_words_have_its_figures(tmp_path: Path) -> None:
    rule = ALERTS["PacelineUnattributed"]
    labels = {"job": "paceline", "instance": "a:9464", "paceline_domain": "all", "energy_scope": "gpu", "severity": "warning"}
    told = {**rule["annotations"], "summary": "10% of the joules of all are nobody's"}
    fired = {"eval_time": "30m", "alertname": rule["alert"], "exp_alerts": [{"exp_labels": labels, "exp_annotations": told}]}
    promtool(tmp_path, [scenario(energy(6), alert_rule_test=[fired])])


def test_joules_per_request_and_per_token(tmp_path: Path) -> None:
    """300 J counted a step, 240 of them charged to 10 requests of 120 tokens together; two sources are never added up."""
    of = 'job="paceline",energy_source="{}"'
    series: dict[str, str] = {}
    for source, factor in (("counter", 1), ("simulated", 2)):
        where = of.format(source)
        series |= {
            f'paceline_counted_energy_joules_total{{{where},energy_scope="gpu"}}': f"0+{300 * factor}x60",
            f'paceline_counted_energy_joules_total{{{where},energy_scope="host"}}': "0+999x60",
            f"paceline_request_energy_joules_sum{{{where}}}": f"0+{240 * factor}x60",
            f"paceline_request_energy_joules_count{{{where}}}": "0+10x60",
            f"paceline_request_output_tokens_total{{{where}}}": "0+120x60",
        }
    expected = {"request_net": 24, "request": 30, "token_net": 2, "token": 2.5}
    tests = []
    for what, joules in expected.items():
        name = f"job_source:paceline_{what}_joules:ratio_rate5m"
        samples = [
            {"labels": f"{{{of.format(source)}}}", "value": joules * factor}
            for source, factor in (("counter", 1), ("simulated", 2))
        ]
        tests.append({"expr": f"round({name}, 0.001)", "eval_time": "20m", "exp_samples": samples})
    promtool(tmp_path, [scenario(series, promql_expr_test=tests)])


def test_unattributed_is_a_share_of_what_idle_does_not_explain(tmp_path: Path) -> None:
    expr = "round(domain:paceline_unattributed:ratio_rate10m * 1000)"
    labels = '{energy_scope="gpu",instance="a:9464",job="paceline",paceline_domain="all"}'
    test = {"expr": expr, "eval_time": "20m", "exp_samples": [{"labels": labels, "value": 50}]}
    promtool(tmp_path, [scenario(energy(3), promql_expr_test=[test])])


def test_the_modelled_saving(tmp_path: Path) -> None:
    of = f'paceline_shadow_energy_joules_total{{{BY},energy_source="modelled",paceline_strategy='
    series = {f'{of}"as_run"}}': "0+75x120", f'{of}"straight"}}': "0+100x120"}
    test = {"expr": "round(job:paceline_modelled_saving:ratio_rate1h, 0.001)", "eval_time": "50m"}
    samples = [{"labels": '{job="paceline"}', "value": 0.25}]
    promtool(tmp_path, [scenario(series, promql_expr_test=[{**test, "exp_samples": samples}])])


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_is_wrong_and_where_its_page_is(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("info", "warning", "critical")
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert rule["annotations"]["runbook"] == f"docs/runbook.md#{alert.lower()}"


def test_the_runbook_has_a_section_for_each_alert_and_no_other() -> None:
    text = RUNBOOK.read_text()
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert [section.splitlines()[0] for section in sections if section.startswith("Paceline")] == list(ALERTS)
    for section in sections:
        if section.startswith("Paceline"):
            assert all(f"**{part}**" in section for part in ("Means", "Look", "Do")), section.splitlines()[0]
