"""Measures where holding pays on one real server: rates, holds and policies, each against straight through.

`python -m bench.grid --url URL --model NAME --out DIR`. Starts nothing but `paceline serve` with a meter. All arms of a rate
and seed are sent the same Poisson arrivals, streamed, and share one run straight through, which no hold concerns. Each run is
in the folder as soon as it is over, so that slices of device time add up: the same command goes on where it ended.
"""

from __future__ import annotations

from typing import Any

import click

from bench.studies.arms import Arm, choices, numbers
from bench.studies.command import Defaults, options, study


@click.command()
@click.option("--policies", default="span;adaptive", show_default=True, help="With parameters: 'span;window every_s=1'.")
@click.option("--holds", default="2,8", show_default=True, help="Seconds that each request may be held, with commas.")
@options(Defaults(rates="2,4,8,16", prompt_tokens="256", output_tokens="128"))
def main(policies: str, holds: str, **given: Any) -> None:
    """Rates, holds and policies against straight through, pair by pair."""

    def arms() -> list[Arm]:
        return [Arm(policy, hold_s=hold_s) for policy in choices(policies) for hold_s in numbers(holds, "seconds of hold")]

    study("grid", "bench.grid", arms, given)


if __name__ == "__main__":
    main()
