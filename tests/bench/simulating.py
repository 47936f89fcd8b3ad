"""`paceline simulate` as its tests call it, and a model of steps whose joules can be reckoned by hand."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner, Result

from proxy.cli import main
from telemetry.cost import Linear, StepModel

MODEL = StepModel(
    "toy",
    Linear(0.1, 0.001, 0.0001, 0.0),
    Linear(10.0, 0.1, 0.01, 0.0),
    idle_power_w=20.0,
    sleep_power_w=5.0,
    sleep_s=1.0,
    wake_s=2.0,
    wake_j=30.0,
)


def simulate(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["simulate", *map(str, arguments)])


def report(*arguments: object) -> dict[str, Any]:
    result = simulate(*arguments, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert isinstance(told, dict)
    return told
