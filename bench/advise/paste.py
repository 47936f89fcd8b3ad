"""What to paste so that an advice is in force: a configuration, and a command line."""

from __future__ import annotations

import json
from collections.abc import Mapping

from bench.advise.findings import Row
from policies.strategy import Choice


def configuration(row: Row, slack_s: Mapping[str, float]) -> str:
    """TOML of the configuration."""
    assert row.setting is not None
    parts = [_section("policy", row.setting.policy), _section("placement", row.setting.placement)]
    for tier, seconds in slack_s.items():
        parts.append(f"[slack.{tier}]\ndefault_s = {seconds:g}\nmax_s = {max(seconds, 2.0):g}\n")
    return "\n".join(parts)


def _section(name: str, choice: Choice) -> str:
    params = f"params = {_toml(dict(choice.params))}\n" if choice.params else ""
    return f'[{name}]\nname = "{choice.name}"\n{params}'


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value)


def command_line(row: Row, slack_s: Mapping[str, float]) -> str:
    """The flags that stand for it; slack has none."""
    assert row.setting is not None
    words = ["paceline serve"]
    for flag, choice, setting in (("policy", row.setting.policy, "set"), ("placement", row.setting.placement, "set-placement")):
        words.append(f"--{flag} {choice.name}")
        words += [f"--{setting} '{key}={_toml(value)}'" for key, value in choice.params.items()]
    return " ".join([*words, "--config FILE" if slack_s else "--upstream ..."])
