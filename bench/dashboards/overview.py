"""The first dashboard that an operator opens: is it well, what does a request cost, what is saved, and who waits for it."""

from __future__ import annotations

from bench.dashboards import energy
from bench.dashboards.answers import answers
from bench.dashboards.frame import framed
from bench.dashboards.panels import Panel, Query, figure, heat, series, worse_above, worse_below
from bench.dashboards.queries import RANGE, SCOPE, increase, mean, of, over, power, quantile, rate, total
from telemetry import names
from telemetry.names import exported

OF_MODEL = 'gen_ai_request_model=~"$model"'


def overview() -> str:
    """The dashboard's JSON."""
    rows = {
        "": _well(),
        "What a request costs": _costs(),
        "What waiting saves, and who waits": _waits(),
        "What clients see": answers(),
    }
    description = "Is Paceline well, what does a request cost in joules, what does waiting save, and who pays for it in time."
    return framed("overview", description, rows, {"model": (exported(names.DURATION, "count"), "gen_ai_request_model")})


def _well() -> list[Panel]:
    window = RANGE
    firing = 'count(ALERTS{alertname=~"Paceline.*",alertstate="firing"}) or vector(0)'
    return [
        figure(
            "Proxies that answer",
            "Share of the scrape targets of this job that answer on their admin port.",
            "percentunit",
            Query(f"avg(up{{{SCOPE}}})"),
            span=3,
            steps=worse_below(1, 0.5),
            decimals=0,
        ),
        figure(
            "Alerts firing",
            "Of Paceline's rules; docs/runbook.md has a section for each.",
            "short",
            Query(firing),
            span=3,
            steps=((None, "green"), (1, "red")),
        ),
        figure(
            "J/request, idle included",
            f"{energy.WHOLE} Over the time that is shown. {energy.BY_SOURCE}",
            "joule",
            Query(energy.whole_per_request(window), "{{energy_source}}"),
            names=True,
        ),
        figure(
            "J/request, net",
            f"{energy.NET} Over the time that is shown. {energy.BY_SOURCE}",
            "joule",
            Query(energy.net_per_request(where=OF_MODEL, window=window), "{{energy_source}}"),
            names=True,
        ),
        *_saved(),
    ]


def _saved() -> list[Panel]:
    return [
        figure(
            "Saved, MODELLED",
            "What the step model says that the strategy in force saves of all joules, idle included, against every request "
            "leaving at once (straight through). Nobody measured it; an experiment does.",
            "percentunit",
            Query(energy.modelled_saving(RANGE), "modelled"),
            steps=((None, "red"), (0, "green")),
            decimals=1,
            names=True,
        ),
        figure(
            "Deadlines missed",
            "Share of requests that left after their deadline for want of a slot, or never. Holding does not do this.",
            "percentunit",
            Query(
                over(increase(names.LATE, where=OF_MODEL), increase(names.DURATION, "", OF_MODEL, "count")) + " or vector(0)"
            ),
            span=3,
            steps=worse_above(0.01, 0.05),
            decimals=2,
        ),
        figure(
            "Waiting now",
            "Requests in the waiting room: held by the policy, or for want of a slot.",
            "short",
            Query(total(names.QUEUE_DEPTH), "waiting"),
            span=3,
            spark=True,
        ),
    ]


def _costs() -> list[Panel]:
    return [
        series(
            "J/request, by source",
            f"{energy.WHOLE} {energy.NET} {energy.BY_SOURCE}",
            "joule",
            Query(energy.whole_per_request(), "idle included, {{energy_source}}"),
            Query(energy.net_per_request(where=OF_MODEL), "net, {{energy_source}}"),
            span=6,
        ),
        series(
            "J/output token, by source",
            f"{energy.WHOLE} {energy.NET} Over the output tokens of the same requests, told by engines or counted.",
            "joule",
            Query(energy.whole_per_token(), "idle included, {{energy_source}}"),
            Query(energy.net_per_token(where=OF_MODEL), "net, {{energy_source}}"),
            span=6,
        ),
        heat(
            "Joules of single requests, net",
            "Requests a second by what each was charged. Dots are requests with a trace, where traces are exported: click one.",
            "joule",
            Query(rate(names.REQUEST_ENERGY, "le", OF_MODEL, "bucket"), "{{le}}"),
            span=6,
        ),
        series(
            "Power, by device and source",
            "Mean power between the latest two steps of each device's counter, stacked.",
            "watt",
            Query(power(), "{{hw_id}} ({{energy_source}})"),
            span=6,
            stacked=True,
        ),
    ]


def _waits() -> list[Panel]:
    by_policy = f"sum by (paceline_policy) (deriv({of(names.ENERGY_SAVED)}[$__rate_interval]))"
    return [
        series(
            "Live gain by policy, MODELLED",
            "Watts that the step model says would come on top, if the same requests went straight through. Below 0: lost.",
            "watt",
            Query(by_policy, "{{paceline_policy}} (modelled)"),
            least=None,
            by="paceline.policy",
        ),
        series(
            "Time held, by tier",
            "What the policy chose, within what each request's sender agreed to: median and 95th percentile.",
            "s",
            Query(
                quantile(0.5, names.QUEUE_WAIT, "paceline_tier", f'paceline_wait="hold",{OF_MODEL}'), "{{paceline_tier}} p50"
            ),
            Query(
                quantile(0.95, names.QUEUE_WAIT, "paceline_tier", f'paceline_wait="hold",{OF_MODEL}'), "{{paceline_tier}} p95"
            ),
            by="paceline.tier",
        ),
        series(
            "Time without a slot, by tier",
            "What nobody chose: no server had a slot. 95th percentile.",
            "s",
            Query(
                quantile(0.95, names.QUEUE_WAIT, "paceline_tier", f'paceline_wait="capacity",{OF_MODEL}'),
                "{{paceline_tier}} p95",
            ),
            by="paceline.tier",
        ),
        series(
            "Waiting room",
            "Requests held by the policy, and those that wait for a slot. At the limit the next one gets 429.",
            "short",
            Query(total(names.QUEUE_DEPTH, "paceline_wait"), "{{paceline_wait}}"),
            stacked=True,
        ),
        heat(
            "Groups that left together",
            "How many requests left at one instant: larger groups share a decode step, which is where joules are saved.",
            "short",
            Query(rate(names.GROUP_SIZE, "le", "", "bucket"), "{{le}}"),
        ),
        series(
            "Mean size of a group, by policy",
            "Requests that left, over the instants at which any left.",
            "short",
            Query(mean(names.GROUP_SIZE, "paceline_policy"), "{{paceline_policy}}"),
            by="paceline.policy",
        ),
    ]
