"""Makes the runs of a study, one after another, in front of servers that run already; starts nothing but `paceline serve`."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from bench.admin import AdminPort
from bench.arrivals import Load
from bench.bodies import Options
from bench.open_loop import perform
from bench.processes import Ports, running
from bench.studies.arms import STRAIGHT, Arm
from bench.studies.journal import Journal, good
from bench.studies.plan import Run
from bench.studies.provenance import provenance
from bench.studies.watching import Watching, ready
from policies.base import Tier
from policies.strategy import Choice
from telemetry.cost import BUILT_IN, StepModel

WARMS = 8  # requests to each server before the first run: kernels are compiled, clocks rise
READY_WITHIN_S = 60.0

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Setting:
    """Where and how a study is made.

    Attributes:
        module: as `python -m` calls it.
        urls: the servers'.
        budget_s: a run that would not be over so long after `began_s` is not begun.
        began_s: time.monotonic.
        profile: the step model that the proxy has.
        config: a TOML file for the proxy; empty: none.
        dialect: what the servers speak, as the proxy calls it.
    """

    study: str
    module: str
    urls: Sequence[str]
    meter: str
    budget_s: float
    profile: str = BUILT_IN
    config: str = ""
    dialect: str = "auto"
    began_s: float = field(default_factory=time.monotonic)

    @property
    def left_s(self) -> float:
        return self.budget_s - (time.monotonic() - self.began_s)


@asynccontextmanager
async def serving(setting: Setting, longest_hold_s: float) -> AsyncIterator[Ports]:
    """`paceline serve` in front of the servers, which lets requests wait as long as the longest hold of the study."""
    environ = {
        **os.environ,
        "PACELINE_SLACK__INTERACTIVE__MAX_S": f"{max(longest_hold_s, 2.0):g}",
        "PACELINE_ENERGY__PROFILE": setting.profile,
    }
    options = [word for url in setting.urls for word in ("--upstream", url)]
    options += [
        "--dialect",
        setting.dialect,
        "--meter",
        setting.meter,
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--admin-port",
        "0",
    ]
    options += ["--config", setting.config] if setting.config else []
    async with running("serve", *options, environ=environ) as child:
        ready = await child.ready(r"paceline ready: data (\S+) admin (\S+)")
        yield Ports(ready[1], ready[2])


async def measure(setting: Setting, journal: Journal, todo: Sequence[Run], model: StepModel, tell: Tell) -> list[Run]:
    """Make what fits into the budget; the runs that did not.

    Raises:
        ProcessFailed, AdminError, TimeoutError: the proxy or a server does not do what it should; what is over is kept.
        JournalError: the runs that are there were made on other hardware.
    """
    left_out: list[Run] = []
    if min(run.expected_s(model) for run in todo) > setting.left_s:
        return list(todo)
    async with serving(setting, max(run.arm.hold_s for run in todo)) as ports, AdminPort(ports.admin) as admin:
        await ready(admin, READY_WITHIN_S)
        about = await _about(setting, admin)
        journal.here(about["hardware"])
        await _warm(ports, todo[0], len(setting.urls))
        for number, run in enumerate(todo, start=1):
            if run.expected_s(model) > setting.left_s:
                left_out.append(run)
                continue
            line = await _make(ports, admin, run, journal.attempts(run.id))
            journal.add({"study": setting.study, "place": number, **line, "provenance": about})
            tell(f"{number}/{len(todo)} {run.rate:g}/s, seed {run.seed}, {run.arm}: {brief(line)}")
    return left_out


async def _about(setting: Setting, admin: AdminPort) -> dict[str, Any]:
    energy = (await admin.status())["energy"]
    devices = [device["device"] for device in energy["devices"]] if energy else []
    return await asyncio.to_thread(provenance, setting.module, setting.urls, setting.meter, devices)


async def _warm(ports: Ports, like: Run, servers: int) -> None:
    shape = like.shape
    load = Load(
        arrivals="burst", requests=WARMS * servers, prompt_tokens=shape.prompt_tokens, output_tokens=shape.output_tokens
    )
    await perform(load.plan(), _options(ports, like, seed=0))


async def _make(ports: Ports, admin: AdminPort, run: Run, attempt: int) -> dict[str, Any]:
    """One run, from idle servers that are all awake."""
    await _use(admin, STRAIGHT)
    await ready(admin, READY_WITHIN_S)
    await asyncio.sleep(run.shape.settle_s)
    await _use(admin, run.arm)
    # prompts are no other run's, so that none is found in a prefix cache that a former arm has filled
    options = _options(ports, run, seed=crc32(f"{run.id}/{attempt}".encode()))
    began_unix_s = time.time()
    async with Watching(admin) as watching:
        report = (await perform(run.plan, options, watch=watching)).as_json()
    energy = report["energy"]
    devices_j = watching.devices_j(energy["since_s"], energy["until_s"]) if energy else {}
    return {
        "id": run.id,
        "rate": run.rate,
        "seed": run.seed,
        "requests": run.requests,
        "arm": describe(run.arm),
        "shape": run.shape.identity(),
        "began_unix_s": began_unix_s,
        "report": report,
        "devices_j": devices_j,
        "samples": watching.samples(),
    }


def describe(arm: Arm) -> dict[str, Any]:
    """An arm as JSON."""
    return {"name": str(arm), "policy": _named(arm.policy), "placement": _named(arm.placement), "hold_s": arm.hold_s}


def _named(choice: Choice) -> dict[str, Any]:
    return {"name": choice.name, "params": dict(choice.params)}


async def _use(admin: AdminPort, arm: Arm) -> None:
    await admin.use(policy=_named(arm.policy), placement=_named(arm.placement))


def _options(ports: Ports, run: Run, seed: int) -> Options:
    return Options(
        url=ports.data,
        admin=ports.admin,
        dialect="openai",
        api="completions",
        prompt_ids=True,
        model=run.shape.model,
        ignore_eos=True,
        max_hold_s={Tier.INTERACTIVE: run.arm.hold_s} if run.arm.hold_s else {},
        seed=seed,
    )


def brief(line: dict[str, Any]) -> str:
    """One line of progress."""
    report = line["report"]
    if not good(line):
        short = report["completed"] < report["planned"]
        failed = [f"{report['completed']} of {report['planned']} completed, {report['errors']}"] if short else []
        unknown = ["no energy is known"] if report["energy"] is None else []
        return f"says nothing: {'; '.join([*report['problems'], *failed, *unknown])}"
    energy, latency = report["energy"], report["latency"]["all"]
    return (
        f"{energy['j_per_request']:.1f} J/request, {energy['mean_power_w']:.0f} W, wait p99 {latency['wait_s']['p99']:.2f} s, "
        f"token {latency['tpot_s']['p50'] * 1000:.2f} ms"
    )
