"""Whose joules, whose waits: tenants and tiers beside each other."""

from __future__ import annotations

from bench.dashboards import energy
from bench.dashboards.frame import framed
from bench.dashboards.panels import Panel, Query, figure, rows, series, worse_above
from bench.dashboards.queries import RANGE, increase, mean, over, quantile, rate
from telemetry import names
from telemetry.names import exported

CHOSEN = 'paceline_tenant=~"$tenant",paceline_tier=~"$tier",gen_ai_request_model=~"$model"'
TENANT, TENANT_NAME = "paceline_tenant", "{{paceline_tenant}}"
TIER, TIER_NAME = "paceline_tier", "{{paceline_tier}}"
HOLD, CAPACITY = f'{CHOSEN},paceline_wait="hold"', f'{CHOSEN},paceline_wait="capacity"'
LEFT = rate(names.QUEUE_WAIT, TENANT, HOLD, "count")


def tenants() -> str:
    """The dashboard's JSON."""
    by_name = {"": _sums(), "Energy by tenant": _energy(), "Waits by tenant": _waits(), "By tier": _tiers()}
    waits = exported(names.QUEUE_WAIT, "count")
    labels = {"tenant": "paceline_tenant", "tier": "paceline_tier", "model": "gen_ai_request_model"}
    variables = {name: (waits, label) for name, label in labels.items()}
    description = "What each tenant's requests cost and how long they wait. Bills are GET /usage and the ledger's, not this: "
    description += "Prometheus estimates increases."
    return framed("tenants", description, by_name, variables)


def _sums() -> list[Panel]:
    requests = increase(names.REQUEST_ENERGY, "", CHOSEN, "count")
    joules, tokens = increase(names.REQUEST_ENERGY, "energy_source", CHOSEN, "sum"), increase(names.OUTPUT_TOKENS, "", CHOSEN)
    source = "{{energy_source}}"
    return [
        figure("Requests", "Whose joules became known in the time that is shown.", "short", Query(requests), decimals=0),
        figure("Output tokens", "Of these requests, told by engines or counted.", "short", Query(tokens)),
        figure("Energy, net", f"{energy.NET} In the time that is shown.", "joule", Query(joules, source), names=True),
        figure(
            "J/request, net",
            f"{energy.NET} {energy.BY_SOURCE}",
            "joule",
            Query(energy.net_per_request(where=CHOSEN, window=RANGE), source),
            names=True,
        ),
        figure(
            "J/output token, net",
            f"{energy.NET} {energy.BY_SOURCE}",
            "joule",
            Query(energy.net_per_token(where=CHOSEN, window=RANGE), source),
            names=True,
        ),
        figure(
            "Deadlines missed",
            "Share of requests that left after their deadline for want of a slot, or never.",
            "percentunit",
            Query(over(increase(names.LATE, "", CHOSEN), increase(names.QUEUE_WAIT, "", HOLD, "count")) + " or vector(0)"),
            steps=worse_above(0.01, 0.05),
            decimals=2,
        ),
        rows(
            "Tenants and tiers",
            "Sums and means over the time that is shown; joules are net of idle.",
            {
                "requests": (increase(names.REQUEST_ENERGY, f"{TENANT}, {TIER}", CHOSEN, "count"), "short"),
                "output tokens": (increase(names.OUTPUT_TOKENS, f"{TENANT}, {TIER}", CHOSEN), "short"),
                "energy, net": (increase(names.REQUEST_ENERGY, f"{TENANT}, {TIER}", CHOSEN, "sum"), "joule"),
                "J/request, net": (energy.net_per_request(f"{TENANT}, {TIER}", CHOSEN, RANGE), "joule"),
                "J/output token, net": (energy.net_per_token(f"{TENANT}, {TIER}", CHOSEN, RANGE), "joule"),
                "mean time held": (mean(names.QUEUE_WAIT, f"{TENANT}, {TIER}", HOLD, RANGE), "s"),
                "mean time without a slot": (mean(names.QUEUE_WAIT, f"{TENANT}, {TIER}", CAPACITY, RANGE), "s"),
                "deadlines missed": (increase(names.LATE, f"{TENANT}, {TIER}", CHOSEN), "short"),
            },
            {TENANT: "tenant", TIER: "tier"},
        ),
    ]


def _energy() -> list[Panel]:
    by = f"{TENANT}, energy_source"
    return [
        series(
            "Watts by tenant, net",
            "Joules of the requests that became known, a second, stacked. Short of what the meters count: idle is nobody's.",
            "watt",
            Query(rate(names.REQUEST_ENERGY, by, CHOSEN, "sum"), TENANT_NAME + " ({{energy_source}})"),
            stacked=True,
            by="paceline.tenant",
        ),
        series(
            "J/request by tenant, net",
            f"{energy.NET} Tenants differ in lengths and in company: who waits together pays less.",
            "joule",
            Query(energy.net_per_request(by, CHOSEN), TENANT_NAME + " ({{energy_source}})"),
            by="paceline.tenant",
        ),
        series(
            "J/output token by tenant, net",
            f"{energy.NET} {energy.BY_SOURCE}",
            "joule",
            Query(energy.net_per_token(by, CHOSEN), TENANT_NAME + " ({{energy_source}})"),
            by="paceline.tenant",
        ),
    ]


def _waits() -> list[Panel]:
    return [
        series(
            "Requests by tenant",
            "That left to a server, a second.",
            "reqps",
            Query(LEFT, TENANT_NAME),
            stacked=True,
            by="paceline.tenant",
        ),
        series(
            "Time held by tenant",
            "What the policy chose, within what senders agreed to: median and 95th percentile.",
            "s",
            Query(quantile(0.5, names.QUEUE_WAIT, TENANT, HOLD), TENANT_NAME + " p50"),
            Query(quantile(0.95, names.QUEUE_WAIT, TENANT, HOLD), TENANT_NAME + " p95"),
            by="paceline.tenant",
        ),
        series(
            "Time without a slot by tenant",
            "What nobody chose; slots are shared by weight. 95th percentile.",
            "s",
            Query(quantile(0.95, names.QUEUE_WAIT, TENANT, CAPACITY), TENANT_NAME + " p95"),
            by="paceline.tenant",
        ),
        series(
            "Deadlines missed by tenant",
            "Requests a second that left after their deadline for want of a slot, or never: over a tenant's limit, for one.",
            "reqps",
            Query(rate(names.LATE, TENANT, CHOSEN), TENANT_NAME),
            span=12,
            by="paceline.tenant",
        ),
        series(
            "Refused by us, all tenants",
            "Requests a second that got an error of ours; those of unknown keys have no tenant.",
            "reqps",
            Query(rate(names.REFUSALS, "error_type"), "{{error_type}}"),
            span=12,
            stacked=True,
        ),
    ]


def _tiers() -> list[Panel]:
    return [
        series(
            "Requests by tier",
            "That left to a server, a second.",
            "reqps",
            Query(rate(names.QUEUE_WAIT, TIER, HOLD, "count"), TIER_NAME),
            stacked=True,
            by="paceline.tier",
        ),
        series(
            "J/request by tier, net",
            f"{energy.NET} {energy.BY_SOURCE}",
            "joule",
            Query(energy.net_per_request(f"{TIER}, energy_source", CHOSEN), TIER_NAME + " ({{energy_source}})"),
            by="paceline.tier",
        ),
        series(
            "Time held by tier",
            "95th percentile.",
            "s",
            Query(quantile(0.95, names.QUEUE_WAIT, TIER, HOLD), TIER_NAME + " p95"),
            by="paceline.tier",
        ),
    ]
