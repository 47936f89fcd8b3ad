"""Measures what packing saves on real servers with a GPU each: placements, each against spreading.

`python -m bench.packing --url A --url B --model NAME --out DIR`. Starts nothing but `paceline serve` with a meter. Nobody is
held; requests straight through are spread. Each run is in the folder as soon as it is over: the same command goes on. All
servers are awake when a run begins; waking those that sleep at its end is no part of its joules, and `bench/sleep_cost.py`
tells what that costs.
"""

from __future__ import annotations

from typing import Any

import click

from bench.studies.arms import Arm, choices
from bench.studies.command import Defaults, options, study


@click.command()
@click.option("--placements", default="pack", show_default=True, help="With parameters: 'pack knee=48;sleepy'.")
@options(Defaults(rates="1,4,12,24", prompt_tokens="uniform:400:1000", output_tokens="uniform:100:260"))
def main(placements: str, **given: Any) -> None:
    """Placements against spreading, pair by pair."""
    if len(given["urls"]) == 1:
        raise click.UsageError("one server cannot be packed or spread: give --url for each")

    def arms() -> list[Arm]:
        return [Arm(placement=placement) for placement in choices(placements)]

    study("packing", "bench.packing", arms, given)


if __name__ == "__main__":
    main()
