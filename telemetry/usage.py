"""Totals since the start, of requests and of what is nobody's: tokens, joules, and what those stand for."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from telemetry.factors import Factor
from telemetry.gauges import DomainTotals
from telemetry.ledger import Entry
from telemetry.snapshot import Scope
from telemetry.sums import Sums, Worth
from telemetry.tally import LIMIT, OTHER, Models

KEYS = ("tenant", "model", "policy", "tier")

RULES = {
    "requests": "those whose energy is final or will stay unknown; open and settling ones are not in it yet",
    "uncertainty_j": "the sum of the requests' half-widths: errors may be common to all, so none are taken to cancel out",
    "carbon": "each request's joules by the factor at its end, idle and unattributed ones by that at their settlement; "
    "of_j are the joules for which a factor was known",
    "sum": "in each scope, once nobody is open or settling: active_j of all groups, idle and unattributed add up to counted_j "
    "of all domains, but for what was charged to requests whose energy is unknown (energy_unknown_j)",
}


@dataclass(slots=True)
class LeftOver:
    """A domain's joules that are nobody's, and what they stand for."""

    idle_uj: int = 0
    unattributed_uj: int = 0
    idle: Worth = field(default_factory=Worth)
    unattributed: Worth = field(default_factory=Worth)

    def add(self, totals: DomainTotals, factors: Mapping[str, Factor]) -> None:
        """The domain's totals are these now."""
        self.idle.add(totals.idle_uj - self.idle_uj, factors)
        self.unattributed.add(totals.unattributed_uj - self.unattributed_uj, factors)
        self.idle_uj, self.unattributed_uj = totals.idle_uj, totals.unattributed_uj


@dataclass(slots=True)
class Usage:
    """All totals. One thread adds and asks; the number of groups is bounded, as clients choose models' names."""

    since_unix_s: float = field(default_factory=time.time)
    _groups: dict[tuple[str, ...], Sums] = field(default_factory=dict)
    _left_over: dict[tuple[str, Scope], LeftOver] = field(default_factory=dict)
    _models: Models = field(default_factory=Models)

    def add(self, entry: Entry, factors: Mapping[str, Factor]) -> None:
        """A request has ended, and its energy is final or will stay unknown."""
        key: tuple[str, ...] = (entry.tenant, self._models.label(entry.model), entry.policy, entry.tier)
        if key not in self._groups and len(self._groups) >= LIMIT:
            key = (OTHER,) * len(KEYS)
        self._groups.setdefault(key, Sums()).add(entry, factors)

    def settled(self, domains: Iterable[DomainTotals], factors: Mapping[str, Factor]) -> None:
        """The accounts of the domains are these now."""
        for totals in domains:
            self._left_over.setdefault((totals.domain, totals.scope), LeftOver()).add(totals, factors)

    def by(self, keys: Sequence[str]) -> list[dict[str, object]]:
        """The totals of each group of requests that are alike in `keys`."""
        places = [KEYS.index(key) for key in keys]
        merged: dict[tuple[str, ...], Sums] = {}
        for key, sums in self._groups.items():
            merged.setdefault(tuple(key[place] for place in places), Sums()).plus(sums)
        return [{**dict(zip(keys, key, strict=True)), **sums.as_json()} for key, sums in sorted(merged.items())]

    def domains(self, domains: Iterable[DomainTotals]) -> list[dict[str, object]]:
        """Each domain's account, and what its joules that are nobody's stand for."""
        return [self._domain(totals, self._left_over.get((totals.domain, totals.scope), LeftOver())) for totals in domains]

    def _domain(self, totals: DomainTotals, left_over: LeftOver) -> dict[str, object]:
        requests_uj = totals.counted_uj - totals.idle_uj - totals.unattributed_uj
        return {
            "domain": totals.domain,
            "scope": totals.scope,
            "source": totals.source,
            "counted_j": totals.counted_uj / 1e6,
            "requests_j": requests_uj / 1e6,
            "idle": {"energy_j": totals.idle_uj / 1e6, **left_over.idle.as_json()},
            "unattributed": {"energy_j": totals.unattributed_uj / 1e6, **left_over.unattributed.as_json()},
        }
