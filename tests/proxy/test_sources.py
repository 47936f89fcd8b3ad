"""Parameters that are policies: how each source of the configuration writes them, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from policies.base import Policy
from policies.capped import Capped
from policies.ordered import Ordered
from policies.passthrough import Passthrough
from policies.span import Span
from policies.window import Window
from proxy.sources import ConfigError, load, parameters

CAPPED = {"upstreams": ["http://127.0.0.1:8000"], "policy.name": "capped"}


def policy(file: Path | None = None, environ: dict[str, str] | None = None, **flags: Any) -> Policy:
    return load(file, environ or {}, {**CAPPED, **flags}).strategy().policy


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "paceline.toml"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (["policy=passthrough", "in_flight=96"], Capped(Passthrough(), in_flight=96)),
        (["policy=window", "policy.params.every_s=1"], Capped(Window(1.0))),
        (['policy={name="window", params={every_s=1}}'], Capped(Window(1.0))),
        (["policy.name=window", "policy.params.every_s=1"], Capped(Window(1.0))),
        (
            ["policy=ordered", "policy.params.policy=window", "policy.params.policy.params.every_s=1", "policy.params.by=fair"],
            Capped(Ordered(Window(1.0), "fair")),
        ),
    ],
)
def test_on_the_command_line(pairs: list[str], expected: Policy) -> None:
    told = parameters(pairs)
    assert policy(**{f"policy.params.{key}": value for key, value in told.items()}) == expected
    one_by_one = dict(pair.split("=", 1) for pair in pairs)
    flags = {f"policy.params.{key}": parameters([f"x={text}"])["x"] for key, text in one_by_one.items()}
    assert policy(**flags) == expected


def test_a_stronger_source_changes_one_parameter_of_an_inner_policy(tmp_path: Path) -> None:
    file = written(tmp_path, '[policy]\nname = "capped"\nparams = { tokens = 9, policy = { name = "window" } }\n')
    assert policy(file) == Capped(Window(), tokens=9)
    assert policy(file, {"PACELINE_POLICY__PARAMS__POLICY__PARAMS__EVERY_S": "3"}) == Capped(Window(3.0), tokens=9)
    assert policy(file, **{"policy.params.policy": "span"}) == Capped(Span(), tokens=9)
    file = written(tmp_path, '[policy.params]\npolicy = "window"\n')
    assert policy(file, **{"policy.params.policy.params.every_s": 3}) == Capped(Window(3.0))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            {"policy": "spam"},
            "policy (flag --policy, flag --set policy): policy 'capped': policy: no policy 'spam': built in are ",
        ),
        (
            {"policy": "window", "policy.params.every_s": 0},
            "flag --set policy.params.every_s): policy 'capped': policy: ",
        ),
        ({"policy.params.every_s": 1}, "is no policy: write its name, or {name = ..., params = {...}}"),
        ({"in_flight": 4, "in_flight.params.x": 1}, "'in_flight' is no table"),
    ],
)
def test_a_wrong_one_is_told_with_its_place(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        policy(**{f"policy.params.{key}": value for key, value in flags.items()})
    assert said in str(refused.value)


@pytest.mark.parametrize("pair", ["in_flight", "=3"])
def test_what_is_no_pair_is_refused(pair: str) -> None:
    with pytest.raises(ConfigError, match="write KEY=VALUE"):
        parameters([pair])
