"""Writes docs/metrics.md from the table of metric names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from policies.base import Outcome, Tier
from telemetry import names
from telemetry.names import Kind, Name, exported
from telemetry.snapshot import Scope, Source

PAGE = Path(__file__).parent.parent / "docs/metrics.md"

HEAD = """# Metrics

Written by `python -m bench.reference` from `telemetry/names.py`.

Prometheus scrapes them at `/metrics` of the admin port; OTLP is pushed when OpenTelemetry's standard variables name an
endpoint (`OTEL_EXPORTER_OTLP_ENDPOINT`, or `..._METRICS_ENDPOINT`; over HTTP). The names are OpenTelemetry's semantic
conventions where there are any (`hw.*`, `gen_ai.*`). In Prometheus dots become underscores, in labels too: `paceline.tier` is
`paceline_tier`. An attribute that does not apply to a series is absent, and a value that nobody measured makes no series: no
meter means no joules, never zero. **Read `energy_source` before you believe a joule**: `modelled` and `simulated` were not
measured.

Ready-made dashboards and rules: [dashboards.md](dashboards.md); what to do when an alert fires: [runbook.md](runbook.md).

"""

COLUMNS = "| OpenTelemetry | Prometheus | kind, unit | what | attributes |\n| --- | --- | --- | --- | --- |\n"

# in what order a reader wants them: what a name begins with
SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Devices": ("hw.", "paceline.meter"),
    "Requests, by OpenTelemetry's conventions": ("gen_ai.",),
    "Energy": (
        "paceline.request.energy",
        "paceline.request.output_tokens",
        "paceline.method",
        "paceline.energy.uncertainty",
        "paceline.counted",
        "paceline.idle",
        "paceline.unattributed",
        "paceline.energy.conservation",
        "paceline.modelled",
    ),
    "Scheduling": (
        "paceline.queue",
        "paceline.request.",
        "paceline.group",
        "paceline.release",
        "paceline.policy",
        "paceline.scheduler",
    ),
    "Servers": ("paceline.requests", "paceline.server"),
    "What other strategies would have done: all modelled": ("paceline.energy.saved", "paceline.shadow"),
    "Experiments": ("paceline.experiment",),
    "The proxy itself": ("paceline.ledger", "paceline.config"),
}

MEANINGS: Mapping[str, str] = {
    names.OPERATION: "`chat`, `text_completion`, `embeddings`, ...",
    names.PROVIDER: "the engine: its dialect",
    names.MODEL: "what the client asked for; the first hundred names, then `other`",
    names.TOKEN_TYPE: "`input` or `output`",
    names.ADDRESS: "the server behind the proxy",
    names.PORT: "its port",
    names.ERROR: "what went wrong; absent: nothing",
    names.HW_ID: "the device, as its meter names it",
    names.HW_TYPE: "`gpu`, `cpu`, `memory`",
    names.POLICY: "the policy that let the request out",
    names.STRATEGY: "the name of a configured shadow; `straight`: straight through; `as_run`: as it was",
    names.EXPERIMENT: "that runs; absent: none does",
    names.ARM: "`control`, `treatment`, or `burn_in`",
    names.BOUND: "`low`, `middle`, `high` of an always-valid interval",
    names.GUARDRAIL: "its name",
    names.END: "how it ended: " + ", ".join(f"`{end}`" for end in names.ENDS),
    names.JUDGEMENT: ", ".join(f"`{one}`" for one in names.JUDGEMENTS),
    names.METRIC: "`j_per_token`, `j_per_request`",
    names.TENANT: "one of the configured ones",
    names.TIER: ", ".join(f"`{tier}`" for tier in Tier),
    names.OUTCOME: "how a stay in the waiting room ended: " + ", ".join(f"`{outcome}`" for outcome in Outcome),
    names.WAIT: "`hold`: the policy's choice; `capacity`: no server had a slot",
    names.CIRCUIT: ", ".join(f"`{circuit}`" for circuit in names.CIRCUITS),
    names.STATE: ", ".join(f"`{state}`" for state in names.STATES),
    names.SERVER_GROUP: "servers that share a queue",
    names.REASON: "`unreachable`: no connection; `busy`: the server said so, and was waited for",
    names.CONFIG_DIGEST: "twelve digits that tell one configuration from another",
    names.DOMAIN: "devices and servers whose joules are split together",
    names.SOURCE: "where a joule comes from: " + ", ".join(f"`{source}`" for source in Source),
    names.METHOD: "how an interval is split among its requests: `shapley`, or for comparison another",
    names.SCOPE: ", ".join(f"`{scope}`" for scope in Scope),
}


def page() -> str:
    """The whole page.

    Raises:
        ValueError: a metric fits in no section, or an attribute has no meaning here.
    """
    left, parts = list(names.ALL), [HEAD.rstrip()]
    for title, beginnings in SECTIONS.items():
        own = [name for name in left if name.name.startswith(beginnings)]
        left = [name for name in left if name not in own]
        parts.append(f"## {title}\n\n{COLUMNS}" + "\n".join(map(_row, own)))
    if left:
        raise ValueError(f"no section for {', '.join(name.name for name in left)}")
    parts.append("## Attributes\n\n| attribute | values |\n| --- | --- |\n" + "\n".join(_meanings(names.ALL)))
    parts.append("## Buckets\n\n| histogram | upper bounds |\n| --- | --- |\n" + "\n".join(_buckets(names.ALL)))
    return "\n\n".join(parts) + "\n"


def _row(name: Name) -> str:
    attributes = ", ".join(f"`{key}`" for key in name.attributes) or "none"
    shown = exported(name) + ("_bucket" if name.kind is Kind.HISTOGRAM else "")
    return (
        f"| `{name.name}` | `{shown}` | {name.kind.value.replace('_', ' ')}, {name.unit} | {name.description} | {attributes} |"
    )


def _meanings(all_names: Iterable[Name]) -> list[str]:
    used = dict.fromkeys(key for name in all_names for key in name.attributes)
    if missing := [key for key in used if key not in MEANINGS]:
        raise ValueError(f"no meaning for {', '.join(missing)}")
    return [f"| `{key}` | {MEANINGS[key]} |" for key in used]


def _buckets(all_names: Iterable[Name]) -> list[str]:
    return [f"| `{name.name}` | {', '.join(f'{bound:g}' for bound in name.buckets)} |" for name in all_names if name.buckets]
