"""Grafana's panels as Paceline uses them: every one with a description, a unit, legends, and a way to its traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from bench.dashboards.traces import traces_of

DATASOURCE = dashboard.DataSourceRef("prometheus", "${datasource}")
GREEN, YELLOW, RED, BLUE, GREY = "green", "#EAB839", "red", "blue", "#808080"
Steps = Sequence[tuple[float | None, str]]  # from this value on, this colour; the first from None
NEUTRAL: Steps = ((None, BLUE),)


@dataclass(frozen=True, slots=True)
class Query:
    """One line of PromQL, and what its series are called."""

    expr: str
    legend: str = ""


def worse_above(warn: float, bad: float) -> Steps:
    return ((None, GREEN), (warn, YELLOW), (bad, RED))


def worse_below(good: float, warn: float) -> Steps:
    return ((None, RED), (warn, YELLOW), (good, GREEN))


def series(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    span: int = 8,
    stacked: bool = False,
    steps: Steps = (),
    least: float | None = 0,
    by: str = "",
    exemplars: bool = False,
) -> timeseries.Panel:
    """Lines over time.

    Args:
        title: with MODELLED in it where nobody measured.
        description: what it shows and how to read it.
        unit: Grafana's name for it.
        queries: with their legends.
        span: columns of 24.
        stacked: the series add up to something.
        steps: thresholds that are drawn as lines.
        least: where the axis begins; None: where the values do.
        by: the label by which a click finds traces, as OpenTelemetry writes it; empty: of the service.
        exemplars: single requests are drawn, each of which leads to its trace.
    """
    panel = timeseries.Panel().title(title).description(description).unit(unit).datasource(DATASOURCE).span(span).height(8)
    panel = panel.fill_opacity(30 if stacked else 8).line_width(1).show_points(common.VisibilityMode.AUTO)
    panel = panel.legend(_legend()).tooltip(_tooltip()).thresholds(_thresholds(steps or NEUTRAL)).data_links([traces_of(by)])
    if stacked:
        panel = panel.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL))
    if steps:
        style = common.GraphThresholdsStyleMode.DASHED
        panel = panel.thresholds_style(common_builders.GraphThresholdsStyleConfig().mode(style))
    if least is not None:
        panel = panel.min(least)
    for letter, query in _lettered(queries):
        panel = panel.with_target(_target(letter, query).range().exemplar(exemplars))
    return panel


def figure(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    span: int = 4,
    steps: Steps = NEUTRAL,
    decimals: int | None = None,
    spark: bool = False,
    names: bool = False,
    empty: str = "no data",
) -> stat.Panel:
    """One number, as of now or over the time that is shown; `names` writes beside it what it is of."""
    panel = stat.Panel().title(title).description(description).unit(unit).datasource(DATASOURCE).span(span).height(4)
    panel = panel.thresholds(_thresholds(steps)).no_value(empty).color_mode(common.BigValueColorMode.VALUE)
    panel = panel.graph_mode(common.BigValueGraphMode.AREA if spark else common.BigValueGraphMode.NONE)
    mode = common.BigValueTextMode.VALUE_AND_NAME if names else common.BigValueTextMode.VALUE
    panel = panel.text_mode(mode).reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))
    if decimals is not None:
        panel = panel.decimals(decimals)
    for letter, query in _lettered(queries):
        target = _target(letter, query)
        panel = panel.with_target(target.range() if spark else target.instant())
    return panel


def rows(
    title: str, description: str, columns: Mapping[str, tuple[str, str]], labels: Mapping[str, str], *, span: int = 24
) -> table.Panel:
    """A table: a row for each set of labels.

    Args:
        title: of the panel.
        description: what a row is.
        columns: heading -> (PromQL, unit), in order.
        labels: label -> heading, in order, before the columns.
        span: columns of 24.
    """
    panel = table.Panel().title(title).description(description).datasource(DATASOURCE).span(span).height(8)
    panel = panel.filterable(True).thresholds(_thresholds(NEUTRAL))
    renamed: dict[str, str] = dict(labels)
    for letter, (heading, (expr, unit)) in zip(_LETTERS, columns.items(), strict=False):
        panel = panel.with_target(_target(letter, Query(expr)).instant().format(PromQueryFormat.TABLE))
        renamed[f"Value #{letter}" if len(columns) > 1 else "Value"] = heading
        panel = panel.override_by_name(heading, [dashboard.DynamicConfigValue("unit", unit)])
    order = {name: place for place, name in enumerate(renamed)}
    hidden = {"Time": True, **{f"Time {place}": True for place in range(1, len(columns) + 1)}}
    panel = panel.with_transformation(dashboard.DataTransformerConfig("merge", options={}))
    organised = {"excludeByName": hidden, "indexByName": order, "renameByName": renamed}
    return panel.with_transformation(dashboard.DataTransformerConfig("organize", options=organised))


def states(
    title: str, description: str, query: Query, words: Mapping[int, tuple[str, str]], *, span: int = 12
) -> statetimeline.Panel:
    """Which state each was in, over time: value -> (word, colour)."""
    panel = (
        statetimeline.Panel().title(title).description(description).unit("short").datasource(DATASOURCE).span(span).height(6)
    )
    results = {str(value): dashboard.ValueMappingResult(word, colour) for value, (word, colour) in words.items()}
    steps = [(None if place == 0 else float(value), words[value][1]) for place, value in enumerate(sorted(words))]
    panel = panel.mappings([dashboard.ValueMap(results)]).thresholds(_thresholds(steps)).merge_values(True)
    panel = panel.show_value(common.VisibilityMode.AUTO).legend(_legend()).fill_opacity(80)
    return panel.with_target(_target("A", query).range())


def heat(title: str, description: str, unit: str, query: Query, *, span: int = 8) -> heatmap.Panel:
    """How often which value was seen, over time: the buckets of a histogram, single requests on them."""
    panel = heatmap.Panel().title(title).description(description).datasource(DATASOURCE).span(span).height(8)
    panel = panel.calculate(False).color(
        heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64)
    )
    panel = panel.y_axis(heatmap.YAxisConfig().unit(unit)).unit(unit).show_legend().data_links([traces_of()])
    target = _target("A", query).range().format(PromQueryFormat.HEATMAP).exemplar(True)
    return panel.with_target(target)


_LETTERS = "ABCDEFGHIJKLMNOP"


def _lettered(queries: Sequence[Query]) -> list[tuple[str, Query]]:
    return list(zip(_LETTERS, queries, strict=False))


def _target(letter: str, query: Query) -> prometheus.Dataquery:
    target = prometheus.Dataquery().ref_id(letter).expr(query.expr).datasource(DATASOURCE)
    return target.legend_format(query.legend or "__auto")


def _thresholds(steps: Steps) -> builders.ThresholdsConfig:
    made = [dashboard.Threshold(value, colour) for value, colour in steps]
    return builders.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(made)


def _legend() -> common_builders.VizLegendOptions:
    legend = common_builders.VizLegendOptions().show_legend(True).placement(common.LegendPlacement.BOTTOM)
    return legend.display_mode(common.LegendDisplayMode.LIST).calcs([])


def _tooltip() -> common_builders.VizTooltipOptions:
    return common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)


Panel = Any  # any of the SDK's builders of panels, which share no class
