"""Energy domains at work: which devices serve which servers, and the task that settles their joules."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from telemetry.account import LOST_AFTER_S, Account
from telemetry.cost import StepModel
from telemetry.gauges import DomainTotals
from telemetry.ledger import Entry
from telemetry.modelled import ModelledMeter
from telemetry.monitor import Monitor
from telemetry.snapshot import DeviceState, Scope, Snapshot, Source
from telemetry.totals import Totals

log = logging.getLogger("paceline.energy")

SETTLE_EVERY_S = 0.1
HOST_WAITS_S = 3.0  # a request's joules do not wait longer than this for a host's meter


@dataclass(slots=True)
class MeteredDomain:
    """Devices of one meter and the servers on them: the meter's thread, and an account for each scope that it tells of."""

    name: str
    upstreams: tuple[str, ...]
    monitor: Monitor
    model: StepModel
    accounts: dict[Scope, Account] = field(default_factory=dict)
    _open: dict[str, Entry] = field(default_factory=dict)

    def join(self, entry: Entry) -> None:
        self._open[entry.id] = entry
        for account in self.accounts.values():
            account.join(entry)

    def leave(self, entry: Entry) -> None:
        if self._open.pop(entry.id, None) is not None:
            for account in self.accounts.values():
                account.leave(entry)

    def holds(self, entry: Entry) -> bool:
        return entry.id in self._open

    def settle(self, now: float) -> list[Entry]:
        """Settle what can be; returns the requests of which no more will be known here."""
        if self.modelled:
            self.monitor.poll()
        for interval in self.monitor.intervals():
            self.account(interval.hardware.scope).add([interval])
        for account in self.accounts.values():
            account.settle(now)
        done = [entry for entry in self._open.values() if self._done(entry, now)]
        for entry in done:
            self.leave(entry)
        return done

    def account(self, scope: Scope) -> Account:
        """The one of that scope, begun with its first interval."""
        account = self.accounts.get(scope)
        if account is None:
            waits_s = LOST_AFTER_S if scope is Scope.GPU else HOST_WAITS_S
            account = self.accounts[scope] = Account(self.model, scope=scope, waits_s=waits_s)
            for entry in self._open.values():
                account.join(entry)
        return account

    def _done(self, entry: Entry, now: float) -> bool:
        if entry.ended_at is None:
            return False
        if not self.accounts:
            return entry.ended_at + LOST_AFTER_S <= now
        return not any(account.holds(entry) for account in self.accounts.values())

    @property
    def modelled(self) -> bool:
        """Nobody measures, and the model is asked on the loop, where the timelines are."""
        return isinstance(self.monitor.meter, ModelledMeter)

    def devices(self, scope: Scope) -> list[DeviceState]:
        """Those that its meter tells of, as of its latest reading."""
        return [state for state in self.monitor.seen().devices.values() if state.hardware.scope is scope]

    def source(self, scope: Scope) -> Source | None:
        """The weakest of its devices; None before the first reading."""
        found: Source | None = None
        for state in self.devices(scope):
            found = state.source.weaker(found)
        return found


@dataclass(slots=True)
class Energy:
    """All domains. Requests join the domains of the server that they leave to: its devices', and its host's.

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
                domain.join(entry)
            else:
                domain.leave(entry)

    def leave(self, entry: Entry) -> None:
        """A request that its server did not take waits again."""
        for domain in self.domains:
            domain.leave(entry)

    def serve(self, upstreams: set[str]) -> None:
        """The servers are others now. One that no domain was configured for has unknown energy until a restart."""
        if self.serves_all:
            for domain in self.domains:
                domain.upstreams = tuple(sorted(upstreams))

    def covers(self, entry: Entry) -> bool:
        """Whether the request's joules are or will be known: it left to a server that a meter sees."""
        return entry.energy.final or any(domain.holds(entry) for domain in self.domains)

    async def run(self) -> None:
        """Settle until cancelled."""
        for domain in self.domains:
            if not domain.modelled:
                domain.monitor.start()
        while True:
            await asyncio.sleep(SETTLE_EVERY_S)
            try:
                self.settle(time.monotonic())
            except Exception:  # joules are never worth a request: the proxy goes on without them
                log.exception("settling failed")

    def settle(self, now: float) -> None:
        for domain in self.domains:
            for entry in domain.settle(now):
                if not any(other.holds(entry) for other in self.domains):
                    self._tell(entry)
        self.on_reading(self.snapshot())

    def _tell(self, entry: Entry) -> None:
        """Who is told may fail; the others' joules are final all the same."""
        try:
            self.on_final(entry)
        except Exception:
            log.exception("request %s: telling of its energy failed", entry.id)

    def close(self) -> None:
        """It may block for seconds: a meter that is being asked is waited for."""
        for domain in self.domains:
            domain.monitor.end()
        for domain in self.domains:
            domain.monitor.stop()

    # --- what can be seen ---------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """All devices of all domains, as of the latest reading of each. Two of one name are told by their domains', too."""
        latest = [(domain.name, domain.monitor.seen()) for domain in self.domains]
        names = Counter(name for _, snapshot in latest for name in snapshot.devices)
        devices: dict[str, DeviceState] = {}
        for domain, snapshot in latest:
            for name, state in snapshot.devices.items():
                own = name if names[name] == 1 else f"{domain} {name}"
                devices[own] = state if own == name else replace(state, device=own)
        return Snapshot(min(snapshot.taken_at_s for _, snapshot in latest), devices)

    def accounts(self, scope: Scope | None = None) -> Iterator[tuple[MeteredDomain, Scope, Account]]:
        """Every account that has had a reading."""
        for domain in self.domains:
            for of, account in list(domain.accounts.items()):  # a scrape's thread may ask
                if scope in (None, of):
                    yield domain, of, account

    @property
    def settled_until_s(self) -> float:
        """Every joule of the devices up to this instant has been given to somebody; monotonic seconds."""
        return min((account.settled_until for _, _, account in self.accounts(Scope.GPU)), default=float("-inf"))

    def source(self, scope: Scope) -> Source | None:
        found: Source | None = None
        for domain in self.domains:
            if (source := domain.source(scope)) is not None:
                found = source.weaker(found)
        return found

    def between(self, since_s: float, until_s: float) -> dict[str, Any] | None:
        """Joules of all devices between two instants, and beside them their hosts'; None while they are not settled."""
        devices = self._between(Scope.GPU, since_s, until_s)
        host = self._between(Scope.HOST, since_s, until_s)
        if devices is None and (host is None or any(self.accounts(Scope.GPU))):
            return None
        return {"seconds": until_s - since_s, **(devices or {}), "host": host}

    def _between(self, scope: Scope, since_s: float, until_s: float) -> dict[str, Any] | None:
        parts = [account.between(since_s, until_s) for _, _, account in self.accounts(scope)]
        settled = [part for part in parts if part is not None]
        if not parts or len(settled) < len(parts):
            return None
        return {"source": self.source(scope), **_joules(settled)}

    def totals(self) -> list[DomainTotals]:
        """Each account since the start; a domain without a reading yet is unknown, and absent."""
        return [
            DomainTotals(
                domain=domain.name,
                scope=scope,
                source=source,
                counted_uj=totals.counted_uj,
                idle_uj=totals.idle_uj,
                unattributed_uj=totals.unattributed_uj,
                modelled_j=account.modelled_total_j,
                error_uj=account.conservation_error_uj,
            )
            for domain, scope, account in self.accounts()
            if (source := domain.source(scope)) is not None
            for totals in (account.totals,)
        ]

    def describe(self, now: float) -> dict[str, Any] | None:
        """The energy part of `/status`; None before the first reading."""
        if not self.snapshot().devices:
            return None
        devices, host = self._describe(Scope.GPU, now), self._describe(Scope.HOST, now)
        return {"settled_until_s": self.settled_until_s, **(devices or {}), "host": host}

    def _describe(self, scope: Scope, now: float) -> dict[str, Any] | None:
        accounts = [account for _, _, account in self.accounts(scope)]
        states = [state for domain in self.domains for state in domain.devices(scope)]
        if not states:
            return None
        idle = [power for account in accounts for power in account.idle_powers()]
        return {
            "source": self.source(scope),
            **_joules([account.totals for account in accounts]),
            "conservation_error_uj": sum(account.conservation_error_uj for account in accounts),
            "idle_power_w": sum(power.watts for power in idle),
            "idle_power_error_w": sum(power.error_w for power in idle),
            "idle_power_basis": sorted({power.basis for power in idle}),
            "idle_power_quiet_s": sum(power.quiet_s for power in idle),
            "devices": [_device(state, now) for state in states],
        }


def _device(state: DeviceState, now: float) -> dict[str, Any]:
    return {
        "device": state.device,
        "hardware": state.hardware,
        "source": state.source,
        "power_w": state.power_w if not state.frozen else None,
        "counted_j": state.counted_uj / 1e6,
        "integrated_j": state.integrated_uj / 1e6 if state.integrated_uj is not None else None,
        "age_s": now - state.stepped_at_s,
        "frozen": state.frozen,
    }


def _joules(parts: list[Totals]) -> dict[str, float]:
    return {
        "counted_j": sum(part.counted_uj for part in parts) / 1e6,
        "requests_j": sum(part.requests_uj for part in parts) / 1e6,
        "idle_j": sum(part.idle_uj for part in parts) / 1e6,
        "unattributed_j": sum(part.unattributed_uj for part in parts) / 1e6,
    }
