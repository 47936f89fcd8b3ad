"""The devices that an experiment is about: which they are, what they counted, and how warm they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from policies.sides import BOTH, Split, SplitRefused
from policies.split import refusals, sides_of
from proxy.energy import Energy, MeteredDomain
from proxy.fleet import Pool
from telemetry.account import Account
from telemetry.snapshot import Scope, Source


@dataclass(frozen=True, slots=True)
class Devices:
    """Those that serve one group. Only GPUs: what a host draws is split by time alone, and would hide what an arm does.

    Attributes:
        only: of the group's servers, those whose devices are meant: one side's; None: all.
    """

    energy: Energy
    pool: Pool
    only: tuple[str, ...] | None = None

    def of_sides(self, split: Split | None) -> tuple[Devices, ...]:
        """Each side's; where there are none, all."""
        return (self,) if split is None else tuple(replace(self, only=split.servers(side)) for side in BOTH)

    def by_server(self) -> dict[str, list[str]]:
        """Of each server of the group the names of its energy domains."""
        return {url: [domain.name for domain in self.domains if url in domain.upstreams] for url in self.servers}

    def split(self, named: Sequence[str], seed: int) -> Split:
        """The sides of the group's servers; `named` are one side's, none: as the meters part them.

        Raises:
            SplitRefused: there are no two sides that share no meter.
        """
        return sides_of(named, self.by_server(), seed)

    def check(self, split: Split) -> None:
        """Whether servers and meters are still those that the sides were made of; a replica without a meter counts requests.

        Raises:
            SplitRefused: they are not.
        """
        domains = {url: own or [f"none of {url}"] for url, own in self.by_server().items()}
        if reasons := refusals(split, domains):
            raise SplitRefused("; ".join(reasons))

    @property
    def servers(self) -> list[str]:
        return [url for url in self.pool.servers if self.only is None or url in self.only]

    @property
    def domains(self) -> list[MeteredDomain]:
        """Those whose devices serve one of the group's servers; meters of hosts are none of them."""
        serving = [domain for domain in self.energy.domains if set(domain.upstreams) & set(self.servers)]
        return [domain for domain in serving if domain.devices(Scope.GPU) or not domain.devices(Scope.HOST)]

    @property
    def unmetered(self) -> set[str]:
        """Servers of the group whose joules nobody tells."""
        return set(self.servers) - {url for domain in self.domains for url in domain.upstreams}

    @property
    def strangers(self) -> set[str]:
        """Servers of other groups on the same devices."""
        return {url for domain in self.domains for url in domain.upstreams} - set(self.pool.servers)

    @property
    def names(self) -> tuple[str, ...]:
        """As their meters tell them; empty before all have."""
        told = [domain.devices(Scope.GPU) for domain in self.domains]
        return tuple(sorted(state.device for states in told for state in states)) if all(told) else ()

    @property
    def step_s(self) -> float:
        """How often the slowest of their meters tells more: as it lately did, and at most as often as it is asked."""
        asked = (domain.monitor.poll_s for domain in self.domains)
        return max([*asked, *(account.step_s for account in self._accounts())], default=0.0)

    @property
    def settled_until(self) -> float | None:
        """All joules up to this instant, monotonic, were given to somebody; None while a device has told nothing yet."""
        accounts = self._accounts()
        return min((account.settled_until for account in accounts), default=None)

    def between(self, since: float, until: float) -> tuple[int, str] | None:
        """Microjoules between two monotonic instants and where they come from; None while they are not settled."""
        parts = [account.between(since, until) for account in self._accounts()]
        settled = [part for part in parts if part is not None]
        source: Source | None = None
        for domain in self.domains:
            if (of := domain.source(Scope.GPU)) is not None:
                source = of.weaker(source)
        if source is None or not parts or len(settled) < len(parts):
            return None
        return sum(part.counted_uj for part in settled), source.value

    def _accounts(self) -> list[Account]:
        """Of all devices; none while one has told nothing yet, whose joules would be missing."""
        found = [domain.accounts.get(Scope.GPU) for domain in self.domains]
        return [account for account in found if account is not None] if None not in found else []

    async def temperature_c(self) -> float | None:
        """The mean of the devices' temperatures; None: nobody tells."""
        found: list[float] = []
        for domain in self.domains:
            ask: Callable[[], Mapping[str, float]] | None = getattr(domain.monitor.meter, "temperatures", None)
            if ask is not None:
                found += (await asyncio.to_thread(ask)).values()
        return sum(found) / len(found) if found else None
