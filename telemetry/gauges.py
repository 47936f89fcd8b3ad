"""What is read when somebody looks: queues, servers, devices and energy accounts at one instant, as series of values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from telemetry import names
from telemetry.attributes import Attributes, of_server
from telemetry.names import Name
from telemetry.snapshot import UNKNOWN, DeviceState, Scope, Snapshot, Source

Values = Iterator[tuple[float, Attributes]]


@dataclass(frozen=True, slots=True)
class DomainTotals:
    """One account of an energy domain since the start.

    Attributes:
        modelled_j: what the step model says that its requests used, net of idle; a model's joules, beside measured ones.
        error_uj: what was counted, less what requests, idle and unattributed got, each added up apart.
    """

    domain: str
    source: Source
    counted_uj: int
    idle_uj: int
    unattributed_uj: int
    scope: Scope = Scope.GPU
    modelled_j: float = 0.0
    error_uj: int = 0


@dataclass(frozen=True, slots=True)
class ServerGauge:
    """One server as the room and its circuit breaker know it."""

    name: str
    group: str
    in_flight: int
    circuit: str
    state: str = "awake"
    slots: int | None = None  # None: no limit known


@dataclass(frozen=True, slots=True)
class ConfigVersion:
    """Which configuration is in force: how many there have been, and what tells it from others."""

    generation: int
    digest: str


@dataclass(frozen=True, slots=True)
class ShadowTotals:
    """What one strategy came to beside the live one; all joules are modelled."""

    strategy: str
    energy_j: float
    saved_j: float
    requests: int
    late: int
    faults: int


@dataclass(frozen=True, slots=True)
class ShadowGauge:
    """What shadows tell together.

    Attributes:
        saved_by: the live gain by policy, in modelled joules.
        left_out: requests that no shadow has seen.
    """

    totals: Sequence[ShadowTotals]
    saved_by: Mapping[str, float]
    left_out: int
    behind_s: float


@dataclass(frozen=True, slots=True)
class ExperimentGauge:
    """A running experiment so far; `effect` is a share, and its bounds are those of the always-valid interval.

    Attributes:
        guardrails: by name, one of `names.JUDGEMENTS`.
        sources: where the joules come from.
    """

    name: str
    metric: str
    pairs: int
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    guardrails: Mapping[str, str] = field(default_factory=dict)
    sources: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class EndedGauge:
    """An experiment that is over; `end` is one of `names.ENDS`."""

    name: str
    end: str
    ended_unix_s: float


@dataclass(frozen=True, slots=True)
class Gauges:
    """Everything that is exported as it is now. No device and no domain means that energy is unknown, which is not zero."""

    now_s: float  # monotonic clock
    held: int = 0
    ready: int = 0
    body_bytes: int = 0
    queue_limit: int | None = None
    body_limit: int | None = None
    servers: Sequence[ServerGauge] = ()
    telemetry: Snapshot = UNKNOWN
    domains: Sequence[DomainTotals] = ()
    config: ConfigVersion | None = None
    ledger_dropped: int | None = None  # None: there are no files of the ledger
    shadow: ShadowGauge | None = None  # None: nothing has been compared yet, or shadows are off
    experiments: Sequence[ExperimentGauge] = ()  # that run
    ended: Sequence[EndedGauge] = ()  # the latest that do not


def _of_device(state: DeviceState) -> Attributes:
    return {names.HW_ID: state.device, names.HW_TYPE: state.hardware.value, names.SOURCE: state.source.value}


def _hw_energy(gauges: Gauges) -> Values:
    for state in gauges.telemetry.devices.values():
        yield state.counted_uj / 1e6, _of_device(state)


def _hw_power(gauges: Gauges) -> Values:
    for state in gauges.telemetry.devices.values():
        if not state.frozen:  # else it is not known
            yield state.power_w, _of_device(state)


def _meter_age(gauges: Gauges) -> Values:
    for state in gauges.telemetry.devices.values():
        yield max(gauges.now_s - state.stepped_at_s, 0.0), _of_device(state)


def _integrated_energy(gauges: Gauges) -> Values:
    for state in gauges.telemetry.devices.values():
        if state.integrated_uj is not None:
            yield state.integrated_uj / 1e6, _of_device(state)


def _energy(joules: Callable[[DomainTotals], float]) -> Callable[[Gauges], Values]:
    def read(gauges: Gauges) -> Values:
        for domain in gauges.domains:
            of: Attributes = {names.DOMAIN: domain.domain, names.SOURCE: domain.source.value, names.SCOPE: domain.scope.value}
            yield joules(domain) / 1e6, of

    return read


def _modelled(gauges: Gauges) -> Values:
    for domain in gauges.domains:
        if domain.scope is Scope.GPU:
            yield domain.modelled_j, {names.DOMAIN: domain.domain, names.SOURCE: Source.MODELLED.value}


def _queue_depth(gauges: Gauges) -> Values:
    yield gauges.held, {names.WAIT: "hold"}
    yield gauges.ready, {names.WAIT: "capacity"}


def _limit(limit: Callable[[Gauges], int | None]) -> Callable[[Gauges], Values]:
    def read(gauges: Gauges) -> Values:
        if (found := limit(gauges)) is not None:
            yield found, {}

    return read


def _of_server(server: ServerGauge) -> Attributes:
    return {**of_server(server.name), names.SERVER_GROUP: server.group}


def _in_flight(gauges: Gauges) -> Values:
    for server in gauges.servers:
        yield server.in_flight, _of_server(server)


def _slots(gauges: Gauges) -> Values:
    for server in gauges.servers:
        if server.slots is not None:
            yield server.slots, _of_server(server)


def _circuit(gauges: Gauges) -> Values:
    for server in gauges.servers:
        for state in names.CIRCUITS:
            yield int(server.circuit == state), {**_of_server(server), names.CIRCUIT: state}


def _state(gauges: Gauges) -> Values:
    for server in gauges.servers:
        for state in names.STATES:
            yield int(server.state == state), {**_of_server(server), names.STATE: state}


def _body_bytes(gauges: Gauges) -> Values:
    yield gauges.body_bytes, {}


def _ledger_dropped(gauges: Gauges) -> Values:
    if gauges.ledger_dropped is not None:
        yield gauges.ledger_dropped, {}


def _config(gauges: Gauges) -> Values:
    if gauges.config is not None:
        yield gauges.config.generation, {names.CONFIG_DIGEST: gauges.config.digest}


def _saved(gauges: Gauges) -> Values:
    for policy, joules in gauges.shadow.saved_by.items() if gauges.shadow is not None else ():
        yield joules, {names.POLICY: policy, names.SOURCE: Source.MODELLED.value}


def _shadow(value: Callable[[ShadowTotals], float], *, joules: bool) -> Callable[[Gauges], Values]:
    def read(gauges: Gauges) -> Values:
        for totals in gauges.shadow.totals if gauges.shadow is not None else ():
            of: Attributes = {names.STRATEGY: totals.strategy}
            yield value(totals), of | ({names.SOURCE: Source.MODELLED.value} if joules else {})

    return read


def _shadow_left_out(gauges: Gauges) -> Values:
    if gauges.shadow is not None:
        yield gauges.shadow.left_out, {}


def _shadow_behind(gauges: Gauges) -> Values:
    if gauges.shadow is not None:
        yield gauges.shadow.behind_s, {}


def _effect(gauges: Gauges) -> Values:
    for one in gauges.experiments:
        for bound, value in (("low", one.low), ("middle", one.effect), ("high", one.high)):
            if value is not None:
                of: Attributes = {names.EXPERIMENT: one.name, names.METRIC: one.metric, names.BOUND: bound}
                yield value, of | {names.SOURCE: ",".join(one.sources)}


def _pairs(gauges: Gauges) -> Values:
    for one in gauges.experiments:
        yield one.pairs, {names.EXPERIMENT: one.name}


def _guardrail(gauges: Gauges) -> Values:
    for one in gauges.experiments:
        for guardrail, found in one.guardrails.items():
            for judgement in names.JUDGEMENTS:
                of: Attributes = {names.EXPERIMENT: one.name, names.GUARDRAIL: guardrail, names.JUDGEMENT: judgement}
                yield int(found == judgement), of


def _ended(gauges: Gauges) -> Values:
    for one in gauges.ended:
        yield one.ended_unix_s, {names.EXPERIMENT: one.name, names.END: one.end}


SERIES: Mapping[Name, Callable[[Gauges], Values]] = {
    names.HW_ENERGY: _hw_energy,
    names.HW_POWER: _hw_power,
    names.METER_AGE: _meter_age,
    names.INTEGRATED_ENERGY: _integrated_energy,
    names.COUNTED_ENERGY: _energy(lambda domain: domain.counted_uj),
    names.IDLE_ENERGY: _energy(lambda domain: domain.idle_uj),
    names.UNATTRIBUTED_ENERGY: _energy(lambda domain: domain.unattributed_uj),
    names.CONSERVATION_ERROR: _energy(lambda domain: domain.error_uj),
    names.MODELLED_ENERGY: _modelled,
    names.QUEUE_DEPTH: _queue_depth,
    names.QUEUE_LIMIT: _limit(lambda gauges: gauges.queue_limit),
    names.BODY_LIMIT: _limit(lambda gauges: gauges.body_limit),
    names.IN_FLIGHT: _in_flight,
    names.SERVER_SLOTS: _slots,
    names.SERVER_CIRCUIT: _circuit,
    names.SERVER_STATE: _state,
    names.BODY_BYTES: _body_bytes,
    names.LEDGER_DROPPED: _ledger_dropped,
    names.CONFIG_VERSION: _config,
    names.ENERGY_SAVED: _saved,
    names.SHADOW_SAVED: _shadow(lambda totals: totals.saved_j, joules=True),
    names.SHADOW_ENERGY: _shadow(lambda totals: totals.energy_j, joules=True),
    names.SHADOW_REQUESTS: _shadow(lambda totals: totals.requests, joules=False),
    names.SHADOW_LATE: _shadow(lambda totals: totals.late, joules=False),
    names.SHADOW_FAULTS: _shadow(lambda totals: totals.faults, joules=False),
    names.SHADOW_LEFT_OUT: _shadow_left_out,
    names.SHADOW_BEHIND: _shadow_behind,
    names.EXPERIMENT_EFFECT: _effect,
    names.EXPERIMENT_PAIRS: _pairs,
    names.EXPERIMENT_GUARDRAIL: _guardrail,
    names.EXPERIMENT_ENDED: _ended,
}
