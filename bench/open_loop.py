"""Sends a plan open loop, every request at its own instant whatever the server does, and reports on it."""

from __future__ import annotations

import asyncio
import platform
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from bench.admin import AdminError, AdminPort, Window
from bench.arrivals import Planned
from bench.bodies import Options
from bench.reckoning import Record, energy_use, grouped, in_flight_mean, latencies, percentiles, problems
from bench.report import Report
from bench.sample import Sample
from bench.senders import Clock, Sender, create_sender
from proxy.admin_address import AdminAddress

SET_UP_S = 0.2  # from now to the load's start

Watch = Callable[["Sending"], Coroutine[Any, Any, None]]


@dataclass(slots=True)
class Sending:
    """A load under way."""

    plan: Sequence[Planned]
    samples: list[Sample]
    clock: Clock

    @property
    def ended(self) -> int:
        return sum(sample.ended_at_s is not None for sample in self.samples)

    @property
    def failed(self) -> int:
        return sum(bool(sample.error) for sample in self.samples)


@dataclass(slots=True)
class _Told:
    """What the admin port tells of a load."""

    strategy: Mapping[str, Any] | None = None
    records: Mapping[str, Record] | None = None
    joules: Mapping[str, Any] | None = None
    window: Window | None = None
    idle_power_w: float | None = None
    error: str = ""


def run(plan: Sequence[Planned], options: Options, load: Mapping[str, Any] | None = None) -> Report:
    """Send a plan and report on it; `load` says in the report how the plan was made.

    Raises:
        BadSpec: the client is not installed.
        AdminError: the admin port did not answer before the load.
    """
    return in_loop(perform(plan, options, load))


def in_loop(work: Coroutine[Any, Any, Report]) -> Report:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


async def perform(
    plan: Sequence[Planned], options: Options, load: Mapping[str, Any] | None = None, watch: Watch | None = None
) -> Report:
    """As `run`, inside a loop; `watch` runs beside the load and is cancelled at its end."""
    async with AsyncExitStack() as stack:
        admin = await stack.enter_async_context(AdminPort(options.admin)) if options.admin else None
        began_offset_s = await admin.clock_offset_s() if admin else 0.0
        sender = create_sender(options)
        stack.push_async_callback(sender.close)
        started_unix_s = time.time() + SET_UP_S
        sending = Sending(plan, [], Clock(time.monotonic() + SET_UP_S))
        watching = asyncio.create_task(watch(sending)) if watch else None
        try:
            await _send_all(sender, sending)
        finally:
            if watching:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
        told = await _ask(admin, sending, began_offset_s) if admin else _Told()
    return _report(sending, options, load, started_unix_s, told)


async def _send_all(sender: Sender, sending: Sending) -> None:
    """Open loop: each request starts at its instant, whatever has become of those before it."""
    async with asyncio.TaskGroup() as group:
        for number, planned in enumerate(sending.plan):
            if (early_s := planned.at_s - sending.clock()) > 0:
                await asyncio.sleep(early_s)
            group.create_task(_send(sender, sending, planned, number))


async def _send(sender: Sender, sending: Sending, planned: Planned, number: int) -> None:
    sample = Sample(planned, sending.clock())
    sending.samples.append(sample)
    await sender.send(sample, number, sending.clock)


async def _ask(admin: AdminPort, sending: Sending, began_offset_s: float) -> _Told:
    """The load's window on the server's clock, its joules, and its requests; a failure is told, not raised."""
    told = _Told()
    ended_s = max(sample.ended_at_s or 0.0 for sample in sending.samples)
    try:
        status = await admin.status()
        told.strategy = status["strategy"]
        told.idle_power_w = (status["energy"] or {}).get("idle_power_w")
        ended_offset_s = await admin.clock_offset_s()
        starts_at = sending.clock.starts_at
        told.window = Window(starts_at + sending.plan[0].at_s + began_offset_s, starts_at + ended_s + ended_offset_s)
        told.joules = await admin.energy(told.window)
        told.records = await admin.requests(sample.id for sample in sending.samples if sample.completed and sample.id)
    except AdminError as error:
        told.error = str(error)
    return told


def _report(sending: Sending, options: Options, load: Mapping[str, Any] | None, started_unix_s: float, told: _Told) -> Report:
    samples, records = sending.samples, told.records or {}
    completed = [sample for sample in samples if sample.completed]
    start_lag_s = percentiles(sample.lag_s for sample in samples)
    energy = None
    if told.window and told.joules:
        energy = energy_use(told.window, told.joules, told.idle_power_w, samples, records)
    return Report(
        label=options.label,
        started_unix_s=started_unix_s,
        versions={"paceline": version("paceline"), "python": platform.python_version()},
        # the address without its token: reports are shown around
        options=asdict(options) | {"admin": AdminAddress.of(options.admin).url if options.admin else None},
        load=load,
        strategy=told.strategy,
        planned=len(sending.plan),
        completed=len(completed),
        failed=len(samples) - len(completed),
        errors=dict(Counter(sample.error for sample in samples if sample.error)),
        duration_s=max(sample.ended_at_s or 0.0 for sample in samples) - sending.plan[0].at_s,
        prompt_tokens=sum(sample.prompt_tokens or sample.planned.prompt_tokens for sample in completed),
        output_tokens=sum(sample.tokens or 0 for sample in completed),
        start_lag_s=start_lag_s,
        latency=latencies(samples, records),
        groups=grouped(records.values()),
        in_flight_mean=in_flight_mean(records.values()),
        energy=energy,
        problems=[*problems(samples, start_lag_s, energy), *([told.error] if told.error else [])],
    )
