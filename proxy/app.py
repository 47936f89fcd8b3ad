"""The composition root: what a running Paceline is made of, and how its parts hold together."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version

import httpx

from policies.room import Room
from proxy.config import Config
from proxy.dialects import DIALECTS
from proxy.energy import Energy, create_energy
from proxy.forward import Forward
from proxy.probe import Found, ask
from proxy.scheduler import Scheduler
from proxy.upstream import Client
from telemetry.gauges import Gauges
from telemetry.ledger import Entry, Ledger
from telemetry.otel import Telemetry
from telemetry.snapshot import UNKNOWN

log = logging.getLogger("paceline.app")

PROBE_EVERY_S = 2.0


@dataclass(slots=True)
class App:
    """All parts of one proxy. Requests run through `forward`, which alone is an ASGI app of the data port."""

    config: Config
    ledger: Ledger
    scheduler: Scheduler
    client: Client
    forward: Forward
    energy: Energy | None  # None: there is no meter, so energy is unknown
    telemetry: Telemetry
    found: dict[str, Found] = field(default_factory=dict)  # by URL: what has answered, and how
    asked: bool = False  # so that a server that is not there yet is said once
    _background: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Ask the upstreams what they are, and start the meters."""
        async with httpx.AsyncClient(timeout=2.0, trust_env=False) as probe:
            await self._discover(probe)
        self.asked = True
        self._background.append(asyncio.create_task(self._discover_later(), name="paceline-discover"))
        if self.energy is not None:
            self._background.append(asyncio.create_task(self.energy.run(), name="paceline-energy"))

    def drain(self) -> None:
        """Whoever waits leaves now; the admin port says not ready."""
        self.forward.draining = True
        self.scheduler.drain()

    async def stop(self) -> None:
        """Give everything back, after the data port has closed."""
        for task in self._background:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        if self.energy is not None:
            self.energy.close()
        await self.client.close()
        await asyncio.to_thread(self.telemetry.shutdown)

    async def _discover_later(self) -> None:
        async with httpx.AsyncClient(timeout=2.0, trust_env=False) as probe:
            while len(self.found) < len(self.config.upstreams):
                await asyncio.sleep(PROBE_EVERY_S)
                await self._discover(probe)

    async def _discover(self, probe: httpx.AsyncClient) -> None:
        """Slots from each server that tells them, and the dialect from the first of those that have answered."""
        missing = [upstream for upstream in self.config.upstreams if upstream.url not in self.found]
        answers = await asyncio.gather(*(ask(probe, upstream.url) for upstream in missing))
        for upstream, found in zip(missing, answers, strict=True):
            if found is None:
                log.log(logging.DEBUG if self.asked else logging.WARNING, "upstream %s does not answer yet", upstream.url)
                continue
            log.info("upstream %s speaks %s %s", upstream.url, found.dialect.name, found.model)
            self.scheduler.set_slots(upstream.url, upstream.slots or found.slots)
            if not self.found and self.config.dialect == "auto":
                self.forward.dialect = found.dialect
            self.found[upstream.url] = found


def create_app(config: Config, environ: Mapping[str, str]) -> App:
    """Put a proxy together, inside a running event loop.

    Args:
        config: everything that can be set.
        environ: for OpenTelemetry's standard variables.
    """
    strategy, model = config.strategy(), config.step_model()
    room = Room(
        strategy.policy,
        strategy.placement,
        {upstream.url: upstream.slots for upstream in config.upstreams},
        queue_limit=config.queue.limit,
        queue_timeout_s=config.queue.timeout_s,
    )
    ledger, client = Ledger(), Client(connect_timeout_s=config.connect_timeout_s, answer_timeout_s=config.answer_timeout_s)
    scheduler = Scheduler(room, strategy)
    forward = Forward(config, scheduler, client, ledger, model)
    if config.dialect != "auto":
        forward.dialect = DIALECTS[config.dialect]
    energy = create_energy(config, model)
    telemetry = Telemetry.start(lambda: _gauges(room, energy), environ, version=version("paceline"))
    app = App(config, ledger, scheduler, client, forward, energy, telemetry)
    _tell(app)
    return app


def _tell(app: App) -> None:
    """Who is told what: the domain of joules of each request that leaves, and telemetry of everything."""
    scheduler, forward, energy, telemetry = app.scheduler, app.forward, app.energy, app.telemetry

    def ended(entry: Entry) -> None:
        telemetry.request_ended(entry)
        if energy is None or not energy.covers(entry):
            entry.tokens.clear()  # nobody will settle them
            telemetry.request_final(entry)

    scheduler.on_outcome = lambda outcome: telemetry.released(outcome.value, scheduler.strategy.policy_name)
    scheduler.on_group = lambda size: telemetry.group(size, scheduler.strategy.policy_name)
    scheduler.on_fault = lambda: telemetry.fault(scheduler.strategy.policy_name)
    scheduler.on_tick = telemetry.tick
    # later, so that no response waits for its own statistics
    forward.on_end = lambda entry: later(ended, entry)
    if energy is not None:
        forward.on_release = energy.join
        energy.on_final = telemetry.request_final
        energy.on_reading = scheduler.observe


def later(tell: Callable[[Entry], None], entry: Entry) -> None:
    """Call once the loop has done what is at hand."""
    asyncio.get_running_loop().call_soon(tell, entry)


def _gauges(room: Room, energy: Energy | None) -> Gauges:
    """What is exported as it is now."""
    return Gauges(
        now_s=time.monotonic(),
        held=room.held,
        ready=room.ready,
        in_flight={server.name: server.in_flight for server in room.server_views()},
        telemetry=energy.snapshot() if energy is not None else UNKNOWN,
        domains=energy.totals() if energy is not None else (),
    )
