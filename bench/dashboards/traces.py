"""Links from a panel to the traces of its requests, in Grafana's Explore."""

from __future__ import annotations

import json
from urllib.parse import quote

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models.dashboard import DashboardLinkType

UID = "${traces}"  # a hidden variable of each dashboard: the uid of the datasource of traces
SERVICE = "paceline"  # OpenTelemetry's service.name, unless OTEL_SERVICE_NAME says otherwise


def traces_of(attribute: str = "") -> builders.DashboardLink:
    """To the traces of the time that is shown: of one series' attribute, or of all that Paceline traced.

    The query is Jaeger's. Grafana puts the series' label in place of its variable, so braces and dollars stay as they are.

    Args:
        attribute: as OpenTelemetry writes it, such as `paceline.tenant`; spans and series both have it.
    """
    query = {"refId": "A", "datasource": {"uid": UID, "type": "jaeger"}, "queryType": "search", "service": SERVICE}
    if attribute:
        query["tags"] = f"{attribute}=${{__field.labels.{attribute.replace('.', '_')}}}"
    pane = {"traces": {"datasource": UID, "queries": [query], "range": {"from": "${__from}", "to": "${__to}"}}}
    url = f"/explore?schemaVersion=1&panes={quote(json.dumps(pane), safe='${}:._')}"
    title = f"Traces of this {attribute.rpartition('.')[2]}" if attribute else "Traces"
    return builders.DashboardLink(title).type(DashboardLinkType.LINK).url(url).target_blank(True)
