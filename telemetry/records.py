"""What is told of a request: over the admin API as nested JSON, in the files of the ledger as one flat record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from telemetry.factors import Factor, Factors
from telemetry.ledger import Entry

LONGEST_TEXT = 256  # clients choose models' names
LARGEST = 2**63 - 1  # servers choose counts

Value = str | int | float | bool | None
Record = dict[str, Value]


def factors_of(entry: Entry, factors: Factors) -> Mapping[str, Factor]:
    """Those at the instant of its end, which stand for all of it; none before that."""
    return factors.at(entry.arrived_unix_s + entry.duration_s) if entry.duration_s is not None else {}


def tell(entry: Entry, factors: Factors) -> dict[str, object]:
    """What the admin API tells of a request: carbon and price stand for its active joules, host and idle ones apart."""
    known = factors_of(entry, factors)
    return {
        **entry.as_json(),
        "ended_unix_s": entry.arrived_unix_s + entry.duration_s if entry.duration_s is not None else None,
        "carbon": _carbon(entry, known.get("carbon")),
        "price": _price(entry, known.get("price")),
    }


def _carbon(entry: Entry, factor: Factor | None) -> dict[str, object] | None:
    amounts = _amounts(entry, factor)
    if factor is None or amounts is None:
        return None
    return {
        "g": amounts[0],
        "host_g": amounts[1],
        "g_per_kwh": factor.per_kwh,
        "source": factor.source,
        "energy_source": entry.energy.source,
    }


def _price(entry: Entry, factor: Factor | None) -> dict[str, object] | None:
    amounts = _amounts(entry, factor)
    if factor is None or amounts is None:
        return None
    return {
        "amount": amounts[0],
        "host_amount": amounts[1],
        "currency": factor.unit,
        "per_kwh": factor.per_kwh,
        "source": factor.source,
        "energy_source": entry.energy.source,
    }


def _amounts(entry: Entry, factor: Factor | None) -> tuple[float | None, float | None] | None:
    """What its devices' joules and its host's stand for; only known and final ones stand for anything."""
    if factor is None:
        return None
    devices, host = (
        factor.of(energy.active_uj) if energy is not None and energy.source is not None and energy.final else None
        for energy in (entry.energy, entry.host_energy)
    )
    return None if devices is host is None else (devices, host)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the ledger's files.

    Attributes:
        kind: str, int, float or bool; any value may be absent, which is not zero.
        path: where it is in what `tell` says; its name, where that is empty.
    """

    name: str
    kind: type
    meaning: str
    path: str = ""

    def of(self, told: Mapping[str, Any]) -> Value:
        """Its value, or None where there is none."""
        found: Any = told
        for step in STEPS[self.name]:
            found = found.get(step) if isinstance(found, dict) else None
        if found is None:
            return None
        if self.kind is str:
            return str(found)[:LONGEST_TEXT].encode("utf-8", "replace").decode()
        if self.kind is bool:
            return bool(found)
        if self.kind is float:
            return float(found) if isfinite(found) else None
        return int(found) if abs(found) <= LARGEST else None


COLUMNS = (
    Column("id", str, "as in `x-paceline-request-id`"),
    Column("arrived_unix_s", float, "when it arrived"),
    Column("ended_unix_s", float, "when its answer had left, or it was given up"),
    Column("operation", str, "OpenTelemetry's `gen_ai.operation.name`"),
    Column("dialect", str, "what its server speaks"),
    Column("tenant", str, "whose; empty: nobody's"),
    Column("model", str, "that the client asked for"),
    Column("tier", str, "priority, interactive, flex or batch"),
    Column("policy", str, "that released it; empty: it never left"),
    Column("experiment", str, "that ran when it came; absent: none"),
    Column("arm", str, "of that: control, treatment, or burn_in, which is in no arm's sums"),
    Column("server", str, "that it left to; empty: it never left"),
    Column("streamed", bool, "whether the answer was a stream"),
    Column("outcome", str, "how its wait ended"),
    Column("status", int, "of HTTP, that the client saw; 0: it saw none"),
    Column("error", str, "OpenTelemetry's `error.type`; absent when all went well"),
    Column("slack_s", float, "how long it could have been held; absent: it never left"),
    Column("held_s", float, "wait that the policy chose"),
    Column("queued_s", float, "wait for a slot"),
    Column("ttft_s", float, "from arrival to the first token"),
    Column("tpot_s", float, "per token after the first; streams only"),
    Column("duration_s", float, "from arrival to the end"),
    Column("prompt_tokens", int, "of the prompt"),
    Column("prompt_tokens_estimated", bool, "estimated by us, not counted by the engine"),
    Column("cached_tokens", int, "of the prompt, from a prefix cache; 0 also where nobody told"),
    Column("max_new_tokens", int, "that it could have had, each sequence"),
    Column("sequences", int, "answers that it asked for, `n` and each prompt of a list counted"),
    Column("output_tokens", int, "of the answer, all sequences together"),
    Column("output_tokens_estimated", bool, "estimated by us, not counted by the engine"),
    Column("energy_active_j", float, "its share of the GPUs' joules, net of idle; absent: unknown", "energy.active_j"),
    Column("energy_prefill_j", float, "what of it is from before the first token", "energy.prefill_j"),
    Column("energy_decode_j", float, "... and from then on", "energy.decode_j"),
    Column("energy_uncertainty_j", float, "half-width of the interval of 95 %", "energy.uncertainty_j"),
    Column("energy_uncertainty_edges_j", float, "its part from when counters stepped", "energy.uncertainty.edges_j"),
    Column("energy_uncertainty_split_j", float, "... from how joules are split", "energy.uncertainty.split_j"),
    Column("energy_uncertainty_timeline_j", float, "... from when it did what", "energy.uncertainty.timeline_j"),
    Column("energy_uncertainty_counts_j", float, "... from counts told too late, or never", "energy.uncertainty.counts_j"),
    Column("energy_uncertainty_idle_j", float, "... from how well idle power is known", "energy.uncertainty.idle_j"),
    Column("energy_uncertainty_foreign_j", float, "... from whoever else may have used it", "energy.uncertainty.foreign_j"),
    Column("energy_uncertainty_model_j", float, "... from joules that nobody measured", "energy.uncertainty.model_j"),
    Column("energy_uncertainty_meter_j", float, "... from the meter itself", "energy.uncertainty.meter_j"),
    Column("energy_by_tokens_j", float, "what it would be, split by tokens", "energy.by_method_j.tokens"),
    Column("energy_by_time_j", float, "what it would be, split equally over time", "energy.by_method_j.time"),
    Column("energy_source", str, "counter, power_integral, replayed, simulated or modelled", "energy.source"),
    Column("energy_method", str, "how `energy_active_j` was split", "energy.method"),
    Column("energy_scope", str, "which devices' joules", "energy.scope"),
    Column("energy_timeline", str, "how its timeline is known: streamed, told or modelled", "energy.timeline"),
    Column("energy_final", bool, "false: the proxy ended before all was known", "energy.final"),
    Column("host_energy_active_j", float, "its share of CPUs' and memory's joules, net of idle", "host_energy.active_j"),
    Column("host_energy_source", str, "as `energy_source`", "host_energy.source"),
    Column("host_energy_method", str, "how they were split", "host_energy.method"),
    Column("host_energy_scope", str, "host", "host_energy.scope"),
    Column("host_energy_final", bool, "as `energy_final`", "host_energy.final"),
    Column("carbon_g", float, "CO2 equivalent of `energy_active_j`", "carbon.g"),
    Column("carbon_host_g", float, "... of `host_energy_active_j`", "carbon.host_g"),
    Column("carbon_g_per_kwh", float, "the factor at its end", "carbon.g_per_kwh"),
    Column("carbon_source", str, "who says so", "carbon.source"),
    Column("price_amount", float, "price of `energy_active_j`", "price.amount"),
    Column("price_host_amount", float, "... of `host_energy_active_j`", "price.host_amount"),
    Column("price_currency", str, "three letters", "price.currency"),
    Column("price_per_kwh", float, "the factor at its end", "price.per_kwh"),
    Column("price_source", str, "who says so", "price.source"),
)


STEPS = {column.name: (column.path or column.name).split(".") for column in COLUMNS}


def record(entry: Entry, factors: Factors) -> Record:
    """The flat record of a request that has ended. No prompt, no answer, no key, no header: nothing of them is kept."""
    told = tell(entry, factors)
    return {column.name: column.of(told) for column in COLUMNS}
