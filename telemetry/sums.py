"""What joules stand for, and what the requests of one group add up to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from telemetry.attributes import error_type
from telemetry.factors import GRAMS, Factor
from telemetry.ledger import Energy, Entry


@dataclass(slots=True)
class Worth:
    """What joules stand for, by factor: those of other units or by other sources are not added to one another."""

    _amounts: dict[tuple[str, str, str], tuple[float, int]] = field(default_factory=dict)

    def add(self, energy_uj: int, factors: Mapping[str, Factor]) -> None:
        for name, factor in factors.items():
            self._add((name, factor.unit, factor.source), factor.of(energy_uj), energy_uj)

    def plus(self, other: Worth) -> None:
        for key, (amount, energy_uj) in other._amounts.items():
            self._add(key, amount, energy_uj)

    def _add(self, key: tuple[str, str, str], amount: float, energy_uj: int) -> None:
        so_far = self._amounts.get(key, (0.0, 0))
        self._amounts[key] = (so_far[0] + amount, so_far[1] + energy_uj)

    def as_json(self) -> dict[str, list[dict[str, object]]]:
        told: dict[str, list[dict[str, object]]] = {"carbon": [], "price": []}
        for (name, unit, source), (amount, energy_uj) in self._amounts.items():
            what: dict[str, object] = {"g": amount} if unit == GRAMS else {"amount": amount, "currency": unit}
            told[name].append({**what, "source": source, "of_j": energy_uj / 1e6})
        return told


@dataclass(slots=True)
class Joules:
    """Joules of one source, method and scope."""

    requests: int = 0
    active_uj: int = 0
    prefill_uj: int = 0
    uncertainty_j: float = 0.0
    worth: Worth = field(default_factory=Worth)

    def add(self, energy: Energy, factors: Mapping[str, Factor]) -> None:
        self.requests += 1
        self.active_uj += energy.active_uj
        self.prefill_uj += energy.prefill_uj
        self.uncertainty_j += energy.uncertainty_j
        self.worth.add(energy.active_uj, factors)

    def plus(self, other: Joules) -> None:
        self.requests += other.requests
        self.active_uj += other.active_uj
        self.prefill_uj += other.prefill_uj
        self.uncertainty_j += other.uncertainty_j
        self.worth.plus(other.worth)

    def as_json(self) -> dict[str, object]:
        joules = {"active_j": self.active_uj / 1e6, "prefill_j": self.prefill_uj / 1e6, "uncertainty_j": self.uncertainty_j}
        return {"requests": self.requests, **joules, **self.worth.as_json()}


@dataclass(slots=True)
class Sums:
    """What the requests of one group add up to."""

    requests: int = 0
    completed: int = 0
    failed: int = 0
    never_left: int = 0  # they cost no joules
    prompt_tokens: int = 0
    prompt_tokens_estimated: int = 0  # what of it the engine did not count
    output_tokens: int = 0
    output_tokens_estimated: int = 0
    energy_unknown: int = 0  # requests that left to a server
    energy_unknown_uj: int = 0  # joules known to be a part of theirs
    joules: dict[tuple[str, str, str], Joules] = field(default_factory=dict)

    def add(self, entry: Entry, factors: Mapping[str, Factor]) -> None:
        failed = bool(error_type(entry))
        self.requests += 1
        self.failed += failed
        self.completed += not failed
        self.output_tokens += entry.output_tokens
        self.output_tokens_estimated += entry.output_tokens if entry.output_estimated else 0
        if entry.released_at is None:
            self.never_left += 1
            return
        self.prompt_tokens += entry.prompt_tokens
        self.prompt_tokens_estimated += entry.prompt_tokens if entry.prompt_estimated else 0
        if entry.energy.source is None:
            self.energy_unknown += 1
            self.energy_unknown_uj += entry.energy.active_uj
        for energy in (entry.energy, entry.host_energy):
            if energy is not None and energy.source is not None:
                self._of((energy.source, energy.method, energy.scope)).add(energy, factors)

    def plus(self, other: Sums) -> None:
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for key, joules in other.joules.items():
            self._of(key).plus(joules)

    def _of(self, key: tuple[str, str, str]) -> Joules:
        if key not in self.joules:
            self.joules[key] = Joules()
        return self.joules[key]

    def as_json(self) -> dict[str, object]:
        counts = {name: getattr(self, name) for name in COUNTS if not name.endswith("_uj")}
        energy = [
            {"source": source, "method": method, "scope": scope, **joules.as_json()}
            for (source, method, scope), joules in self.joules.items()
        ]
        return {**counts, "energy_unknown_j": self.energy_unknown_uj / 1e6, "energy": energy}


COUNTS = tuple(name for name in Sums.__slots__ if name != "joules")
