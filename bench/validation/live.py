"""Runs a cell for real: `paceline serve` before `paceline engine`, an open-loop load of streams over HTTP."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import httpx

from bench.bodies import Options
from bench.open_loop import perform
from bench.processes import engine, proxy
from bench.report import Report
from bench.validation.case import PASSTHROUGH, SPREAD, Case, arrivals, of_report
from bench.validation.cells import Cell
from bench.validation.compare import Pair
from bench.validation.twin import simulated
from policies.strategy import Choice
from telemetry.cost import load_profile


class Void(Exception):
    """A run that says nothing, because this machine was too slow for it; the message says how."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a run found, and how late each engine's wire was."""

    report: Report
    lags: Sequence[float]


async def validated(cell: Cell, profile: str, tries: int, tell: Callable[[str], None]) -> Pair | None:
    """A cell and its twin; None when each try was void."""
    voids: list[str] = []
    for _ in range(tries):
        load = os.getloadavg()[0]
        try:
            ran = await run(cell, profile)
        except Void as error:
            voids.append(str(error))
            tell(f"{cell.study}, {cell.arm}: void, {error}")
            continue
        told = {"lags": list(ran.lags), "load_average": load, "void_tries": voids, "groups": ran.report.groups and {
            "mean": ran.report.groups.mean, "max": ran.report.groups.max}}  # fmt: skip
        case = _case(cell, ran.report)
        return Pair(case, simulated(case, load_profile(profile)), told)
    return None


async def run(cell: Cell, profile: str) -> Ran:
    """One run, with engines and a proxy of its own, so that nothing is left of the one before.

    Raises:
        Void: an engine's wire was too late, or the load's generator, or a request failed.
    """
    async with AsyncExitStack() as stack:
        urls = [
            await stack.enter_async_context(engine("--dialect", "openai", "--profile", profile)) for _ in range(cell.servers)
        ]
        upstreams = [option for url in urls for option in ("--upstream", url)]
        flags = [*upstreams, "--dialect", "openai", "--meter", "simulated", *_strategy(cell)]
        ports = await stack.enter_async_context(proxy(*flags))
        options = Options(
            url=ports.data,
            admin=ports.admin,
            dialect="openai",
            api="completions",
            prompt_ids=True,
            ignore_eos=True,
            max_hold_s=cell.holds,
            seed=cell.seed,
        )
        report = await perform(cell.plan(), options)
        lags = [await _lag(url) for url in urls]
    if report.failed or report.problems:
        raise Void("; ".join([*report.problems, *report.errors]))
    return Ran(report, lags)


def _strategy(cell: Cell) -> list[str]:
    def params(flag: str, choice: Choice) -> list[str]:
        return [part for key, value in choice.params.items() for part in (flag, f"{key}={value}")]

    return [
        *("--policy", cell.policy.name, *params("--set", cell.policy)),
        *("--placement", cell.placement.name, *params("--set-placement", cell.placement)),
    ]


async def _lag(url: str) -> float:
    """How late the engine's wire was, as a share of its work."""
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=10) as client:
        status = (await client.get("/simulator/status")).json()
    if status["void"]:
        raise Void(f"the engine's wire was {status['lag']:.1%} late")
    return float(status["lag"])


def _case(cell: Cell, report: Report) -> Case:
    """The run as a case: the plan's arrivals on the proxy's clock, which windows are cut by."""
    assert report.energy is not None  # else it had a problem
    return Case(
        study=cell.study,
        arm=cell.arm,
        seed=cell.seed,
        source="paceline serve and paceline engine, over HTTP",
        measured=of_report(report.as_json()),
        window_s=report.energy.window_s,
        policy=cell.policy,
        placement=cell.placement,
        servers=cell.servers,
        joules=report.energy.source,
        base=(cell.policy, cell.placement) == (PASSTHROUGH, SPREAD),
        draws=[arrivals(cell.plan(), cell.holds, report.energy.since_s)],
        since_s=report.energy.since_s,
    )
