"""`paceline policy` as a user starts it, and the tutorial: its code and its commands, from the page itself."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from policies.strategy import PLACEMENTS, POLICIES
from policies.witness import CHECKS
from proxy.cli import main
from tests.end_to_end.paceline import paceline

PAGE = Path(__file__).parents[2] / "docs/writing-a-policy.md"
COMMAND = [str(Path(sys.executable).with_name("paceline"))]

BAD = '''
from dataclasses import dataclass
from policies.base import Decision

@dataclass(frozen=True)
class ByHash:
    """Releases whom a set puts first."""

    def decide(self, view, memory):
        return Decision(list({waiting.id for waiting in view.waiting})[:1])

@dataclass(frozen=True)
class Hanging:
    """Never answers."""

    def decide(self, view, memory):
        while True:
            pass

@dataclass(frozen=True)
class Leaving:
    """Takes the process along."""

    def decide(self, view, memory):
        import os
        os._exit(7)

@dataclass(frozen=True)
class Quitting:
    """Takes the process along, as if all were well."""

    def decide(self, view, memory):
        import os
        os._exit(0)
'''


def run(*arguments: str, at: Path | None = None) -> tuple[int, str]:
    """The command's status and output: in this process, or where `at` has modules that it is to find, in one of its own."""
    if at is None:
        result = CliRunner().invoke(main, arguments)
        return result.exit_code, result.output
    env = {**os.environ, "PYTHONPATH": str(at)}
    done = subprocess.run([*COMMAND, *arguments], env=env, cwd=at, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    (tmp_path / "bad.py").write_text(BAD)
    return tmp_path


def test_lists_all_that_is_built_in() -> None:
    status, text = run("policy", "list", "--json")
    rows = {(row["kind"], row["name"]): row for row in json.loads(text)}
    assert status == 0
    assert set(rows) == {*(("policy", name) for name in POLICIES), *(("placement", name) for name in PLACEMENTS)}
    assert rows["policy", "size"]["parameters"] == {"n": "8", "wait_s": "2.0"}
    assert rows["policy", "capped"]["parameters"]["policy"] == "span"
    assert all(row["summary"] for row in rows.values())


def test_shows_one_with_its_reasons() -> None:
    status, text = run("policy", "show", "span")
    assert (status, "Ren and Tang" in text) == (0, True)
    status, text = run("policy", "show", "pack")
    assert (status, "--set-placement knee=" in text) == (0, True)
    assert run("policy", "show", "spam")[0] == 2


def test_a_good_one_passes_and_a_table_says_so() -> None:
    status, text = run("policy", "check", "capped", "--set", "in_flight=4", "--set", "policy=window")
    assert status == 0
    assert "policy capped" in text
    assert "timeless" in text


def test_what_is_not_there_is_no_verdict() -> None:
    assert run("policy", "check", "spam")[0] == 2
    status, text = run("policy", "check", "capped", "--set", "in_flight=0")
    assert (status, "in_flight must be greater than 0" in text) == (2, True)
    assert run("policy", "check", "capped", "--set", "in_flight")[0] == 2
    assert run("policy", "check", "span", "--timeout", "nan")[0] == 2


def test_another_hash_seed_tells(bad: Path) -> None:
    status, text = run("policy", "check", "bad:ByHash", "--json", at=bad)
    verdicts = {finding["check"]: finding["verdict"] for finding in json.loads(text)["findings"]}
    assert status == 1
    assert verdicts["seeds"] == "bad"
    assert [check for check, verdict in verdicts.items() if verdict == "bad"] == ["seeds"]


@pytest.mark.parametrize(
    ("name", "timeout_s", "says"),
    [
        ("Hanging", "1.5", "no answer within 1.5 s"),
        ("Leaving", "60", "ended with status 7"),
        ("Quitting", "60", "ended before it was examined"),
    ],
)
def test_one_that_does_not_come_back_is_a_failure(bad: Path, name: str, timeout_s: str, says: str) -> None:
    status, text = run("policy", "check", f"bad:{name}", "--timeout", timeout_s, "--json", at=bad)
    assert (status, says in text) == (1, True)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    return [line for block in blocks("console") for line in block.splitlines() if line.startswith("paceline ")]


def test_the_tutorial_has_what_is_run_here() -> None:
    assert len(blocks("python")) == 1
    assert [line.split()[1] for line in commands()] == ["policy", "simulate", "serve", "serve"]


@pytest.mark.parametrize("line", commands())
def test_the_tutorials_commands_run(line: str, tmp_path: Path) -> None:
    arguments = shlex.split(line)[1:]
    if arguments[0] == "simulate" and find_spec("bench.simulation.command") is None:
        pytest.skip("`paceline simulate` is not there yet")
    (tmp_path / "rides.py").write_text(blocks("python")[0])
    status, text = run(*arguments, at=tmp_path)
    assert status == 0, text
    assert "rides:Ride" in text or "Ride" in text


def test_the_tutorials_file_is_what_its_flags_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rides.py").write_text(blocks("python")[0])
    (tmp_path / "paceline.toml").write_text(blocks("toml")[0])
    monkeypatch.syspath_prepend(tmp_path)
    by_flags = run(*shlex.split(next(line for line in commands() if "capped" in line))[1:])
    by_file = run("serve", "--upstream", "http://127.0.0.1:8000", "--config", str(tmp_path / "paceline.toml"), "--check")
    assert by_flags == by_file
    assert by_flags[0] == 0
    assert "policy capped policy=(rides:" in by_flags[1]


def test_the_tutorials_table_names_every_check() -> None:
    assert all(f"`{check}`" in PAGE.read_text() for check in CHECKS)


async def test_the_tutorials_policy_rules_a_proxy_and_can_be_put_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rides.py").write_text(blocks("python")[0])
    monkeypatch.syspath_prepend(tmp_path)
    flags = {"policy.name": "capped", "policy.params.in_flight": 2, "policy.params.policy": "rides:Ride"}
    body = {"inputs": "a b c", "parameters": {"max_new_tokens": 5}}
    async with paceline(speed=10.0, **flags, **{"policy.params.policy.params.n": 3}) as running:
        told = (await running.admin.get("/policy")).json()
        assert told["policy"]["params"]["policy"] == {"name": "rides:Ride", "params": {"riders": 2, "n": 3}}
        async with httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=20) as client:
            held = {"x-paceline-max-hold": "1"}
            answers = [client.post("/generate", json=body, headers=held) for _ in range(7)]
            assert [answer.status_code for answer in await asyncio.gather(*answers)] == [200] * 7
        put = await running.admin.put("/policy", json={key: told[key] for key in ("policy", "placement")})
        assert put.status_code == 200, put.text
        again = (await running.admin.get("/policy")).json()
        assert (again["policy"], again["placement"]) == (told["policy"], told["placement"])
        refused = await running.admin.put("/policy", json={"policy": {"name": "capped", "params": {"policy": "spam"}}})
        assert (refused.status_code, "policy 'capped': policy: no policy 'spam'" in refused.text) == (422, True)
