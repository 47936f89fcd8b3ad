"""The composition root: what a running Paceline is made of, and how its parts hold together."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from policies.base import Action, Outcome
from proxy import selftest, shadow_report
from proxy.checks import Checks
from proxy.config import Config
from proxy.energy import Energy
from proxy.experiments import report
from proxy.experiments.count import is_late
from proxy.experiments.experiments import Experiments
from proxy.experiments.keeping import create_experiments
from proxy.fleet import Fleet, Pool, create_fleet
from proxy.forward import Forward
from proxy.guard import Rules
from proxy.metering import create_energy
from proxy.shadow import Shadows
from proxy.sleeping import Sleeping
from telemetry.factors import Factors
from telemetry.gauges import ConfigVersion, Gauges, ServerGauge
from telemetry.jsonl import JsonLines
from telemetry.ledger import Entry, Ledger
from telemetry.ledger_files import File, LedgerFiles
from telemetry.otel import Telemetry
from telemetry.records import factors_of
from telemetry.snapshot import UNKNOWN, Snapshot
from telemetry.usage import Usage

log = logging.getLogger("paceline.app")

SETTLE_WITHIN_S = 2.0  # at the end, for the joules of the last requests
ONE_PUSH_S = 1.0  # takes less, and the next comes later
LOOP_WITHIN_S = 5.0  # whoever pushes metrics waits so long for the loop to tell them
PUSH_WITHIN_S = 3.0  # at the end, for a collector to take the last metrics and traces


@dataclass(slots=True)
class App:
    """All parts of one proxy. Requests run through `forward`, which alone is an ASGI app of the data port."""

    config: Config
    environ: Mapping[str, str]
    ledger: Ledger
    fleet: Fleet
    forward: Forward
    checks: Checks
    energy: Energy | None  # None: there is no meter, so energy is unknown
    telemetry: Telemetry
    factors: Factors
    files: LedgerFiles | None  # None: nobody asked for files of the ledger
    shadows: Shadows
    experiments: Experiments
    rules: Rules  # of the admin port
    usage: Usage = field(default_factory=Usage)
    settling: dict[str, Entry] = field(default_factory=dict)  # ended, and their joules are not final
    sleeping: Sleeping = field(default_factory=Sleeping)
    generation: int = 1  # of the configuration; one more with each reload
    _background: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        """Ask the upstreams what they are, and start the meters."""
        await self.checks.start()
        if self.energy is not None:
            self.run(self.energy.run(), "paceline-energy")
            self.run(selftest.watch(self.energy, self.forward.model), "paceline-selftest")
        if self.files is not None:
            self.files.start()
        self.run(self.shadows.run(), "paceline-shadow")
        await self.experiments.load(self.config.experiment)
        self.run(self.experiments.run(), "paceline-experiments")

    def run(self, coroutine: object, name: str) -> None:
        """Something in the background, until it ends or the proxy does."""
        task: asyncio.Task[None] = asyncio.create_task(coroutine, name=name)  # type: ignore[arg-type]
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def drain(self) -> None:
        """Whoever waits leaves now, or is refused; the admin port says not ready."""
        self.forward.draining = True
        self.forward.generation.delivery.close()
        self.experiments.drain()
        for pool in self.fleet.pools.values():
            pool.scheduler.drain()
            if self.config.drain.waiting == "refuse":
                pool.scheduler.refuse_waiting(Outcome.DRAINED)

    def cut(self) -> None:
        """The grace is over: whoever waits is refused, and what runs breaks off."""
        for pool in self.fleet.pools.values():
            pool.scheduler.refuse_waiting(Outcome.DRAINED)
        self.forward.cut()

    async def stop(self) -> None:
        """Give everything back, after the data port has closed."""
        await self.checks.stop()
        await self.sleeping.stop(self.fleet)
        await self._settled()
        await self.experiments.close()
        for task in list(self._background):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        for entry in list(self.settling.values()):  # without knowing all of their joules
            self.final(entry)
        await asyncio.to_thread(self.shadows.close)
        if self.files is not None:
            await asyncio.to_thread(self.files.close)
        if self.energy is not None:
            await asyncio.to_thread(self.energy.close)
        for server in self.fleet.servers:
            await server.close()
        await self._pushed()

    async def _pushed(self) -> None:
        """The last metrics and traces are pushed; a collector that does not answer holds nobody up for long."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def push() -> None:
            try:
                self.telemetry.shutdown()
            except Exception:
                log.exception("the last metrics and traces could not be pushed")
            with suppress(RuntimeError):  # the loop is over
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=push, daemon=True, name="paceline-last-push").start()  # the interpreter waits for no daemon
        try:
            await asyncio.wait_for(done.wait(), PUSH_WITHIN_S)
        except TimeoutError:
            log.warning("the collector did not take the last metrics and traces within %g s", PUSH_WITHIN_S)

    async def _settled(self) -> None:
        """The joules of the requests that have just ended are final, unless their meter is slow."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_WITHIN_S):
                while self.settling:
                    await asyncio.sleep(0.05)

    def final(self, entry: Entry) -> None:
        """No more will be known of a request's joules."""
        self.settling.pop(entry.id, None)
        self.experiments.final(entry)
        self.forward.generation.delivery.settled(entry)
        self.telemetry.request_final(entry)
        self.usage.add(entry, factors_of(entry, self.factors))
        if self.files is not None:
            self.files.put(entry, self.factors)

    def tell(self, pool: Pool) -> None:
        """Telemetry is told what a pool's room does."""
        scheduler, telemetry = pool.scheduler, self.telemetry
        policy = self.experiments.policy_name
        scheduler.on_outcome = lambda outcome: telemetry.released(outcome.value, policy(pool))
        scheduler.on_group = lambda size: telemetry.group(size, policy(pool))
        scheduler.on_fault = lambda: telemetry.fault(policy(pool))
        scheduler.on_tick = telemetry.tick
        scheduler.on_action = lambda server, action: self.act(pool, server, action)

    def act(self, pool: Pool, server: str, action: Action) -> None:
        """A room wants a server to sleep or to wake. Whoever closes lets nobody fall asleep."""
        self.sleeping.act(pool, server, action, self.config.sleep, closing=self.forward.draining)

    def cast_shadows(self) -> None:
        """The shadows that the configuration and the experiments want."""
        self.shadows.strategies = {shadow.name: shadow.strategy() for shadow in self.config.shadow.strategies}
        self.shadows.strategies |= self.experiments.shadows()

    def observe(self, snapshot: Snapshot) -> None:
        """The meters have new readings, and what they counted has been settled."""
        if self.energy is not None:
            self.usage.settled(self.energy.totals(), self.factors.at(time.time()))
            self.experiments.settled()
        for pool in self.fleet.pools.values():
            pool.scheduler.observe(snapshot)


def create_app(config: Config, environ: Mapping[str, str]) -> App:
    """Put a proxy together, inside a running event loop.

    Args:
        config: everything that can be set.
        environ: for OpenTelemetry's standard variables, and for servers' keys.
    """
    model, ledger, fleet = config.step_model(), Ledger(), create_fleet(config, environ)
    forward = Forward(config, fleet, ledger, model)
    energy = create_energy(config, model, environ)
    telemetry = Telemetry.start(of_loop(lambda: _gauges(app)), environ, version=version("paceline"))
    factors, files = config.energy.factors(), create_files(config)
    shadows = Shadows(config, fleet, ledger, model, telemetry.shadow_waits)
    experiments = create_experiments(config, environ, fleet, ledger, energy)
    checks = Checks(config, fleet)
    rules = Rules.of(config, environ)
    app = App(config, environ, ledger, fleet, forward, checks, energy, telemetry, factors, files, shadows, experiments, rules)
    for pool in fleet.pools.values():
        app.tell(pool)
    _connect(app)
    return app


def _connect(app: App) -> None:
    """Who is told what: the domain of joules of each request that leaves, and telemetry of each that ends."""
    forward, generation, energy, telemetry = app.forward, app.forward.generation, app.energy, app.telemetry

    def ended(entry: Entry) -> None:
        telemetry.request_ended(entry)
        if is_late(entry):
            telemetry.late(entry)
        if energy is None or not energy.covers(entry):
            entry.tokens.clear()  # nobody will settle them
            app.final(entry)
        elif not entry.energy.final:
            app.settling[entry.id] = entry

    def released(entry: Entry) -> None:
        app.experiments.released(entry)
        app.shadows.released(entry)
        if energy is not None:
            energy.join(entry)

    def over(entry: Entry) -> None:
        app.shadows.ended(entry)
        later(ended, entry)  # so that no response waits for its own statistics

    app.experiments.on_shadows = app.cast_shadows
    generation.on_waiting = app.experiments.arrived
    generation.on_end = over
    generation.on_retry = telemetry.retried
    forward.on_refusal = telemetry.refused
    generation.on_release = released
    if energy is not None:
        generation.on_return = energy.leave
        energy.on_final = app.final
        generation.delivery.covers = energy.covers
        energy.on_reading = app.observe


def create_files(config: Config) -> LedgerFiles | None:
    """The files of the ledger, where the configuration asks for them."""
    ledger = config.ledger
    if ledger.path is None:
        return None
    create = _new_file(ledger.format)
    return LedgerFiles(Path(ledger.path), create, ledger.format, ledger.rotate_bytes, ledger.rotate_s, ledger.keep)


def _new_file(format: str) -> Callable[[Path], File]:
    if format == "jsonl":
        return JsonLines
    from telemetry.parquet import ParquetFile  # optional, and slow to import

    return ParquetFile


def later(tell: Callable[[Entry], None], entry: Entry) -> None:
    """Call once the loop has done what is at hand."""
    asyncio.get_running_loop().call_soon(tell, entry)


def of_loop(read: Callable[[], Gauges]) -> Callable[[], Gauges]:
    """What is asked in another thread is read on the loop all the same, for rooms are its alone; once for all of a push.

    Raises, in that thread:
        TimeoutError: the loop did not come to it.
        RuntimeError: it is over.
    """
    loop, own = asyncio.get_running_loop(), threading.get_ident()
    latest: Gauges | None = None

    def fill(found: Future[Gauges]) -> None:
        try:
            found.set_result(read())
        except Exception as error:  # the one that asks is told
            found.set_exception(error)

    def ask() -> Gauges:
        nonlocal latest
        if threading.get_ident() == own:
            return read()
        if latest is None or time.monotonic() - latest.now_s > ONE_PUSH_S:
            found: Future[Gauges] = Future()
            loop.call_soon_threadsafe(fill, found)
            latest = found.result(LOOP_WITHIN_S)
        return latest

    return ask


def _gauges(app: App) -> Gauges:
    """What is exported as it is now."""
    fleet, energy = app.fleet, app.energy
    servers = [
        ServerGauge(view.name, pool.name, view.in_flight, str(pool.servers[view.name].breaker.circuit), view.state, view.slots)
        for pool in fleet.pools.values()
        for view in pool.scheduler.room.server_views()
    ]
    return Gauges(
        now_s=time.monotonic(),
        held=fleet.sum(lambda room: room.held),
        ready=fleet.sum(lambda room: room.ready),
        body_bytes=app.forward.admission.total.bytes,
        queue_limit=app.config.queue.limit,
        body_limit=app.config.queue.bytes,
        servers=servers,
        telemetry=energy.snapshot() if energy is not None else UNKNOWN,
        domains=energy.totals() if energy is not None else (),
        config=ConfigVersion(app.generation, app.config.digest()),
        ledger_dropped=app.files.dropped if app.files is not None else None,
        shadow=shadow_report.gauge(app.shadows),
        experiments=report.gauges(app.experiments),
        ended=report.ended(app.experiments),
    )
