"""Panels on what each server costs: in joules, and in time to its tokens."""

from __future__ import annotations

from bench.dashboards import energy
from bench.dashboards.panels import Panel, Query, series
from bench.dashboards.queries import SERVER, power, quantile
from telemetry import names

OF_SERVER = 'server_address=~"$server"'
NAME = "{{server_address}}:{{server_port}}"


def costs() -> list[Panel]:
    """All of them, in two rows."""
    by = f"{SERVER}, energy_source"
    return [
        series(
            "J/request by server, net",
            f"{energy.NET} {energy.BY_SOURCE}",
            "joule",
            Query(energy.net_per_request(by, OF_SERVER), NAME + " ({{energy_source}})"),
            by="server.port",
        ),
        series(
            "J/output token by server, net",
            f"{energy.NET} {energy.BY_SOURCE}",
            "joule",
            Query(energy.net_per_token(by, OF_SERVER), NAME + " ({{energy_source}})"),
            by="server.port",
        ),
        series(
            "Power, by device and source",
            "All devices of the meters; which serve which servers is the domains' configuration.",
            "watt",
            Query(power(), "{{hw_id}} ({{energy_source}})"),
            stacked=True,
        ),
        series(
            "First token by server",
            "From arrival to the first token of a stream, waits included; 95th percentile.",
            "s",
            Query(quantile(0.95, names.FIRST_TOKEN, SERVER, OF_SERVER), NAME + " p95"),
            span=12,
            by="server.port",
        ),
        series(
            "Each further token by server",
            "Seconds per token after the first; 95th percentile. Packing makes it longer.",
            "s",
            Query(quantile(0.95, names.PER_TOKEN, SERVER, OF_SERVER), NAME + " p95"),
            span=12,
            by="server.port",
        ),
    ]
