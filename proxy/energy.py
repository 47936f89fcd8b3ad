"""Energy domains of one proxy: which devices serve which servers, and the task that settles their joules."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from proxy.config import Config, Domain
from telemetry.account import Account, Totals
from telemetry.cost import StepModel
from telemetry.gauges import DomainTotals
from telemetry.ledger import Entry
from telemetry.meter import Meter, MeterUnavailable
from telemetry.monitor import Monitor
from telemetry.nvml import NvmlMeter
from telemetry.simulated import SimulatedMeter
from telemetry.snapshot import Snapshot, Source

log = logging.getLogger("paceline.energy")

SETTLE_EVERY_S = 0.1


@dataclass(slots=True)
class MeteredDomain:
    """One energy domain at work: a meter's thread, and the account that its intervals are settled in."""

    name: str
    upstreams: tuple[str, ...]
    monitor: Monitor
    account: Account


@dataclass(slots=True)
class Energy:
    """All domains. Requests join the domain of the server that they leave to.

    Attributes:
        serves_all: nobody said which servers the devices serve, so all of them.
    """

    domains: list[MeteredDomain]
    serves_all: bool = False
    on_final: Callable[[Entry], None] = lambda entry: None
    on_reading: Callable[[Snapshot], None] = lambda snapshot: None

    def join(self, entry: Entry) -> None:
        """A request left to its server, perhaps after another that it did not reach."""
        for domain in self.domains:
            if entry.server in domain.upstreams:
                domain.account.join(entry)
            else:
                domain.account.leave(entry)

    def leave(self, entry: Entry) -> None:
        """A request that its server did not take waits again."""
        for domain in self.domains:
            domain.account.leave(entry)

    def serve(self, upstreams: set[str]) -> None:
        """The servers are others now. One that no domain was configured for has unknown energy until a restart."""
        if self.serves_all:
            for domain in self.domains:
                domain.upstreams = tuple(sorted(upstreams))

    def covers(self, entry: Entry) -> bool:
        """Whether the request's joules will be known: it left to a server that a meter sees."""
        return entry.released_at is not None and any(entry.server in domain.upstreams for domain in self.domains)

    async def run(self) -> None:
        """Settle until cancelled."""
        for domain in self.domains:
            domain.monitor.start()
        while True:
            await asyncio.sleep(SETTLE_EVERY_S)
            try:
                self.settle(time.monotonic())
            except Exception:  # joules are never worth a request: the proxy goes on without them
                log.exception("settling failed")

    def settle(self, now: float) -> None:
        for domain in self.domains:
            domain.account.add(domain.monitor.intervals())
            for entry in domain.account.settle(now):
                self.on_final(entry)
        self.on_reading(self.snapshot())

    def close(self) -> None:
        for domain in self.domains:
            domain.monitor.stop()

    def snapshot(self) -> Snapshot:
        """All devices of all domains, as of the latest reading of each."""
        latest = [domain.monitor.latest for domain in self.domains]
        devices = {name: state for snapshot in latest for name, state in snapshot.devices.items()}
        return Snapshot(min(snapshot.taken_at_s for snapshot in latest), devices)

    @property
    def settled_until_s(self) -> float:
        """Every joule up to this instant has been given to somebody; monotonic seconds."""
        return min(domain.account.settled_until for domain in self.domains)

    @property
    def source(self) -> Source | None:
        return next((state.source for state in self.snapshot().devices.values()), None)

    def between(self, since_s: float, until_s: float) -> dict[str, Any] | None:
        """Joules of all domains between two instants; None while they are not settled."""
        parts = [domain.account.between(since_s, until_s) for domain in self.domains]
        settled = [part for part in parts if part is not None]
        if len(settled) < len(parts):
            return None
        return {"source": self.source, "seconds": until_s - since_s, **_joules(settled)}

    def totals(self) -> list[DomainTotals]:
        """Each domain's account since the start; a domain without a reading yet is unknown, and absent."""
        return [
            DomainTotals(domain.name, source, totals.counted_uj, totals.idle_uj, totals.unattributed_uj)
            for domain in self.domains
            if (source := next((state.source for state in domain.monitor.latest.devices.values()), None)) is not None
            for totals in (domain.account.totals,)
        ]

    def describe(self, now: float) -> dict[str, Any] | None:
        """The energy part of `/status`; None before the first reading."""
        snapshot = self.snapshot()
        if not snapshot.devices:
            return None
        idle = [power for domain in self.domains for power in domain.account.idle_powers()]
        return {
            "source": self.source,
            "settled_until_s": self.settled_until_s,
            **_joules([domain.account.totals for domain in self.domains]),
            "idle_power_w": sum(power.watts for power in idle),
            "idle_power_basis": sorted({power.basis for power in idle}),
            "devices": [
                {
                    "device": state.device,
                    "power_w": state.power_w,
                    "counted_j": state.counted_uj / 1e6,
                    "age_s": now - state.stepped_at_s,
                }
                for state in snapshot.devices.values()
            ],
        }


def _joules(parts: list[Totals]) -> dict[str, float]:
    return {
        "counted_j": sum(part.counted_uj for part in parts) / 1e6,
        "requests_j": sum(part.requests_uj for part in parts) / 1e6,
        "idle_j": sum(part.idle_uj for part in parts) / 1e6,
        "unattributed_j": sum(part.unattributed_uj for part in parts) / 1e6,
    }


def create_energy(config: Config, model: StepModel) -> Energy | None:
    """The domains that the configuration asks for; None, said once in the log, where no meter can be had."""
    try:
        domains = [
            MeteredDomain(", ".join(domain.upstreams), domain.upstreams, Monitor(meter, config.energy.poll_s), Account(model))
            for domain, meter in _meters(config)
        ]
    except MeterUnavailable as error:
        log.warning("energy is unknown: %s", error)
        return None
    return Energy(domains, serves_all=not config.energy.domains and config.energy.meter != "simulated") if domains else None


def _meters(config: Config) -> Iterator[tuple[Domain, Meter]]:
    """Each domain and its meter.

    Raises:
        MeterUnavailable: a device cannot be read.
    """
    energy, urls = config.energy, tuple(upstream.url for upstream in config.upstreams)
    if energy.meter == "none":
        return
    if energy.meter == "simulated":
        for domain in energy.domains or [Domain(devices=(url,), upstreams=(url,)) for url in urls]:
            yield domain, SimulatedMeter(domain.devices)
        return
    for domain in energy.domains or [Domain(devices=(), upstreams=urls)]:
        meter = NvmlMeter(domain.devices or None)
        if not energy.domains and len(urls) > 1:
            log.warning("all GPUs and all %d upstreams are one energy domain; energy.domains tells them apart", len(urls))
        yield domain, meter
