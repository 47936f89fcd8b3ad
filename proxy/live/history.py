"""The last ten minutes, a sample a second: small, bounded, and always there for whoever begins to watch."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from policies.base import Outcome
from proxy.app import App
from proxy.energy import MeteredDomain
from proxy.live.recent import Charged, Recent
from telemetry.gauges import DomainTotals
from telemetry.snapshot import DeviceState, Scope

SAMPLES = 600  # ten minutes
MINUTE = 60
MOST_DOMAINS = 8  # drawn one by one; the others are one curve
OTHERS = "others"

Device = tuple[str, str]  # its domain and its name: each host's first CPU has the same
LEFT = (Outcome.POLICY, Outcome.DEADLINE, Outcome.FAULT, Outcome.DRAINED)


@dataclass(frozen=True, slots=True)
class Sample:
    """Sums since the start at one instant, so that two of them tell of the time between; `largest` is of the latest second."""

    at_s: float  # monotonic
    at_unix_s: float
    outcomes: Mapping[str, int]
    completed: int
    failed: int
    output_tokens: int
    alone: int
    largest: int
    domains: Mapping[tuple[str, Scope], DomainTotals]
    charged: Mapping[tuple[str, str], Charged]
    devices: Mapping[Device, DeviceState]


def take(app: App, recent: Recent, now_s: float, now_unix_s: float) -> Sample:
    """What all sums are now. The largest group is asked for anew from here on."""
    schedulers = [pool.scheduler for pool in app.fleet.pools.values()]
    counts, energy = app.forward.counts, app.energy
    largest, recent.largest = recent.largest, 0
    return Sample(
        at_s=now_s,
        at_unix_s=now_unix_s,
        outcomes={outcome.value: sum(scheduler.outcomes[outcome] for scheduler in schedulers) for outcome in Outcome},
        completed=counts.completed,
        failed=counts.failed,
        output_tokens=counts.output_tokens,
        alone=recent.alone,
        largest=largest,
        domains={(one.domain, one.scope): one for one in energy.totals()} if energy is not None else {},
        charged=dict(recent.charged),
        devices={
            (domain.name, name): state
            for domain in (energy.domains if energy is not None else ())
            for name, state in domain.monitor.seen().devices.items()
        },
    )


@dataclass(slots=True)
class History:
    """Samples of the last minute, for what is told as a mean, and points of the last ten, for what is drawn.

    Attributes:
        power_w: of each device over the latest second, by its counter's steps; without one that has not stepped yet, or not
            for too long.
    """

    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=MINUTE + 1))
    points: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    power_w: dict[Device, float] = field(default_factory=dict)

    def add(self, app: App, sample: Sample) -> None:
        told = {device: self._power(device, state) for device, state in sample.devices.items()}
        self.power_w = {device: watts for device, watts in told.items() if watts is not None}
        self.samples.append(sample)
        self.points.append(self._point(app))

    @property
    def now(self) -> Sample:
        return self.samples[-1]

    @property
    def minute_ago(self) -> Sample:
        """Or the first, in the first minute."""
        return self.samples[0]

    def watts(self, domain: MeteredDomain, scope: Scope) -> float | None:
        """Of all its devices of one scope; None: nothing is known of any."""
        names = [(domain.name, state.device) for state in domain.devices(scope)]
        known = [self.power_w[name] for name in names if name in self.power_w]
        return round(sum(known), 1) if known else None

    def rates(self, samples: int = 5) -> dict[str, float]:
        """Requests and tokens a second over the latest few seconds, by how a wait or an answer ended."""
        then = self.samples[max(len(self.samples) - 1 - samples, 0)]
        seconds = self.now.at_s - then.at_s
        if seconds <= 0:
            return {}
        told = {name: self.now.outcomes[name] - then.outcomes.get(name, 0) for name in self.now.outcomes}
        told |= {"completed": self.now.completed - then.completed, "failed": self.now.failed - then.failed}
        told["output_tokens"] = self.now.output_tokens - then.output_tokens
        return {name: round(max(count, 0) / seconds, 2) for name, count in told.items()}

    def all_in_j(self) -> float | None:
        """The devices' joules of the last minute, idle ones too, over the answers of that minute; None: unknown."""
        gpu = [key for key in self.now.domains if key[1] is Scope.GPU]
        answers = self.now.completed - self.minute_ago.completed
        if not gpu or answers <= 0:
            return None
        then = self.minute_ago.domains
        counted_uj = sum(self.now.domains[key].counted_uj - (then[key].counted_uj if key in then else 0) for key in gpu)
        return counted_uj / 1e6 / answers

    def columns(self) -> dict[str, Any]:
        """All points, a list each for what is drawn."""
        plain = ("at_unix_s", "held", "ready", "in_flight", "left", "largest", "completed", "per_request_j")
        domains = sorted({name for point in self.points for name in point["power_w"]})
        told: dict[str, Any] = {name: [point[name] for point in self.points] for name in plain}
        told["power_w"] = {name: [point["power_w"].get(name) for point in self.points] for name in domains}
        return told

    def _power(self, device: Device, now: DeviceState) -> float | None:
        if now.frozen:
            return None
        before = self.samples[-1].devices.get(device) if self.samples else None
        # what was drawn before its first step is not counted
        if before is not None and before.counted_uj and now.stepped_at_s > before.stepped_at_s:
            return (now.counted_uj - before.counted_uj) / 1e6 / (now.stepped_at_s - before.stepped_at_s)
        return now.power_w if now.counted_uj else None  # a slow meter: as it was over its latest interval

    def _point(self, app: App) -> dict[str, Any]:
        rates, fleet, per_request_j = self.rates(1), app.fleet, self.all_in_j()
        return {
            "at_unix_s": round(self.now.at_unix_s, 1),
            "held": fleet.sum(lambda room: room.held),
            "ready": fleet.sum(lambda room: room.ready),
            "in_flight": fleet.sum(lambda room: room.in_flight),
            "left": round(sum(rates.get(outcome, 0.0) for outcome in LEFT), 2),
            "largest": self.now.largest,
            "completed": rates.get("completed", 0.0),
            "per_request_j": round(per_request_j, 3) if per_request_j is not None else None,
            "power_w": self._by_domain(app),
        }

    def _by_domain(self, app: App) -> dict[str, float]:
        """Watts of each domain's devices, and of its host's apart."""
        told: dict[str, float] = {}
        for domain in app.energy.domains if app.energy is not None else ():
            for scope in Scope:
                watts = self.watts(domain, scope)
                if watts is not None:
                    name = domain.name if scope is Scope.GPU else f"{domain.name} {scope.value}"
                    name = name if name in told or len(told) < MOST_DOMAINS else OTHERS
                    told[name] = round(told.get(name, 0.0) + watts, 1)
        return told
