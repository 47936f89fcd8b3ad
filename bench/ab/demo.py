"""`paceline ab demo`: an experiment on this machine: simulated engines, a proxy, traffic, and a switchback."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.live import Live

from bench.ab import ending, terminal
from bench.ab.asking import arm
from bench.ab.client import Client
from bench.ab.document import Document
from bench.ab.errors import errors
from bench.ab.folder import read
from bench.ab.lines import Lines
from bench.processes import Child, ProcessFailed, engine, running

LOOKS_EVERY_S = 0.5
WARMS_S = 3.0  # traffic before the first block: nothing begins from rest
AFTER_S = 30.0  # traffic after the last one

# the traffic of `paceline demo`: four of five requests agree to wait three seconds
TRAFFIC = ("--tiers", "flex=0.8,interactive=0.2", "--max-hold", "flex=3", "--prompt-tokens", "256", "--output-tokens", "128")
positive = click.FloatRange(min=0, min_open=True)

# interactive requests that leave with a group have their first token some prompts later: seen, and no reason to stop a demo
GUARDRAILS = {"ttft_p95": None, "wait_p99_s": 3.5}


@dataclass(frozen=True, slots=True)
class Plan:
    """What the demo runs.

    Attributes:
        asked: the body of `POST /experiments`.
        length_s: of all blocks.
        rate: requests a second.
        admin_port: of the proxy; 0: any.
        path: where the proxy keeps experiments.
        engines: simulated H200s.
    """

    asked: dict[str, Any]
    length_s: float
    rate: float
    admin_port: int
    path: Path
    engines: int = 1
    seed: int = 0


async def perform(plan: Plan, show: Callable[[Document, str], None], *, stay: bool) -> None:
    """Start everything, run the experiment, and stop everything.

    Args:
        plan: what to run.
        show: told the experiment and the admin port's URL, twice a second.
        stay: not before this is cancelled, though traffic ends with the experiment.

    Raises:
        ProcessFailed, NotAnswered: a child did not start, or the proxy refused.
    """
    async with AsyncExitStack() as stack:
        urls = await asyncio.gather(*(stack.enter_async_context(engine("--dialect", "tgi")) for _ in range(plan.engines)))
        serving = await stack.enter_async_context(running("serve", *_options(plan, urls), environ=_environ(plan)))
        ready = await serving.ready(r"paceline ready: data (\S+) admin (\S+)")
        lasts_s = WARMS_S + plan.length_s + AFTER_S
        load = ("load", "--url", ready[1], "--rate", str(plan.rate), "--duration", str(lasts_s), "--seed", str(plan.seed))
        child = await stack.enter_async_context(running(*load, *TRAFFIC))
        await asyncio.sleep(WARMS_S)
        with Client(ready[2]) as client:
            await _watch(client, plan, child, show, stay=stay)


def _options(plan: Plan, urls: Sequence[str]) -> list[str]:
    upstreams = [option for url in urls for option in ("--upstream", url)]
    ports = ("--host", "127.0.0.1", "--port", "0", "--admin-port", str(plan.admin_port))
    return [*upstreams, *ports, "--meter", "simulated", "--log-level", "error"]


def _environ(plan: Plan) -> dict[str, str]:
    return {**os.environ, "PACELINE_EXPERIMENTS__PATH": str(plan.path)}


async def _watch(client: Client, plan: Plan, load: Child, show: Callable[[Document, str], None], *, stay: bool) -> None:
    document = await asyncio.to_thread(client.start, plan.asked)
    while document.running:
        show(document, client.url)
        if load.process.returncode:
            raise ProcessFailed(f"{load.name} ended too early; it printed:\n{load.output}")
        await asyncio.sleep(LOOKS_EVERY_S)
        document = await asyncio.to_thread(client.get, document.name)
    show(document, client.url)
    while stay:
        await asyncio.sleep(LOOKS_EVERY_S)


@click.command("demo", short_help="an experiment on simulated engines, on this machine")
@click.option("--control", default="passthrough", show_default=True, help="What it is compared with.")
@click.option("--treatment", default="span", show_default=True, help="What is tried.")
@click.option("--pairs", type=click.IntRange(min=2), default=12, show_default=True, help="Of blocks, one of each arm.")
@click.option("--block", "block_s", type=positive, default=10.0, show_default=True, help="Seconds.")
@click.option("--burn-in", "burn_in_s", type=click.FloatRange(min=0), default=3.0, show_default=True, help="Seconds.")
@click.option("--rate", type=positive, default=4.0, show_default=True, help="Requests a second.")
@click.option("--engines", type=click.IntRange(min=1), default=1, show_default=True, help="Simulated H200s.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the traffic and of the blocks' order.")
@click.option("--admin-port", type=int, default=9464, show_default=True, help="0: any.")
@click.option(
    "--dir", "path", type=click.Path(path_type=Path), default=Path("paceline-ab"), show_default=True, help="Where it is kept."
)
@click.option("--stay/--end", default=True, show_default=True, help="Keep the proxy when the experiment is over.")
def demo(path: Path, stay: bool, control: str, treatment: str, seed: int, **given: Any) -> None:
    """Start simulated engines, a proxy, traffic and an experiment; another terminal then has `paceline ab status --watch`.

    All joules are simulated. What the experiment came to stays in the folder of --dir: `paceline ab report --from`.
    """
    name = f"demo-{time.strftime('%Y%m%d-%H%M%S')}"  # the folder may hold those of other days
    straight = {"policy": {"name": "passthrough", "params": {}}, "placement": {"name": "spread", "params": {}}}
    console = terminal.plain()
    with errors(), _screen(console) as show:
        arms = {"control": arm(control, straight), "treatment": arm(treatment, straight)}
        lengths = {key: given[key] for key in ("pairs", "block_s", "burn_in_s")}
        asked = {"name": name, **arms, **lengths, "seed": seed, "metric": "j_per_token", "guardrails": GUARDRAILS}
        length_s = 2 * given["pairs"] * given["block_s"]
        setting = (given["rate"], given["admin_port"], path.resolve(), given["engines"], seed)
        ending.run(perform(Plan(asked, length_s, *setting), show, stay=stay))
    with errors():
        terminal.report(read(path, name), console)


@contextmanager
def _screen(console: Console) -> Iterator[Any]:
    """Shows an experiment: in place on a terminal, else a line for each block."""
    if not console.is_terminal:
        yield Lines(console)
        return
    with Live(console=console, auto_refresh=False) as live:
        yield lambda document, url: live.update(terminal.status(document, url), refresh=True)
