"""`paceline load`: open-loop load with exact arrival instants, and a report of latencies, errors and joules."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from bench.admin import AdminError
from bench.arrivals import ARRIVALS, INTERACTIVE, Load
from bench.bodies import APIS, CLIENTS, Options
from bench.draws import LENGTHS, BadSpec, by_tier, tiers
from bench.open_loop import in_loop, perform, run
from policies.base import Tier
from proxy.admin_address import admin_option

__all__ = ["Load", "Options", "command", "run"]


def _holds(spec: str | None) -> Mapping[Tier, float]:
    """One number is for all tiers."""
    if spec is None:
        return {}
    return by_tier(spec, "hold") if "=" in spec else by_tier(",".join(f"{tier.value}={spec}" for tier in Tier), "hold")


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


@click.command("load", short_help="send load, report latencies and joules")
@click.option("--url", required=True, help="The server or proxy.")
@admin_option(help="Paceline's admin port; without it no energy is known.")
@click.option("--dialect", type=click.Choice(list(APIS)), default="tgi", show_default=True, help="What the server speaks.")
@click.option("--api", type=click.Choice(APIS["tgi"]), help="[generate for tgi, completions for openai]")
@click.option("--arrivals", type=click.Choice(ARRIVALS), help="[poisson; trace when --trace is given]")
@click.option("--rate", type=float, default=1.0, show_default=True, help="Requests a second.")
@click.option("--requests", type=int, help="Most requests. [100 if there is no duration and no trace]")
@click.option("--duration", type=float, help="Seconds after which no request is sent.")
@click.option("--trace", metavar="FILE", help="CSV with TIMESTAMP,ContextTokens,GeneratedTokens.")
@click.option("--speedup", type=float, default=1.0, show_default=True, help="Play the trace so many times faster.")
@click.option("--prompt-tokens", metavar="SPEC", help=f"{LENGTHS}. [the trace's, else 256]")
@click.option("--output-tokens", metavar="SPEC", help="The same. [the trace's, else 128]")
@click.option("--tiers", "shares", metavar="SPEC", help="Shares, such as flex=0.5,interactive=0.5. [interactive]")
@click.option("--max-hold", metavar="S", help="x-paceline-max-hold in seconds, for all or by tier: flex=4,interactive=0.5.")
@click.option("--stream/--no-stream", default=True, show_default=True, help="Whether answers are streamed.")
@click.option("--prompt-ids", is_flag=True, help="Prompts as token ids: exact lengths (OpenAI's completions).")
@click.option("--model", default="", help="The body's model.")
@click.option("--ignore-eos", is_flag=True, help="Ask for every output token (vLLM, SGLang, llama.cpp).")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides instants, lengths and tiers.")
@click.option("--timeout", type=float, default=120.0, show_default=True, help="Seconds for one request.")
@click.option("--client", type=click.Choice(CLIENTS), default="raw", show_default=True, help="Whose HTTP client sends.")
@click.option("--out", metavar="FILE", help="Write the report as JSON.")
@click.option("--label", default="", help="A name for the report.")
def command(**given: Any) -> None:
    """Send requests at planned instants, whatever the server does, and report latencies, errors and joules."""
    from bench.telling import tell, watch

    try:
        load, options = _load(given), _options(given)
        plan = load.plan()
        described = asdict(load) | {"trace": str(load.trace) if load.trace else None}
        report = in_loop(perform(plan, options, described, watch))
    except (BadSpec, AdminError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    if given["out"]:
        Path(given["out"]).write_text(json.dumps(report.as_json(), indent=2) + "\n")
    tell(report)
    sys.exit(1 if report.problems else 0)


def _load(given: Mapping[str, Any]) -> Load:
    endless = given["requests"] is None and given["duration"] is None and given["trace"] is None
    return Load(
        arrivals=given["arrivals"] or ("trace" if given["trace"] else "poisson"),
        rate=given["rate"],
        requests=100 if endless else given["requests"],
        duration_s=given["duration"],
        trace=_path(given["trace"]),
        speedup=given["speedup"],
        prompt_tokens=given["prompt_tokens"],
        output_tokens=given["output_tokens"],
        tiers=tiers(given["shares"]) if given["shares"] else INTERACTIVE,
        seed=given["seed"],
    )


def _options(given: Mapping[str, Any]) -> Options:
    same = ("url", "admin", "dialect", "stream", "prompt_ids", "model", "ignore_eos", "client", "seed", "label")
    return Options(
        **{name: given[name] for name in same},
        api=given["api"] or "",
        max_hold_s=_holds(given["max_hold"]),
        timeout_s=given["timeout"],
    )
