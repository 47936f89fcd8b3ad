"""Panels on what clients see: how requests ended, how soon tokens came, and which deadlines were missed."""

from __future__ import annotations

from bench.dashboards.panels import Panel, Query, series, worse_above
from bench.dashboards.queries import over, quantile, rate
from telemetry import names

OF_MODEL = 'gen_ai_request_model=~"$model"'
REQUESTS = rate(names.DURATION, "", 'gen_ai_request_model=~"$model"', "count")
LATE = over(rate(names.LATE, where='gen_ai_request_model=~"$model"'), REQUESTS)


def answers() -> list[Panel]:
    """All of them, in two rows."""
    ended = rate(names.DURATION, "error_type", OF_MODEL, "count")
    return [
        series(
            "Requests, by how they ended",
            "Answers a second; what went wrong is told in OpenTelemetry's error.type, ours or the engine's.",
            "reqps",
            Query(f'label_replace({ended}, "error_type", "answered", "error_type", "^$")', "{{error_type}}"),
            stacked=True,
            by="error.type",
        ),
        series(
            "Stays in the waiting room, by how they ended",
            "policy: released; deadline: its own time was over; rejected, expired: no room, no slot; drained: we close.",
            "reqps",
            Query(rate(names.RELEASES, "paceline_outcome"), "{{paceline_outcome}}"),
            stacked=True,
            by="paceline.outcome",
        ),
        series(
            "Refused by us",
            "Errors of Paceline's own making: overloaded, no_slot, upstream, unauthorized and so on.",
            "reqps",
            Query(rate(names.REFUSALS, "error_type"), "{{error_type}}"),
            stacked=True,
        ),
        series(
            "First token, by model",
            "From arrival to the first token of a stream, waits included: median and 95th percentile.",
            "s",
            Query(quantile(0.5, names.FIRST_TOKEN, "gen_ai_request_model", OF_MODEL), "{{gen_ai_request_model}} p50"),
            Query(quantile(0.95, names.FIRST_TOKEN, "gen_ai_request_model", OF_MODEL), "{{gen_ai_request_model}} p95"),
            by="gen_ai.request.model",
        ),
        series(
            "Each further token, by model",
            "Seconds per token after the first of a stream: what a fuller batch costs.",
            "s",
            Query(quantile(0.5, names.PER_TOKEN, "gen_ai_request_model", OF_MODEL), "{{gen_ai_request_model}} p50"),
            Query(quantile(0.95, names.PER_TOKEN, "gen_ai_request_model", OF_MODEL), "{{gen_ai_request_model}} p95"),
            by="gen_ai.request.model",
        ),
        series(
            "Deadlines missed",
            "Share of requests that left after their deadline for want of a slot, or never.",
            "percentunit",
            Query(LATE, "late"),
            steps=worse_above(0.01, 0.05),
        ),
    ]
