"""Works a report's figures out of samples, the proxy's records of them, and the joules of their window."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.admin import Window
from bench.report import OVERALL, EnergyUse, Groups, Latency, Percentiles, TierEnergy
from bench.sample import Sample
from telemetry.blocks import between

IDLE_WITHIN = 1.05  # mean power below this many times idle power is an idle device's
LATEST_START_S = 0.05  # a generator later than this at its 99th percentile measured itself
SAME_INSTANT_S = 0.005  # releases this close are one group: arrivals and holds are told to the millisecond

Record = Mapping[str, Any]  # what the admin port tells of a request


def percentiles(values: Iterable[float | None]) -> Percentiles | None:
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    return Percentiles(between(known, 0.5), between(known, 0.9), between(known, 0.99), known[-1], len(known))


def latencies(samples: Sequence[Sample], records: Mapping[str, Record]) -> dict[str, Latency]:
    """For all completed requests, and for those of each tier."""
    groups: dict[str, list[Sample]] = {OVERALL: [sample for sample in samples if sample.completed]}
    for sample in groups[OVERALL]:
        groups.setdefault(sample.planned.tier.value, []).append(sample)
    return {
        name: Latency(
            wait_s=percentiles(waited_s(records.get(sample.id)) for sample in group),
            ttft_s=percentiles(sample.ttft_s for sample in group),
            tpot_s=percentiles(sample.tpot_s for sample in group),
            e2e_s=percentiles(sample.e2e_s for sample in group),
        )
        for name, group in groups.items()
    }


def waited_s(record: Record | None) -> float | None:
    return None if record is None else float(record["held_s"] + record["queued_s"])


def grouped(records: Iterable[Record]) -> Groups | None:
    """Groups, by the instants at which requests left the proxy."""
    left_at = sorted(record["arrived_unix_s"] + record["held_s"] + record["queued_s"] for record in records)
    sizes: list[int] = []
    latest = float("-inf")
    for instant in left_at:
        if instant - latest > SAME_INSTANT_S:
            sizes.append(0)
        sizes[-1] += 1
        latest = instant
    return Groups(len(sizes), sum(sizes) / len(sizes), max(sizes)) if sizes else None


def in_flight_mean(records: Iterable[Record]) -> float | None:
    """Requests at the server, averaged over the time in which there was at least one."""
    stays = sorted(
        (record["arrived_unix_s"] + (waited_s(record) or 0.0), record["arrived_unix_s"] + record["duration_s"])
        for record in records
        if record["duration_s"] is not None
    )
    stayed_s = busy_s = 0.0
    until = float("-inf")
    for start, end in stays:
        stayed_s += end - start
        busy_s += max(end - max(start, until), 0.0)
        until = max(until, end)
    return stayed_s / busy_s if busy_s > 0 else None


def energy_use(
    window: Window,
    joules: Mapping[str, Any],
    idle_power_w: float | None,
    samples: Sequence[Sample],
    records: Mapping[str, Record],
) -> EnergyUse:
    """The window's joules over what was completed in it."""
    completed = [sample for sample in samples if sample.completed]
    tokens = sum(sample.tokens or 0 for sample in completed)
    tiers = dict.fromkeys(sample.planned.tier.value for sample in completed)
    return EnergyUse(
        source=joules["source"],
        since_s=window.since_s,
        until_s=window.until_s,
        window_s=window.seconds,
        **{part: joules[part] for part in ("counted_j", "requests_j", "idle_j", "unattributed_j")},
        mean_power_w=joules["counted_j"] / window.seconds,
        idle_power_w=idle_power_w,
        j_per_request=joules["counted_j"] / len(completed) if completed else None,
        active_j_per_request=joules["requests_j"] / len(completed) if completed else None,
        j_per_output_token=joules["counted_j"] / tokens if tokens else None,
        tiers={tier: _tier_energy([s for s in completed if s.planned.tier.value == tier], records) for tier in tiers},
    )


def _tier_energy(completed: Sequence[Sample], records: Mapping[str, Record]) -> TierEnergy:
    charged = [(records.get(sample.id) or {}).get("energy") for sample in completed]
    final_j = [energy["active_j"] for energy in charged if energy is not None and energy["final"]]
    mean_j = sum(final_j) / len(final_j) if final_j else None
    return TierEnergy(len(completed), len(final_j), sum(final_j), mean_j)


def problems(samples: Sequence[Sample], start_lag_s: Percentiles | None, energy: EnergyUse | None) -> list[str]:
    """Why this run must not be used."""
    found = []
    if not any(sample.completed for sample in samples):
        kinds = Counter(sample.error for sample in samples)
        found.append(f"nothing completed ({', '.join(f'{kind}: {count}' for kind, count in kinds.items())})")
    if energy and energy.idle_power_w and energy.mean_power_w < IDLE_WITHIN * energy.idle_power_w:
        found.append(
            f"mean power was {energy.mean_power_w:.1f} W and idle power is {energy.idle_power_w:.1f} W:"
            " the metered devices did not do this work"
        )
    if start_lag_s and start_lag_s.p99 > LATEST_START_S:
        found.append(
            f"the generator was {start_lag_s.p99 * 1000:.0f} ms late (p99): this machine is too busy to tell latencies"
        )
    return found
