"""A running Paceline with everything to see, and a real Prometheus that scrapes it: what dashboards are tried on."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from bench.dashboards.asking import JOB
from bench.dashboards.traffic import AWAY, MODELS, TENANTS, send
from bench.processes import Child, ProcessFailed, engine, running
from telemetry import names
from telemetry.names import exported

RULES = Path(__file__).parents[2] / "charts/paceline/rules"
LASTS_S = 28.0  # at least; then until an experiment's interval is there: from the sixth pair of 4 s on, and pairs can be lost
MOST_S = 80.0
INTERVAL = f'{exported(names.EXPERIMENT_EFFECT)}{{paceline_bound="low"}}'
READY_WITHIN_S = 20.0
ENGINE = ("--dialect", "openai", "--max-concurrent", "5")  # says 429 to one more, which then waits once more
SLOTS = 6  # of each server: bursts wait for one, and some of them too long


@asynccontextmanager
async def staged(folder: Path, prometheus: str) -> AsyncIterator[str]:
    """Two simulated engines, a server that is away, a proxy with an experiment and a shadow, and traffic for a while.

    Args:
        folder: where configuration and data are kept.
        prometheus: the program's path.

    Yields:
        The URL of Prometheus once the traffic is over. It goes on scraping.

    Raises:
        ProcessFailed: something did not start, or the experiment found nothing in time.
    """
    async with engine(*ENGINE) as first, engine(*ENGINE) as second:
        config = folder / "paceline.toml"
        config.write_text(_config((first, second, f"http://127.0.0.1:{free_port()}"), folder))
        ports = ("--host", "127.0.0.1", "--port", "0", "--admin-port", "0", "--log-level", "warning")
        async with running("serve", "--config", str(config), *ports) as proxy:
            ready = await proxy.ready(r"paceline ready: data (\S+) admin (\S+)")
            async with scraping(folder, prometheus, ready[2].removeprefix("http://")) as url:
                await _experiment(ready[2])
                await _traffic(ready[1], url)
                _still_runs(proxy)
                yield url


async def _traffic(proxy: str, prometheus: str) -> None:
    sending = asyncio.create_task(send(proxy, MOST_S))
    try:
        await asyncio.sleep(LASTS_S)
        await shown(prometheus, INTERVAL, MOST_S - LASTS_S)
    finally:
        sending.cancel()
        with suppress(asyncio.CancelledError):
            await sending


def _config(upstreams: tuple[str, str, str], folder: Path) -> str:
    """The server that is away has a group of its own: its circuit opens, and who wants its model is refused in the end."""
    groups = ("default", "default", AWAY)
    servers = ", ".join(
        f'{{ url = "{url}", group = "{group}", slots = {SLOTS}, dialect = "openai" }}'
        for url, group in zip(upstreams, groups, strict=True)
    )
    tenants = "".join(f'[[tenants]]\nname = "{name}"\n{settings}\n' for name, settings in TENANTS.items())
    models = "".join(f'[[models]]\nname = "{name}"\ngroup = "{group}"\n' for name, group in MODELS.items())
    domains = "".join(f'[[energy.domains]]\ndevices = ["{url}"]\nupstreams = ["{url}"]\n' for url in upstreams[:2])
    return f"""
upstreams = [{servers}]
usage = "inject"
busy = "wait"
queue = {{ limit = 200, timeout_s = 4 }}
health = {{ every_s = 0.5, failures = 2 }}
ledger = {{ path = "{folder / "ledger"}" }}
experiments = {{ path = "{folder / "experiments"}" }}
{tenants}{models}
[energy]
meter = "simulated"
{domains}
[shadow]
share = 0.5
strategies = [{{ name = "every-second", policy = {{ name = "window", params = {{ every_s = 1 }} }} }}]
"""


EXPERIMENT: Mapping[str, Any] = {
    "name": "span-or-not",
    "group": "default",
    "control": {"policy": {"name": "passthrough"}, "placement": {"name": "spread"}},
    "treatment": {"policy": {"name": "span"}, "placement": {"name": "spread"}},
    "block_s": 2,
    "burn_in_s": 0.4,
    "pairs": 40,
    "guardrails": {"ttft_p95": 50, "tpot_p95": 50, "errors": 0.9, "late": 0.9, "hard_ratio": 1000, "hard_share": 1},
}


async def _experiment(admin: str) -> None:
    """One that is over, and one that runs; its guardrails let everything pass."""
    async with httpx.AsyncClient(base_url=admin, trust_env=False, timeout=30) as client:
        for path, asked in (
            ("/experiments", {**EXPERIMENT, "name": "former"}),
            ("/experiments/former/stop", {}),
            ("/experiments", EXPERIMENT),
        ):
            answer = await client.post(path, json=asked)
            if not answer.is_success:
                raise ProcessFailed(f"{path}: {answer.text}")


def free_port() -> int:
    """Nobody listens there now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _still_runs(child: Child) -> None:
    if child.process.returncode is not None:
        raise ProcessFailed(f"{child.name} ended too early; it printed:\n{child.output}")


@asynccontextmanager
async def scraping(folder: Path, program: str, target: str) -> AsyncIterator[str]:
    """Prometheus with our rules, looking at one proxy every second; yields its URL once it has seen it."""
    port = free_port()
    config = folder / "prometheus.yml"
    config.write_text(json.dumps(_scrapes(target)))  # JSON is YAML
    options = (f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}", f"--web.listen-address=127.0.0.1:{port}")
    log = (folder / "prometheus.log").open("w")
    process = await asyncio.create_subprocess_exec(
        program, *options, "--enable-feature=exemplar-storage", stdout=log, stderr=log, start_new_session=True
    )
    try:
        url = f"http://127.0.0.1:{port}"
        await shown(url, f'up{{job="{JOB}"}} == 1', READY_WITHIN_S)
        yield url
    finally:
        log.close()
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _scrapes(target: str) -> Mapping[str, Any]:
    return {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES / "*.yaml")],
        "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": [target]}]}],
    }


async def shown(url: str, query: str, within_s: float) -> None:
    """Wait until Prometheus has something to say to a query.

    Raises:
        ProcessFailed: it has not in time.
    """
    until = asyncio.get_running_loop().time() + within_s
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        while asyncio.get_running_loop().time() < until:
            with suppress(httpx.TransportError):  # it does not listen yet
                found = await client.get("/api/v1/query", params={"query": query})
                if found.is_success and found.json()["data"]["result"]:
                    return
            await asyncio.sleep(0.1)
    raise ProcessFailed(f"Prometheus has not seen {query} within {within_s:g} s")
