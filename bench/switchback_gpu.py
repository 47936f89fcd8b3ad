"""A real switchback on a real server: straight through against a policy, and an A/A test of the same length beside it.

`python -m bench.switchback_gpu --url URL --model NAME --out DIR`. Starts nothing but `paceline serve` with a meter and
`paceline load`, which sends a Poisson load for the whole time, between blocks and during burn-in as well. A run ends when its
budget does, and the same command goes on where it ended: both experiments are cut into slices (`bench/ab/slices.py`), and
what a run was cut off in the middle of is lost with its pair. It leaves `report-ab.html`, `report-aa.html` and their JSON.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench.ab.errors import errors
from bench.ab.study import KINDS, Setting, same_study, study
from proxy.dialects import DIALECTS
from telemetry.cost import BUILT_IN


@click.command()
@click.option("--url", "urls", multiple=True, required=True, help="A running server that speaks OpenAI's API; may be repeated.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="A folder; goes on where it ended."
)
@click.option("--model", default="m", show_default=True, help="What the servers call their model.")
@click.option("--meter", type=click.Choice(["nvml", "simulated"]), default="nvml", show_default=True)
@click.option("--control", default="passthrough", show_default=True)
@click.option("--treatment", default="span", show_default=True, help="As `paceline ab start` takes it.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), default=2.0, show_default=True, help="Requests a second.")
@click.option("--hold-s", type=click.FloatRange(min=0), default=2.0, show_default=True, help="That each request agrees to.")
@click.option("--prompt-tokens", default="256", show_default=True)
@click.option("--output-tokens", default="128", show_default=True)
@click.option("--pairs", type=click.IntRange(min=1), default=16, show_default=True, help="Of each of the two experiments.")
@click.option(
    "--slice-pairs", type=click.IntRange(min=1), default=4, show_default=True, help="In one slice, which is a stratum."
)
@click.option("--block-s", type=click.FloatRange(min=0, min_open=True), default=20.0, show_default=True)
@click.option("--burn-in-s", type=click.FloatRange(min=0), default=5.0, show_default=True)
@click.option("--seed", default=1, show_default=True, help="Of traffic and orders.")
@click.option("--warm-s", type=click.FloatRange(min=0), default=15.0, show_default=True, help="Of load before the first slice.")
@click.option("--budget-s", type=click.FloatRange(min=1), default=560.0, show_default=True, help="Most time to take.")
@click.option("--profile", default=BUILT_IN, show_default=True, help="The proxy's step model.")
@click.option("--config", default="", help="A TOML file for the proxy.")
@click.option("--dialect", type=click.Choice(["auto", *DIALECTS]), default="auto", show_default=True)
def main(**given: Any) -> None:
    """A switchback and an A/A test on running servers, in slices that fit into the budget."""
    setting = Setting(given)
    if given["pairs"] % given["slice_pairs"]:
        raise click.UsageError("--pairs must be a multiple of --slice-pairs, so that all slices are alike")
    with errors():
        try:
            for kind in KINDS:
                setting.arms(kind)
                setting.design(kind)
            Path(given["out"]).mkdir(parents=True, exist_ok=True)
            same_study(setting)
            study(setting)
        except (ValueError, OSError) as error:
            raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
