"""`paceline demo`: the same traffic straight through and scheduled, over real HTTP between real processes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import httpx

from bench.demo_phases import SEED, Phase, Watched, phases
from bench.demo_screen import Screen
from bench.processes import Child, Ports, ProcessFailed, engine, proxy
from telemetry.cost import BUILT_IN

POLL_S = 0.25
CALM_S = 0.6  # before each phase, so that it begins with idle engines
VOID_LAG = 0.05


@click.command("demo", short_help="see scheduling save energy, in under a minute")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("paceline-demo"),
    show_default=True,
    help="For report.json and report.png.",
)
@click.option("--seed", default=SEED, show_default=True, help="Decides the traffic.")
@click.option("--quick", is_flag=True, help="Shorter phases, larger noise.")
def command(out: Path, seed: int, quick: bool) -> None:
    """Send the same traffic to simulated H200 engines straight through and scheduled, and compare joules and waits."""
    plan = phases(seed, quick=quick)
    with Screen(plan) as screen:
        try:
            report = asyncio.run(perform(plan, screen.show))
        except ProcessFailed as error:
            raise click.ClickException(str(error)) from error
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    screen.conclude(report)
    try:
        from bench.plot import plot_demo
    except ImportError:
        click.echo("no plot: it needs matplotlib (pip install 'paceline[plot]')")
    else:
        plot_demo(report, out / "report.png")
    click.echo(f"report: {out / 'report.json'}" + (f", picture: {out / 'report.png'}" if (out / "report.png").exists() else ""))


async def perform(plan: list[Phase], show: Callable[[Watched], None]) -> dict[str, Any]:
    """Start engines and proxies, run the phases one after the other, and stop everything.

    Raises:
        ProcessFailed: a child did not start, or ended with an error.
    """
    began = time.time()
    async with AsyncExitStack() as stack:
        most = max(phase.engines for phase in plan)
        engines = await asyncio.gather(*(stack.enter_async_context(engine("--dialect", "tgi")) for _ in range(most)))
        counts = sorted({phase.engines for phase in plan})
        proxies = await asyncio.gather(*(stack.enter_async_context(_proxy(engines[:count])) for count in counts))
        ports = dict(zip(counts, proxies, strict=True))
        client = await stack.enter_async_context(httpx.AsyncClient(trust_env=False, timeout=5))
        watched = [await _run(phase, ports[phase.engines], client, show) for phase in plan]
        lags = [(await client.get(f"{url}/simulator/status")).json()["lag"] for url in engines]
    return {
        "marked": "simulated",
        "profile": BUILT_IN,
        "started_unix_s": began,
        "took_s": time.time() - began,
        "versions": {"paceline": version("paceline")},
        "lag": max(lags),
        "void": max(lags) > VOID_LAG,
        "phases": {w.phase.name: {**asdict(w.phase), "power_w": w.power, "report": w.report} for w in watched},
    }


def _proxy(engines: list[str]) -> Any:
    upstreams = [option for url in engines for option in ("--upstream", url)]
    return proxy(*upstreams, "--meter", "simulated", "--log-level", "error")


async def _run(phase: Phase, ports: Ports, client: httpx.AsyncClient, show: Callable[[Watched], None]) -> Watched:
    """One phase: the strategy in force, the load as a process of its own, and a look at it four times a second."""
    watched = Watched(phase)
    (await client.put(f"{ports.admin}/policy", json=dict(phase.strategy))).raise_for_status()
    await asyncio.sleep(CALM_S)
    watched.began_at, began_unix_s = time.monotonic(), time.time()
    with TemporaryDirectory() as folder:
        out = Path(folder) / "report.json"
        load = ("load", "--url", ports.data, "--admin", ports.admin, "--label", phase.name, "--out", str(out))
        child = await Child.start(*load, *phase.load)
        try:
            await _watch(watched, child.process.wait(), ports.admin, client, show)
            await child.finished(10)
        finally:
            await child.stop()
        if not out.exists():
            raise ProcessFailed(f"{child.name} gave no report; it printed:\n{child.output}")
        watched.report = json.loads(out.read_text())
        # seconds since the load's own start, which comes some time after its process's
        late_s = watched.report["started_unix_s"] - began_unix_s
        watched.power = [(at_s - late_s, power_w) for at_s, power_w in watched.power if at_s >= late_s]
    show(watched)
    return watched


async def _watch(
    watched: Watched, ends: Awaitable[int], admin: str, client: httpx.AsyncClient, show: Callable[[Watched], None]
) -> None:
    load = asyncio.ensure_future(ends)
    while not load.done():
        try:
            watched.status = (await client.get(f"{admin}/status")).json()
        except httpx.HTTPError:
            continue
        energy = watched.status["energy"]
        if energy is not None:
            power_w = sum(device["power_w"] for device in energy["devices"])
            watched.power.append((time.monotonic() - watched.began_at, power_w))
        show(watched)
        await asyncio.wait([load], timeout=POLL_S)
