"""Panels on policies in force and on shadows, which run other strategies on the same arrivals."""

from __future__ import annotations

from bench.dashboards import energy
from bench.dashboards.panels import Panel, Query, series, worse_above
from bench.dashboards.queries import mean, of, over, quantile, rate
from telemetry import names

OF_SHADOW = "paceline_strategy"


def policies() -> list[Panel]:
    """What each policy that was in force did."""
    policy = "{{paceline_policy}}"
    return [
        series(
            "J/request by policy, net",
            f"{energy.NET} Policies that ruled at different times had different traffic: this is no comparison.",
            "joule",
            Query(energy.net_per_request("paceline_policy, energy_source"), policy + " ({{energy_source}})"),
            by="paceline.policy",
        ),
        series(
            "Releases by policy and outcome",
            "How stays in the waiting room ended.",
            "reqps",
            Query(rate(names.RELEASES, "paceline_policy, paceline_outcome"), policy + " {{paceline_outcome}}"),
            stacked=True,
            by="paceline.policy",
        ),
        series(
            "Mean size of a group by policy",
            "Requests that left, over the instants at which any left.",
            "short",
            Query(mean(names.GROUP_SIZE, "paceline_policy"), policy),
            by="paceline.policy",
        ),
        series(
            "Time of a decision",
            "For all who wait, on the loop that moves bytes: it delays answers. 99th percentile and mean.",
            "s",
            Query(quantile(0.99, names.TICK), "p99"),
            Query(mean(names.TICK), "mean"),
            span=12,
            steps=worse_above(0.001, 0.01),
        ),
        series(
            "Faults of policies",
            "Decisions that raised. The room then lets everybody go.",
            "short",
            Query(f"{rate(names.FAULTS, 'paceline_policy')} or vector(0)", policy),
            span=12,
        ),
    ]


def shadows() -> list[Panel]:
    """What other strategies would have done: every joule is the model's."""
    name = "{{paceline_strategy}}"
    modelled = f"{OF_SHADOW}, energy_source"
    return [
        series(
            "J/request by strategy, MODELLED",
            "The step model's joules of each strategy on the live arrivals, idle included. as_run: what was done; straight: "
            "nobody waits.",
            "joule",
            Query(over(rate(names.SHADOW_ENERGY, OF_SHADOW), rate(names.SHADOW_REQUESTS, OF_SHADOW)), name + " (modelled)"),
        ),
        series(
            "Gain by strategy, MODELLED",
            "Watts less than straight through. Below zero: more.",
            "watt",
            Query(f"sum by ({modelled}) (deriv({of(names.SHADOW_SAVED)}[$__rate_interval]))", name + " ({{energy_source}})"),
            least=None,
        ),
        series(
            "Waits by strategy, MODELLED",
            "How long requests would have waited, or did as run: 95th percentile.",
            "s",
            Query(quantile(0.95, names.SHADOW_WAIT, OF_SHADOW), name + " p95"),
        ),
        series(
            "Deadlines missed by strategy, MODELLED",
            "Share of the requests that ended.",
            "percentunit",
            Query(over(rate(names.SHADOW_LATE, OF_SHADOW), rate(names.SHADOW_REQUESTS, OF_SHADOW)), name),
        ),
        series(
            "How far shadows are behind",
            "They may take shadow.share of a core; what they cannot keep up with is left out.",
            "s",
            Query(f"max by (instance) ({of(names.SHADOW_BEHIND)})", "{{instance}}"),
            steps=worse_above(60, 300),
        ),
        series(
            "Left out, and faults of shadows",
            "Requests that no shadow has seen, and decisions of shadows that raised.",
            "short",
            Query(rate(names.SHADOW_LEFT_OUT), "left out/s"),
            Query(rate(names.SHADOW_FAULTS, OF_SHADOW), name + " faults/s"),
        ),
    ]
