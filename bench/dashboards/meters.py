"""Panels on the meters' health, and on how sure a request's joules are."""

from __future__ import annotations

from bench.dashboards.panels import GREEN, RED, Panel, Query, heat, rows, series, worse_above
from bench.dashboards.queries import increase, of, power, quantile, rate
from telemetry import names

DEVICE = "hw_id, energy_source"
DEVICE_NAME = "{{hw_id}} ({{energy_source}})"
SPLIT = "paceline_tenant, paceline_tier, energy_attribution_method"


def meters() -> list[Panel]:
    """Each device: its power, how old its counter is, and whether two readings of it agree."""
    ratio = f"{increase(names.INTEGRATED_ENERGY, 'hw_id', window='1h')} / {increase(names.HW_ENERGY, 'hw_id', window='1h')}"
    return [
        series(
            "Power, by device and source",
            "Mean between the latest two steps of each counter.",
            "watt",
            Query(power(), DEVICE_NAME),
        ),
        series(
            "Age of a counter's latest step",
            "A saw's teeth as long as the meter's rhythm are right; a line that climbs is a counter that stands still.",
            "s",
            Query(f"max by ({DEVICE}) ({of(names.METER_AGE)})", DEVICE_NAME),
            steps=worse_above(30, 90),
        ),
        series(
            "Power added up, over the counter",
            "Two readings of one device over an hour: 1, give or take 5 %. Only devices that tell both are here.",
            "none",
            Query(ratio, "{{hw_id}}"),
            steps=((None, RED), (0.95, GREEN), (1.05, RED)),
            least=None,
        ),
    ]


def sureness() -> list[Panel]:
    """Uncertainty, other methods of splitting, and single requests."""
    by = "paceline_tenant, paceline_tier"
    shapley = increase(names.METHOD_ENERGY, by, 'energy_attribution_method="shapley"')
    other = increase(names.METHOD_ENERGY, SPLIT, 'energy_attribution_method!="shapley"')
    spread = f"{other} / on ({by}) group_left {shapley} - 1"
    return [
        series(
            "Uncertainty, by tier",
            "Half the width of the 95 % interval of a request's joules, over them: median and 95th percentile.",
            "percentunit",
            *(
                Query(quantile(q, names.ENERGY_UNCERTAINTY, "paceline_tier"), f"{{{{paceline_tier}}}} p{q * 100:.0f}")
                for q in (0.5, 0.95)
            ),
            by="paceline.tier",
        ),
        rows(
            "Spread of methods",
            "The same requests' joules split by tokens, and equally by time, against Shapley's: other definitions, not errors. "
            "Far from zero, it matters to this tenant which is used.",
            {"against Shapley": (spread, "percentunit")},
            {"paceline_tenant": "tenant", "paceline_tier": "tier", "energy_attribution_method": "method"},
            span=8,
        ),
        heat(
            "Joules of single requests, net",
            "Requests a second by what each was charged. Dots are requests with a trace, where traces are exported: click one.",
            "joule",
            Query(rate(names.REQUEST_ENERGY, "le", "", "bucket"), "{{le}}"),
        ),
    ]
