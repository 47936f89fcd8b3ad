"""Policies beside each other: the arms of an experiment and what is found so far, all policies in force, and shadows."""

from __future__ import annotations

from bench.dashboards import energy
from bench.dashboards.frame import framed
from bench.dashboards.panels import GREEN, GREY, RED, YELLOW, Panel, Query, figure, rows, series, states, worse_above
from bench.dashboards.queries import of, over, quantile, rate, total
from bench.dashboards.strategies import policies, shadows
from telemetry import names
from telemetry.names import exported

OF_EXPERIMENT = 'paceline_experiment=~"$experiment",paceline_experiment!=""'
ARMS = f'{OF_EXPERIMENT},paceline_arm=~"control|treatment"'
OF_ARM = "paceline_experiment, paceline_arm"
ARM = "{{paceline_experiment}} {{paceline_arm}}"
JUDGEMENTS = {0: ("unknown", GREY), 1: ("open", YELLOW), 2: ("holds", GREEN), 3: ("tripped", RED)}


def experiments() -> str:
    """The dashboard's JSON."""
    by_name = {
        "": [*_so_far(), *_harm()],
        "Arms side by side": _arms(),
        "Policies in force": policies(),
        "Shadows: other strategies on the same arrivals, MODELLED": shadows(),
    }
    description = "What an experiment has found so far and who pays for it; what each policy does; what shadows say. "
    description += "docs/experiments.md says how to read it."
    return framed(
        "experiments", description, by_name, {"experiment": (exported(names.EXPERIMENT_PAIRS), "paceline_experiment")}
    )


def _bound(bound: str) -> str:
    of_one = "paceline_experiment, paceline_metric, energy_source"
    where = f'{OF_EXPERIMENT},paceline_bound="{bound}"'
    return f"max by ({of_one}) ({of(names.EXPERIMENT_EFFECT, where)})"


def _judged() -> str:
    """0 unknown, 1 open, 2 holds, 3 tripped: the worst that any proxy says."""
    worth = {"open": 1, "holds": 2, "tripped": 3}
    where = {value: f'{OF_EXPERIMENT},paceline_judgement="{word}"' for word, value in worth.items()}
    parts = (f"{value} * {of(names.EXPERIMENT_GUARDRAIL, found)}" for value, found in where.items())
    return "max by (paceline_experiment, paceline_guardrail) (" + " or ".join(parts) + ")"


def _so_far() -> list[Panel]:
    name = "{{paceline_experiment}}"
    return [
        figure(
            "Effect so far",
            "The treatment's joules over the control's, less 1: below zero it saves. By itself it says little.",
            "percentunit",
            Query(_bound("middle"), name + " ({{energy_source}})"),
            decimals=1,
            names=True,
            empty="none runs",
        ),
        figure(
            "... at least",
            "Lower end of the interval that holds at all times at once (95 %, or as alpha says); from the sixth pair on.",
            "percentunit",
            Query(_bound("low"), name),
            steps=((None, GREEN), (0, GREY)),
            decimals=1,
            empty="not yet",
        ),
        figure(
            "... at most",
            "Upper end of that interval. Below zero: a saving is shown.",
            "percentunit",
            Query(_bound("high"), name),
            steps=((None, GREEN), (0, GREY)),
            decimals=1,
            empty="not yet",
        ),
        figure(
            "Pairs of blocks",
            "So many are compared so far.",
            "short",
            Query(total(names.EXPERIMENT_PAIRS, "paceline_experiment", OF_EXPERIMENT), name),
            empty="none runs",
        ),
    ]


def _harm() -> list[Panel]:
    name = "{{paceline_experiment}}"
    return [
        states(
            "Guardrails",
            "holds: shown to be within the margin; open: neither shown nor excluded; tripped: the experiment was ended.",
            Query(_judged(), "{{paceline_guardrail}}"),
            JUDGEMENTS,
            span=8,
        ),
        series(
            "Effect and its always-valid interval",
            "It may be watched, and the experiment stopped, at any time. Wholly below zero: the treatment saves.",
            "percentunit",
            *(Query(_bound(bound), f"{name} {bound}") for bound in ("high", "middle", "low")),
            span=16,
            steps=((None, GREY), (0, GREY)),
            least=None,
            by="paceline.experiment",
        ),
        rows(
            "Experiments that are over",
            "The latest, and how each ended: finished, stopped by somebody, or tripped by a guardrail.",
            {"ended": (f"1000 * max by (paceline_experiment, paceline_end) ({of(names.EXPERIMENT_ENDED)})", "dateTimeAsIso")},
            {"paceline_experiment": "experiment", "paceline_end": "how"},
            span=8,
        ),
    ]


def _arms() -> list[Panel]:
    described = "Requests that came in the analysed part of each arm's blocks."
    return [
        series(
            "J/request by arm, net",
            f"{energy.NET} {described} The effect above has idle joules in it.",
            "joule",
            Query(energy.net_per_request(f"{OF_ARM}, energy_source", ARMS), ARM + " ({{energy_source}})"),
            by="paceline.arm",
        ),
        series(
            "J/output token by arm, net",
            f"{energy.NET} {described}",
            "joule",
            Query(energy.net_per_token(f"{OF_ARM}, energy_source", ARMS), ARM + " ({{energy_source}})"),
            by="paceline.arm",
        ),
        series(
            "Requests by arm",
            "Only one arm rules at a time, block by block.",
            "reqps",
            Query(rate(names.REQUEST_ENERGY, OF_ARM, OF_EXPERIMENT, "count"), ARM),
            stacked=True,
            by="paceline.arm",
        ),
        series(
            "Time held by arm",
            f"What the arm's policy chose; median and 95th percentile. {described}",
            "s",
            *(
                Query(quantile(q, names.QUEUE_WAIT, OF_ARM, f'{ARMS},paceline_wait="hold"'), f"{ARM} p{q * 100:.0f}")
                for q in (0.5, 0.95)
            ),
            by="paceline.arm",
        ),
        series(
            "Time without a slot by arm",
            f"95th percentile. {described}",
            "s",
            Query(quantile(0.95, names.QUEUE_WAIT, OF_ARM, f'{ARMS},paceline_wait="capacity"'), f"{ARM} p95"),
            by="paceline.arm",
        ),
        series(
            "Deadlines missed by arm",
            f"Share of the requests that left. {described}",
            "percentunit",
            Query(
                over(rate(names.LATE, OF_ARM, ARMS), rate(names.QUEUE_WAIT, OF_ARM, f'{ARMS},paceline_wait="hold"', "count")),
                ARM,
            ),
            steps=worse_above(0.01, 0.05),
            by="paceline.arm",
        ),
    ]
