"""Measures what grouping saves on a real server: `python -m bench.grouping --url URL --model NAME --out FILE.json`.

Starts nothing but `paceline serve` with a meter and sends the same seeded Poisson load straight through and under `span`,
seed after seed, the order of the two alternating. Each pair differs in its policy alone. A GPU's server must be running.
"""

from __future__ import annotations

import asyncio
import json
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

import click
import httpx

from bench.arrivals import Load
from bench.bodies import Options
from bench.open_loop import perform
from bench.processes import proxy
from bench.studies.intervals import ratio_interval
from policies.base import Tier

ARMS = ("passthrough", "span")
SETTLE_S = 1.5  # between runs, so that each begins with an idle device


@click.command()
@click.option("--url", required=True, help="A running server that speaks OpenAI's API.")
@click.option("--model", default="m", show_default=True)
@click.option("--meter", type=click.Choice(["nvml", "simulated"]), default="nvml", show_default=True)
@click.option("--rate", default=2.0, show_default=True, help="Requests a second.")
@click.option("--prompt-tokens", default="256", show_default=True)
@click.option("--output-tokens", default="128", show_default=True)
@click.option("--slack", "slack_s", default=2.0, show_default=True, help="Seconds that each request may be held.")
@click.option("--requests", default=60, show_default=True, help="In each run.")
@click.option("--seeds", default=5, show_default=True, help="Pairs of runs.")
@click.option("--first-seed", default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(out: Path, **given: Any) -> None:
    """Straight through against span, pair by pair."""
    result = asyncio.run(study(**given))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    click.echo(json.dumps(result["summary"], indent=2))


async def study(*, url: str, model: str, meter: str, seeds: int, first_seed: int, **shape: Any) -> dict[str, Any]:
    """All pairs, and what they say together."""
    pairs = []
    options = ("--upstream", url, "--dialect", "openai", "--meter", meter, "--policy", ARMS[0])
    async with proxy(*options) as ports, httpx.AsyncClient(base_url=ports.admin, trust_env=False) as admin:
        await _run(ports.data, ports.admin, model, 0, 0, {**shape, "requests": 8, "rate": 8.0})  # warms kernels up
        for number in range(seeds):
            order = ARMS if number % 2 == 0 else ARMS[::-1]
            pair: dict[str, Any] = {"seed": first_seed + number, "order": list(order)}
            for arm in order:
                await asyncio.sleep(SETTLE_S)
                (await admin.put("/policy", json={"policy": {"name": arm}})).raise_for_status()
                prompts = 2 * (first_seed + number) + ARMS.index(arm)  # none is in a cache that the other arm has filled
                pair[arm] = await _run(ports.data, ports.admin, model, first_seed + number, prompts, shape)
                click.echo(f"seed {first_seed + number} {arm}: {brief(pair[arm])}")
            pairs.append(pair)
        status = (await admin.get("/status")).json()
    return {
        "study": "grouping",
        "command": "python -m bench.grouping",
        "shape": {**shape, "seeds": seeds, "first_seed": first_seed, "model": model, "meter": meter},
        "date_unix_s": time.time(),
        "versions": {"paceline": version("paceline"), "python": platform.python_version()},
        "summary": summary(pairs),
        "status_at_end": status,
        "pairs": pairs,
    }


async def _run(data: str, admin: str, model: str, seed: int, prompts: int, shape: Mapping[str, Any]) -> dict[str, Any]:
    load = Load(
        rate=shape["rate"],
        requests=shape["requests"],
        prompt_tokens=shape["prompt_tokens"],
        output_tokens=shape["output_tokens"],
        seed=seed,
    )
    options = Options(
        url=data,
        admin=admin,
        dialect="openai",
        api="completions",
        prompt_ids=True,
        model=model,
        ignore_eos=True,
        max_hold_s={Tier.INTERACTIVE: shape["slack_s"]},
        seed=prompts,
    )
    return (await perform(load.plan(), options)).as_json()


def brief(report: Mapping[str, Any]) -> str:
    energy, latency = report["energy"], report["latency"]["all"]
    if energy is None:
        return f"{report['completed']} completed, energy unknown; {report['problems']}"
    return (
        f"{report['completed']} completed, {energy['j_per_request']:.1f} J/request, {energy['mean_power_w']:.0f} W, "
        f"added wait p99 {latency['wait_s']['p99']:.2f} s, token {latency['tpot_s']['p50'] * 1000:.2f} ms"
    )


def summary(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means of each arm, and the ratio of joules with its interval: Student's t on the pairs' logarithms."""
    complete = [pair for pair in pairs if all(pair[arm]["energy"] is not None and not pair[arm]["problems"] for arm in ARMS)]
    ratios = [pair[ARMS[0]]["energy"]["j_per_request"] / pair[ARMS[1]]["energy"]["j_per_request"] for pair in complete]
    told: dict[str, Any] = {"pairs": len(complete), "void_pairs": len(pairs) - len(complete), "ratios": ratios}
    for arm in ARMS:
        told[arm] = {
            "requests": sum(pair[arm]["completed"] for pair in complete),
            "j_per_request": _mean([pair[arm]["energy"]["j_per_request"] for pair in complete]),
            "active_j_per_request": _mean([pair[arm]["energy"]["active_j_per_request"] for pair in complete]),
            "mean_power_w": _mean([pair[arm]["energy"]["mean_power_w"] for pair in complete]),
            "unattributed_share": _mean([p[arm]["energy"]["unattributed_j"] / p[arm]["energy"]["counted_j"] for p in complete]),
            "wait_p50_s": _mean([pair[arm]["latency"]["all"]["wait_s"]["p50"] for pair in complete]),
            "wait_p99_s": _mean([pair[arm]["latency"]["all"]["wait_s"]["p99"] for pair in complete]),
            "ttft_p50_s": _mean([pair[arm]["latency"]["all"]["ttft_s"]["p50"] for pair in complete]),
            "tpot_p50_s": _mean([pair[arm]["latency"]["all"]["tpot_s"]["p50"] for pair in complete]),
            "tpot_p99_s": _mean([pair[arm]["latency"]["all"]["tpot_s"]["p99"] for pair in complete]),
            "group_mean": _mean([pair[arm]["groups"]["mean"] for pair in complete]),
        }
    saving = ratio_interval(ratios)
    if saving is not None and saving.low_95 is not None:
        told["saving"] = {"ratio": saving.middle, "low_95": saving.low_95, "high_95": saving.high_95}
    return told


def _mean(values: list[float]) -> float | None:
    return mean(values) if values else None


if __name__ == "__main__":
    main()
