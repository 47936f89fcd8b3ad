"""Grafana's JSON as it is shipped: what the generator writes, whole, marked, and made of metrics that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from bench.dashboards.asking import panels, queries, read
from bench.dashboards.files import FOLDER, dashboards
from bench.dashboards.stage import RULES
from telemetry import names
from telemetry.names import Kind, exported

MADE = dashboards()
ALL = {name: read(text) for name, text in MADE.items()}
EVERY_PANEL = [pytest.param(panel, id=f"{name}: {panel['title']}") for name, found in ALL.items() for panel in panels(found)]
# Prometheus's own, and what rules make of ours
FOREIGN = {"up", "ALERTS"}
# sums over all time that only a model says; experiments' effects come with their source
MODELLED = (
    names.MODELLED_ENERGY,
    names.ENERGY_SAVED,
    names.SHADOW_SAVED,
    names.SHADOW_ENERGY,
    names.SHADOW_WAIT,
    names.SHADOW_LATE,
)


def known() -> set[str]:
    """Every series' name that a proxy exports."""
    found: set[str] = set()
    for name in names.ALL:
        parts = ("bucket", "sum", "count") if name.kind is Kind.HISTOGRAM else ("",)
        found |= {exported(name, part) for part in parts}
    return found


def asked(expr: str) -> set[str]:
    """The metrics that a query names: words before a brace, a bracket or nothing, that are no function, label or keyword."""
    bare = re.sub(r'"[^"]*"|\{\{.*?\}\}', "", expr)
    bare = re.sub(r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\boffset\s+\w+", "", bare)
    words = set(re.findall(r"[a-zA-Z_][\w:]*(?!\s*\(|[\w:])", bare))
    return words - {"and", "or", "unless", "by", "on", "group_left", "group_right", "bool"} - set(re.findall(r"\b\d\w*", bare))


def recorded() -> set[str]:
    groups = yaml.safe_load((RULES / "recording.yaml").read_text())["groups"]
    return {rule["record"] for group in groups for rule in group["rules"]}


def exprs() -> Iterator[tuple[str, str]]:
    for name, found in ALL.items():
        yield from ((name, target["expr"]) for panel in panels(found) for target in panel["targets"])
        yield from ((name, re.sub(r"label_values\((.+), \w+\)", r"\1", one["query"]["query"])) for one in queries(found))
    for path in RULES.glob("*.yaml"):
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from ((path.name, rule["expr"]) for rule in group["rules"])


def within(made: Any, again: Any) -> bool:
    """Everything that was made is there again; the schema may add its defaults."""
    if isinstance(made, dict):
        return isinstance(again, dict) and all(key in again and within(value, again[key]) for key, value in made.items())
    if isinstance(made, list):
        return len(made) == len(again) and all(map(within, made, again))
    return bool(made == again)


def test_the_files_are_what_the_generator_writes() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(MADE)
    for name, text in MADE.items():
        assert (FOLDER / f"{name}.json").read_text() == text, "run python -m bench.dashboards"


@pytest.mark.parametrize("name", ALL)
def test_grafanas_schema_takes_it_and_loses_nothing(name: str) -> None:
    register_default_plugins()
    again = json.loads(json.dumps(Dashboard.from_json(ALL[name]), cls=JSONEncoder))
    assert within(ALL[name], again)


@pytest.mark.parametrize("name", ALL)
def test_panels_lie_beside_each_other_within_24_columns(name: str) -> None:
    cells: list[set[tuple[int, int]]] = []
    for panel in ALL[name]["panels"]:
        place = panel["gridPos"]
        x, y = place.get("x", 0), place.get("y", 0)
        assert x + place["w"] <= 24, panel["title"]
        cells.append({(column, row) for column in range(x, x + place["w"]) for row in range(y, y + place["h"])})
    assert not any(one & other for one, other in combinations(cells, 2))
    assert len({panel["id"] for panel in ALL[name]["panels"]}) == len(ALL[name]["panels"])


@pytest.mark.parametrize("panel", EVERY_PANEL)
def test_a_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert len(panel["description"]) > 10
    assert panel["fieldConfig"]["defaults"].get("unit") or panel["type"] == "table"
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert "legendFormat" in target
        assert "$job" in target["expr"] or target["expr"].startswith("count(ALERTS")
    if panel["type"] != "table":
        assert panel["fieldConfig"]["defaults"].get("thresholds") or panel["type"] == "heatmap"


@pytest.mark.parametrize("panel", EVERY_PANEL)
def test_what_nobody_measured_is_marked_in_the_title_or_told_by_source(panel: dict[str, Any]) -> None:
    expr = " ".join(target["expr"] for target in panel["targets"])
    if any(exported(name, "bucket" if name.kind is Kind.HISTOGRAM else "") in expr for name in MODELLED):
        assert "MODELLED" in panel["title"] or "MODELLED" in panel["description"]
    else:
        assert "MODELLED" not in panel["title"]


@pytest.mark.parametrize("name", ALL)
def test_no_datasource_is_fixed(name: str) -> None:
    uids = re.findall(r'"uid": "([^"]*)"', MADE[name])
    assert set(uids) == {"${datasource}", f"paceline-{name}"}


@pytest.mark.parametrize("name", ALL)
def test_all_jobs_are_those_of_paceline(name: str) -> None:
    """`up` and a meter's own page are other jobs' too: .* would average and add those up."""
    by_name = {variable["name"]: variable for variable in queries(ALL[name])}
    assert "allValue" not in by_name.pop("job")
    assert {variable["allValue"] for variable in by_name.values()} == {".*"}


@pytest.mark.parametrize("name", ALL)
def test_dashboards_lead_to_each_other_and_to_traces(name: str) -> None:
    assert {link["url"] for link in ALL[name]["links"]} == {f"/d/paceline-{other}" for other in ALL if other != name}
    series = [panel for panel in panels(ALL[name]) if panel["type"] in ("timeseries", "heatmap")]
    for panel in series:
        (link,) = panel["fieldConfig"]["defaults"]["links"]
        pane = json.loads(unquote(link["url"]).partition("&panes=")[2])["traces"]
        assert pane["datasource"] == "${traces}"
        assert pane["queries"][0]["service"] == "paceline"
        for label in re.findall(r"__field\.labels\.(\w+)", link["url"]):
            assert any(label in target["expr"] for target in panel["targets"]), panel["title"]


def test_every_metric_that_is_asked_for_is_in_the_table() -> None:
    there_are = known() | recorded() | FOREIGN
    for where, expr in exprs():
        assert asked(expr), expr
        assert asked(expr) <= there_are, (where, expr, asked(expr) - there_are)


def test_every_metric_of_the_table_is_on_a_dashboard_or_in_a_rule() -> None:
    """A metric that nobody looks at is a metric that nobody trusts; those left out say why."""
    asked_for = {one for _, expr in exprs() for one in asked(expr)}
    unseen = {name.name for name in names.ALL if not any(one.startswith(exported(name)) for one in asked_for)}
    assert unseen == {"gen_ai.client.token.usage"}  # output tokens are asked of paceline.request.output_tokens, by tenant too


def test_the_folder_is_beside_the_rules() -> None:
    assert FOLDER.parent == RULES.parent == Path(__file__).parents[2] / "charts/paceline"
