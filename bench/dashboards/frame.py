"""What all dashboards have in common: variables, links to each other, times, and marks where alerts fire."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard

from bench.dashboards.panels import DATASOURCE, Panel
from bench.dashboards.queries import SCOPE
from telemetry import names
from telemetry.names import exported

TAG = "paceline"
TITLES = {"overview": "Overview", "experiments": "Policies and experiments", "audit": "Energy audit"}
TITLES |= {"fleet": "Fleet", "tenants": "Tenants"}
EVERYTHING = ".*"  # also series that lack the label


def framed(name: str, description: str, rows: Mapping[str, Sequence[Panel]], variables: Mapping[str, tuple[str, str]]) -> str:
    """One dashboard as Grafana's JSON.

    Args:
        name: of the file; `paceline-` and it is the dashboard's uid.
        description: a sentence for who opens it.
        rows: heading -> panels from left to right; an empty heading has no row of its own.
        variables: beside datasource, job and instance: name -> (metric that has it, label).
    """
    made = builders.Dashboard(f"Paceline / {TITLES[name]}").uid(f"paceline-{name}").description(description)
    made = made.tags([TAG]).time("now-1h", "now").refresh("30s").timezone("browser").readonly()
    made = made.tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
    for variable in _variables(variables):
        made = made.with_variable(variable)
    for other, title in TITLES.items():
        if other != name:
            made = made.link(_link(other, title))
    made = made.annotation(_alerts())
    for heading, panels in rows.items():
        if heading:
            made = made.with_row(builders.Row(heading))
        for panel in panels:
            made = made.with_panel(panel)
    return _json(made.build())


def _json(made: dashboard.Dashboard) -> str:
    for number, panel in enumerate(made.panels or (), 1):
        panel.id_val = number
    return json.dumps(made, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _variables(more: Mapping[str, tuple[str, str]]) -> list[Builder[dashboard.VariableModel]]:
    alive = exported(names.CONFIG_VERSION)
    made: list[Builder[dashboard.VariableModel]] = [
        builders.DatasourceVariable("datasource").label("Prometheus").type("prometheus"),
        builders.ConstantVariable("traces").label("uid of the datasource of traces").value("traces"),
        _query("job", f"label_values({alive}, job)", everything=""),  # all of ours: .* would be whatever Prometheus scrapes
        _query("instance", f'label_values({alive}{{job=~"$job"}}, instance)'),
    ]
    made += [_query(name, f"label_values({metric}{{{SCOPE}}}, {label})") for name, (metric, label) in more.items()]
    return made


def _query(name: str, query: str, *, everything: str = EVERYTHING) -> builders.QueryVariable:
    """A variable of which several may be chosen; `everything` is what all of them are, if not each of those offered."""
    variable = builders.QueryVariable(name).label(name).datasource(DATASOURCE).query({"query": query, "refId": name})
    variable = variable.refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(dashboard.VariableSort.ALPHABETICAL_ASC)
    chosen = dashboard.VariableOption(selected=True, text="All", value="$__all")
    variable = variable.multi(True).include_all(True).current(chosen)
    return variable.all_value(everything) if everything else variable


def _link(name: str, title: str) -> builders.DashboardLink:
    link = builders.DashboardLink(title).type(dashboard.DashboardLinkType.LINK).url(f"/d/paceline-{name}")
    return link.keep_time(True).include_vars(True).icon("dashboard")


def _alerts() -> builders.AnnotationQuery:
    """A mark where one of our alerts fires."""
    mark = builders.AnnotationQuery().name("Alerts").datasource(DATASOURCE).enable(True).icon_color("red")
    return mark.expr('ALERTS{alertname=~"Paceline.*",alertstate="firing"}')
