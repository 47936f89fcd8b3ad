"""Every metric that Paceline exports, in one table: what other code, dashboards and documentation may rely on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a metric's values mean, and so how they may be added up."""

    COUNTER = "counter"  # a sum that only grows
    UP_DOWN = "up_down_counter"  # a sum that can fall
    GAUGE = "gauge"  # a value at an instant
    HISTOGRAM = "histogram"  # a distribution


@dataclass(frozen=True, slots=True)
class Name:
    """One metric.

    Attributes:
        unit: in UCUM, as OpenTelemetry writes it; `{request}` is a count of requests.
        buckets: upper bounds; histograms only.
        attributes: every key that its series may carry; one that does not apply is absent.
    """

    name: str
    kind: Kind
    unit: str
    description: str
    attributes: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


SUFFIXES = {"J": "_joules", "W": "_watts", "s": "_seconds", "By": "_bytes"}  # units in braces, and 1, leave no trace


def exported(name: Name, part: str = "") -> str:
    """What Prometheus calls a metric, by OpenTelemetry's rules of compatibility.

    Args:
        name: of the table.
        part: of a histogram: bucket, sum or count.
    """
    base, suffix = name.name.replace(".", "_"), SUFFIXES.get(name.unit, "")
    base = base if base.endswith(suffix) else base + suffix
    if name.kind is Kind.COUNTER:
        return f"{base}_total"
    return f"{base}_{part}" if part else base


# attributes: OpenTelemetry's where it has one, else ours
OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
MODEL = "gen_ai.request.model"
TOKEN_TYPE = "gen_ai.token.type"
ADDRESS = "server.address"  # of the server behind the proxy
PORT = "server.port"
ERROR = "error.type"
HW_ID = "hw.id"
HW_TYPE = "hw.type"
POLICY = "paceline.policy"
STRATEGY = "paceline.strategy"  # a configured shadow, `straight` or `as_run`
EXPERIMENT = "paceline.experiment"  # that runs; absent: none
ARM = "paceline.arm"  # of it: control, treatment, or burn_in
BOUND = "paceline.bound"  # of an always-valid interval: low, middle or high
GUARDRAIL = "paceline.guardrail"
END = "paceline.end"  # how an experiment ended: one of ENDS
JUDGEMENT = "paceline.judgement"  # one of JUDGEMENTS
METRIC = "paceline.metric"  # what is compared: j_per_token or j_per_request
TENANT = "paceline.tenant"  # one of the configured ones
TIER = "paceline.tier"
OUTCOME = "paceline.outcome"
WAIT = "paceline.wait"  # hold: the policy's choice; capacity: no server had a slot
CIRCUIT = "paceline.circuit"  # one of CIRCUITS: whether requests may go to a server
STATE = "paceline.state"  # one of STATES: whether a server can work at once
SERVER_GROUP = "paceline.server.group"  # of servers that share a queue
REASON = "paceline.retry.reason"  # unreachable: no connection; busy: the server said so, and was waited for
CONFIG_DIGEST = "paceline.config.digest"
DOMAIN = "paceline.domain"  # devices and servers whose joules are split together
SOURCE = "energy.source"  # where a joule comes from: a device's counter, or a simulation
METHOD = "energy.attribution.method"
SCOPE = "energy.scope"

CIRCUITS = ("closed", "half_open", "open")
JUDGEMENTS = ("holds", "open", "tripped", "unknown")
ENDS = ("finished", "stopped", "tripped")
STATES = ("awake", "falling_asleep", "asleep", "waking")

OF_SERVER = (ADDRESS, PORT)
OF_GEN_AI = (OPERATION, PROVIDER, MODEL, *OF_SERVER, ERROR)
OF_GROUPED = (*OF_SERVER, SERVER_GROUP)
OF_DOMAIN = (DOMAIN, SOURCE, SCOPE)
OF_REQUEST = (POLICY, TIER, TENANT, MODEL, EXPERIMENT, ARM, *OF_SERVER)

# the registry's advice, docs/gen-ai/gen-ai-metrics.md of the semantic conventions
SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST_TOKEN_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
PER_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKENS = tuple(4.0**n for n in range(14))
# ours
JOULES = tuple(digit * 10.0**power for power in range(-1, 5) for digit in (1, 2, 5))
WAIT_S = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 300.0, 1800.0)
GROUP = tuple(2.0**n for n in range(11))
SHARE = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.0, 5.0)
TICK_S = (0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05)

HW_ENERGY = Name("hw.energy", Kind.COUNTER, "J", "Energy that a device's counter counted", (HW_ID, HW_TYPE, SOURCE))
HW_POWER = Name("hw.power", Kind.GAUGE, "W", "Mean power between the counter's latest two steps", (HW_ID, HW_TYPE, SOURCE))
METER_AGE = Name("paceline.meter.age", Kind.GAUGE, "s", "Time since a device's counter last moved", (HW_ID, HW_TYPE, SOURCE))
INTEGRATED_ENERGY = Name(
    "paceline.meter.integrated_energy",
    Kind.COUNTER,
    "J",
    "A device's power added up apart from its counter, over the same time",
    (HW_ID, HW_TYPE, SOURCE),
)

DURATION = Name(
    "gen_ai.server.request.duration", Kind.HISTOGRAM, "s", "From arrival to the last byte, waits included", OF_GEN_AI, SECONDS
)
FIRST_TOKEN = Name(
    "gen_ai.server.time_to_first_token",
    Kind.HISTOGRAM,
    "s",
    "From arrival to the first token of a stream, waits included",
    OF_GEN_AI,
    FIRST_TOKEN_S,
)
PER_TOKEN = Name(
    "gen_ai.server.time_per_output_token", Kind.HISTOGRAM, "s", "Per token after the first of a stream", OF_GEN_AI, PER_TOKEN_S
)
TOKEN_USAGE = Name(
    "gen_ai.client.token.usage", Kind.HISTOGRAM, "{token}", "Tokens that the engine counted", (*OF_GEN_AI, TOKEN_TYPE), TOKENS
)

REQUEST_ENERGY = Name(
    "paceline.request.energy",
    Kind.HISTOGRAM,
    "J",
    "A request's share of measured energy, net of idle power",
    (*OF_REQUEST, SOURCE, METHOD, SCOPE),
    JOULES,
)
OUTPUT_TOKENS = Name(
    "paceline.request.output_tokens",
    Kind.COUNTER,
    "{token}",
    "Output tokens, told or counted, of the requests whose energy is known: what its joules are divided by",
    (*OF_REQUEST, SOURCE, METHOD, SCOPE),
)
METHOD_ENERGY = Name(
    "paceline.method.energy",
    Kind.COUNTER,
    "J",
    "The same requests' energy as each way to split an interval gives it: another definition, not an error",
    (TENANT, TIER, MODEL, SOURCE, METHOD, SCOPE),
)
ENERGY_UNCERTAINTY = Name(
    "paceline.energy.uncertainty",
    Kind.HISTOGRAM,
    "1",
    "Half the width of the interval that holds a request's true energy in 95 % of requests, over that energy",
    (TIER, SOURCE, METHOD, SCOPE),
    SHARE,
)
COUNTED_ENERGY = Name("paceline.counted.energy", Kind.COUNTER, "J", "What a domain's meters counted and was settled", OF_DOMAIN)
IDLE_ENERGY = Name("paceline.idle.energy", Kind.COUNTER, "J", "Counted energy that idle power explains", OF_DOMAIN)
UNATTRIBUTED_ENERGY = Name(
    "paceline.unattributed.energy",
    Kind.COUNTER,
    "J",
    "Counted energy that no request and no idle power explains",
    OF_DOMAIN,
)
CONSERVATION_ERROR = Name(
    "paceline.energy.conservation_error",
    Kind.GAUGE,
    "J",
    "Counted less requests, idle and unattributed, each added up apart: anything but 0 is a fault",
    OF_DOMAIN,
)
MODELLED_ENERGY = Name(
    "paceline.modelled.energy",
    Kind.COUNTER,
    "J",
    "What the step model says that requests used, to hold against what was measured",
    (DOMAIN, SOURCE),
)

QUEUE_WAIT = Name("paceline.queue.wait", Kind.HISTOGRAM, "s", "Wait of a request that left", (*OF_REQUEST, WAIT), WAIT_S)
QUEUE_DEPTH = Name("paceline.queue.depth", Kind.GAUGE, "{request}", "Requests waiting", (WAIT,))
QUEUE_LIMIT = Name("paceline.queue.limit", Kind.GAUGE, "{request}", "Most requests that may wait; one more is refused")
IN_FLIGHT = Name("paceline.requests.in_flight", Kind.GAUGE, "{sequence}", "Sequences that a server works on", OF_GROUPED)
SERVER_SLOTS = Name(
    "paceline.server.slots", Kind.GAUGE, "{sequence}", "Most sequences that a server takes at once, where known", OF_GROUPED
)
SERVER_CIRCUIT = Name(
    "paceline.server.circuit", Kind.GAUGE, "{circuit}", "1 for the state that a server's circuit is in", (*OF_GROUPED, CIRCUIT)
)
SERVER_STATE = Name(
    "paceline.server.state", Kind.GAUGE, "{state}", "1 for the state that a server is in: awake or not", (*OF_GROUPED, STATE)
)
BODY_BYTES = Name("paceline.queue.body_bytes", Kind.GAUGE, "By", "Octets of request bodies in memory")
BODY_LIMIT = Name("paceline.queue.body_limit", Kind.GAUGE, "By", "Most octets of request bodies in memory")
LATE = Name(
    "paceline.request.late",
    Kind.COUNTER,
    "{request}",
    "Requests that missed their deadline: left after it for want of a slot, or never",
    OF_REQUEST,
)
RETRIES = Name("paceline.request.retries", Kind.COUNTER, "{retry}", "Requests that waited for a server once more", (REASON,))
REFUSALS = Name("paceline.request.refusals", Kind.COUNTER, "{request}", "Requests that got an error of ours", (ERROR,))
CONFIG_VERSION = Name(
    "paceline.config.generation",
    Kind.GAUGE,
    "{generation}",
    "Configurations since the start; the latest is in force",
    (CONFIG_DIGEST,),
)
GROUP_SIZE = Name("paceline.group.size", Kind.HISTOGRAM, "{request}", "Requests that left at one instant", (POLICY,), GROUP)
RELEASES = Name("paceline.release.count", Kind.COUNTER, "{request}", "How stays in the room ended", (OUTCOME, POLICY))
FAULTS = Name("paceline.policy.faults", Kind.COUNTER, "{fault}", "Decisions that raised", (POLICY,))
LEDGER_DROPPED = Name(
    "paceline.ledger.dropped", Kind.COUNTER, "{request}", "Finished requests that are not in the ledger's files"
)
TICK = Name("paceline.scheduler.tick", Kind.HISTOGRAM, "s", "Time that one decision for all took", (), TICK_S)

ENERGY_SAVED = Name(
    "paceline.energy.saved",
    Kind.UP_DOWN,
    "J",
    "The live gain: what the model says that the same requests would have used straight through, less as they were run",
    (POLICY, SOURCE),
)
SHADOW_SAVED = Name(
    "paceline.shadow.saved", Kind.UP_DOWN, "J", "Modelled joules straight through less a shadow's", (STRATEGY, SOURCE)
)
SHADOW_ENERGY = Name(
    "paceline.shadow.energy", Kind.COUNTER, "J", "Modelled joules of a shadow's engines, idle included", (STRATEGY, SOURCE)
)
SHADOW_REQUESTS = Name("paceline.shadow.requests", Kind.COUNTER, "{request}", "Requests that ended with a shadow", (STRATEGY,))
SHADOW_LATE = Name(
    "paceline.shadow.late", Kind.COUNTER, "{request}", "Requests that left after their deadline with a shadow", (STRATEGY,)
)
SHADOW_WAIT = Name("paceline.shadow.wait", Kind.HISTOGRAM, "s", "Waits of requests with a shadow", (STRATEGY,), WAIT_S)
SHADOW_FAULTS = Name("paceline.shadow.faults", Kind.COUNTER, "{fault}", "Decisions of a shadow that raised", (STRATEGY,))
SHADOW_LEFT_OUT = Name(
    "paceline.shadow.left_out", Kind.COUNTER, "{request}", "Requests that left to a server and that no shadow has seen"
)
SHADOW_BEHIND = Name("paceline.shadow.behind", Kind.GAUGE, "s", "How far shadows are behind the present")

EXPERIMENT_EFFECT = Name(
    "paceline.experiment.effect",
    Kind.GAUGE,
    "1",
    "The treatment's joules over the control's, less 1, so far: the mean of pairs and its always-valid interval",
    (EXPERIMENT, METRIC, BOUND, SOURCE),
)
EXPERIMENT_PAIRS = Name("paceline.experiment.pairs", Kind.GAUGE, "{pair}", "Pairs of blocks that are compared", (EXPERIMENT,))
EXPERIMENT_GUARDRAIL = Name(
    "paceline.experiment.guardrail",
    Kind.GAUGE,
    "{judgement}",
    "1 for what a guardrail says so far",
    (EXPERIMENT, GUARDRAIL, JUDGEMENT),
)
EXPERIMENT_ENDED = Name(
    "paceline.experiment.ended", Kind.GAUGE, "s", "Unix time at which an experiment ended, of the latest", (EXPERIMENT, END)
)

ALL = (
    *(HW_ENERGY, HW_POWER, METER_AGE, INTEGRATED_ENERGY),
    *(DURATION, FIRST_TOKEN, PER_TOKEN, TOKEN_USAGE),
    *(OUTPUT_TOKENS, METHOD_ENERGY, ENERGY_UNCERTAINTY, QUEUE_LIMIT, BODY_LIMIT, LATE, SERVER_SLOTS),
    *(REQUEST_ENERGY, COUNTED_ENERGY, IDLE_ENERGY, UNATTRIBUTED_ENERGY, CONSERVATION_ERROR, MODELLED_ENERGY),
    *(QUEUE_WAIT, QUEUE_DEPTH, BODY_BYTES, GROUP_SIZE, RELEASES, RETRIES, REFUSALS, FAULTS, TICK),
    *(ENERGY_SAVED, SHADOW_SAVED, SHADOW_ENERGY, SHADOW_REQUESTS, SHADOW_LATE, SHADOW_WAIT),
    *(EXPERIMENT_EFFECT, EXPERIMENT_PAIRS, EXPERIMENT_GUARDRAIL, EXPERIMENT_ENDED),
    *(SHADOW_FAULTS, SHADOW_LEFT_OUT, SHADOW_BEHIND),
    *(IN_FLIGHT, SERVER_CIRCUIT, SERVER_STATE, LEDGER_DROPPED, CONFIG_VERSION),
)
