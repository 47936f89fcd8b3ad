"""The laptop's stack at work, natively, with the very files that Docker would use: joules in Prometheus, traces, a drain."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.docker.compose import DOCKER
from tests.docker.stack import Stack, running

TOKEN = "a-token-of-this-test-0123456789"
WITHIN_S = 45.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("stack"), {"admin-token": TOKEN}) as running_stack:
        yield running_stack


def soon(look: Callable[[], Any]) -> Any:
    """What is found at last; scrapes and batches take their time."""
    until = time.monotonic() + WITHIN_S
    while not (found := look()):
        assert time.monotonic() < until, "nothing came"
        time.sleep(0.5)
    return found


def test_prometheus_scrapes_all_its_targets(stack: Stack) -> None:
    soon(lambda: {s["metric"]["job"] for s in stack.query("up == 1")} == {"paceline", "prometheus"})
    assert stack.query("up == 0") == []


def test_joules_of_both_engines_reach_prometheus_and_say_that_they_are_simulated(stack: Stack) -> None:
    devices = soon(lambda: stack.query("hw_energy_joules_total > 0"))
    assert {s["metric"]["hw_id"] for s in devices} == {"sim:engine-1:8001", "sim:engine-2:8002"}
    assert {s["metric"]["energy_source"] for s in devices} == {"simulated"}
    requests = soon(lambda: stack.query("paceline_request_energy_joules_sum > 0"))
    assert {s["metric"]["energy_source"] for s in requests} == {"simulated"}
    conserved = stack.query("paceline_energy_conservation_error_joules")
    assert [float(s["value"][1]) for s in conserved] == [0.0, 0.0]


def test_the_rules_are_loaded_and_can_be_evaluated(stack: Stack) -> None:
    def evaluated() -> list[dict[str, Any]]:
        groups = stack.get("http://prometheus:9090/api/v1/rules")["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        return rules if all(rule["health"] != "unknown" for rule in rules) else []

    rules = soon(evaluated)
    assert [rule for rule in rules if rule["health"] != "ok"] == []
    assert [rule["name"] for rule in rules if rule.get("state") == "firing"] == []


def test_traces_pass_the_collector_with_the_joules_of_their_requests(stack: Stack) -> None:
    def arrived() -> Any:
        sent = stack.get("http://jaeger:14318/")
        return sent if any("paceline.energy.joules" in span for span in sent["spans"]) else None

    sent = soon(arrived)
    assert {resource["service.name"] for resource in sent["resources"]} == {"paceline"}
    span = next(span for span in sent["spans"] if "paceline.energy.joules" in span)
    assert span["paceline.energy.joules"] > 0
    assert span["energy.source"] == "simulated"
    assert span["server.address"] in ("engine-1", "engine-2")
    assert span["gen_ai.operation.name"] == "chat"
    assert span["paceline.policy"] == "span"
    assert {s["paceline.tier"] for s in sent["spans"]} <= {"interactive", "flex"}


def test_only_the_volume_can_be_written(stack: Stack) -> None:
    assert stack.ask(run=["touch", "/usr/local/bin/x"], **{"in": "proxy"})["status"] != 0
    written = stack.ask(run=["sh", "-c", "ls -R /var/lib/paceline"], **{"in": "proxy"})
    assert "ledger" in written["output"]


def test_who_changes_something_shows_the_token(stack: Stack) -> None:
    strategy = json.dumps({"policy": {"name": "window", "params": {"every_s": 0.5}}})
    put = {"get": "http://proxy:9464/policy", "method": "PUT", "body": strategy}
    kind = {"content-type": "application/json"}
    assert stack.ask(**put, headers=kind)["status"] == 401
    assert stack.get("http://proxy:9464/readyz")["ready"]  # who only looks needs none
    assert stack.ask(**put, headers=kind | {"authorization": f"Bearer {TOKEN}"})["status"] == 200


def test_the_gpu_hosts_configuration_is_good(stack: Stack) -> None:
    config = str(DOCKER / "paceline" / "gpu.toml")
    checked = stack.ask(run=["paceline", "serve", "--check", "--config", config], **{"in": "proxy"})
    assert checked["status"] == 0, checked["output"]


def test_an_experiment_as_the_quick_start_has_it(stack: Stack) -> None:
    page = (DOCKER.parent / "docs" / "quickstart.md").read_text()
    commands = [line.split("exec proxy ")[1].split() for line in page.splitlines() if "exec proxy paceline ab" in line]
    assert [command[2] for command in commands] == ["start", "status", "report"]
    for command in commands:
        done = stack.ask(run=[word for word in command if word != "--watch"], **{"in": "proxy"})
        assert done["status"] == 0, done["output"]


def test_the_proxy_ends_within_its_grace(stack: Stack) -> None:
    ended = stack.ask(stop="proxy")
    assert ended["status"] == 0, ended["output"]
    assert TOKEN not in ended["output"]
