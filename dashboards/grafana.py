"""Renders dashboards as the JSON of Grafana: layout, defaults and links that all panels share."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards.model import Dashboard, Kind, Panel, Row, Variable

TAG = "finetune-operator"
COLUMNS = 24
RUNBOOKS = "docs/runbooks.md"
"""Value of the variable `runbooks`; the chart replaces the value by the address of the page at the site."""
SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
_LAST = common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)
_DATASOURCE_QUERY = "PrometheusVariableQueryEditor-VariableQuery"


def render(board: Dashboard) -> dict[str, Any]:
    """Returns the JSON of a dashboard.

    Raises:
        ValueError: a panel is wider than the dashboard.
    """
    built = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.about)
        .tags([TAG])
        .timezone("browser")
        .time(board.since, "now")
        .refresh("1m")
        .readonly()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for variable in board.variables:
        built = built.with_variable(_variable(variable))
    built = built.with_variable(dashboard.ConstantVariable("runbooks").value(RUNBOOKS))
    for annotation in board.annotations:
        built = built.annotation(
            dashboard.AnnotationQuery()
            .name(annotation.name)
            .datasource(SOURCE)
            .enable(True)
            .hide(False)
            .icon_color(annotation.color)
            .expr(annotation.expr)
        )
    for link in _board_links():
        built = built.link(link)
    y = 0
    for row in board.rows:
        built = built.with_row(_row(row, y)) if row.needs else _open_row(built, row, y)
        # The panels of a collapsed row take no space until a person opens the row.
        y += 1 if row.needs else 1 + _height(row.panels)
    return _complete(json.loads(JSONEncoder().encode(built.build())), board)


def places(panels: Iterable[Panel], y: int) -> Iterator[tuple[Panel, models.GridPos]]:
    """The positions of panels from left to right, in lines from `y` downwards.

    Raises:
        ValueError: a panel is wider than the dashboard.
    """
    x = line = 0
    for panel in panels:
        if panel.width > COLUMNS:
            raise ValueError(f"panel {panel.id} is {panel.width} columns wide, and a dashboard has {COLUMNS}")
        if x + panel.width > COLUMNS:
            x, y, line = 0, y + line, 0
        yield panel, models.GridPos(x=x, y=y, w=panel.width, h=panel.height)
        x, line = x + panel.width, max(line, panel.height)


def row_title(row: Row) -> str:
    """The title of a row, with the software that the row needs."""
    return f"{row.title} (needs {row.needs})" if row.needs else row.title


def _height(panels: Iterable[Panel]) -> int:
    return max(at.y + at.h for _, at in places(panels, 0))


def _open_row(built: dashboard.Dashboard, row: Row, y: int) -> dashboard.Dashboard:
    built = built.with_row(dashboard.Row(row.title).id(row.id).grid_pos(_row_place(y)))
    for panel, at in places(row.panels, y + 1):
        built = built.with_panel(_panel(panel).grid_pos(at))
    return built


def _row(row: Row, y: int) -> dashboard.Row:
    built = dashboard.Row(row_title(row)).id(row.id).grid_pos(_row_place(y)).collapsed(True)
    for panel, at in places(row.panels, y + 1):
        built = built.with_panel(_panel(panel).grid_pos(at))
    return built


def _row_place(y: int) -> models.GridPos:
    return models.GridPos(x=0, y=y, w=COLUMNS, h=1)


def _variable(variable: Variable) -> dashboard.QueryVariable:
    query = {"query": variable.query, "qryType": 1, "refId": _DATASOURCE_QUERY}
    built = (
        dashboard.QueryVariable(variable.name)
        .label(variable.label)
        .datasource(SOURCE)
        .query(query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )
    if variable.several:
        everything = models.VariableOption(selected=True, text="All", value="$__all")
        built = built.multi(True).include_all(True).all_value(".*").current(everything)
    return built


def _board_links() -> Iterator[dashboard.DashboardLink]:
    yield (
        dashboard.DashboardLink("Dashboards")
        .type(models.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .include_vars(True)
        .keep_time(True)
        .icon("dashboard")
    )
    yield (
        dashboard.DashboardLink("Runbooks")
        .type(models.DashboardLinkType.LINK)
        .url("${runbooks}")
        .tooltip("What each alert means and what to do")
        .target_blank(True)
        .icon("doc")
    )


def _panel(panel: Panel) -> Any:
    """The builder of a panel. The builders of the kinds have no common type."""
    built = (
        _drawing(panel)
        .id(panel.id)
        .title(panel.title)
        .description(f"{panel.means}\n\n**If the values look bad:** {panel.remedy}")
        .datasource(SOURCE)
        .unit(panel.unit)
        .thresholds(_thresholds(panel))
        .links([_runbook(alert) for alert in panel.alerts])
    )
    for number, query in enumerate(panel.queries):
        built = built.with_target(_target(panel, chr(ord("A") + number), query.expr, query.legend))
    limits = {"min": panel.minimum, "max": panel.maximum, "decimals": panel.decimals}
    for name, value in limits.items():
        if value is not None:
            built = getattr(built, name)(value)
    if panel.empty:
        built = built.no_value(panel.empty)
    if panel.values:
        built = built.mappings([_mapping(panel.values)])
    for series, color in panel.colors.items():
        built = built.override_by_name(series, [_property("color", {"mode": "fixed", "fixedColor": color})])
    return built


def _drawing(panel: Panel) -> Any:
    """The builder of a panel with all that belongs to its kind."""
    match panel.kind:
        case Kind.LINES:
            return _lines(panel)
        case Kind.STAT:
            return _stat(panel)
        case Kind.BARS:
            return _bars()
        case Kind.TABLE:
            return _table(panel)
        case Kind.STATES:
            return _states()


def _target(panel: Panel, ref: str, expr: str, legend: str) -> prometheus.Dataquery:
    built = prometheus.Dataquery().ref_id(ref).expr(expr).datasource(SOURCE)
    if panel.kind is Kind.TABLE:
        return built.instant().format(PromQueryFormat.TABLE)
    built = built.legend_format(legend)
    return built.instant() if panel.kind.instant else built.range()


def _runbook(alert: str) -> dashboard.DashboardLink:
    return (
        dashboard.DashboardLink(f"Runbook of {alert}")
        .url(f"${{runbooks}}#{alert.lower()}")
        .type(models.DashboardLinkType.LINK)
        .target_blank(True)
    )


def _thresholds(panel: Panel) -> dashboard.ThresholdsConfig:
    first = panel.first_color or ("green" if panel.steps else "blue")
    steps = [models.Threshold(value=None, color=first)]
    steps += [models.Threshold(value=value, color=color) for value, color in panel.steps]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def _mapping(values: Mapping[float, tuple[str, str]]) -> models.ValueMap:
    return models.ValueMap(
        options={
            f"{value:g}": models.ValueMappingResult(text=text, color=color, index=index)
            for index, (value, (text, color)) in enumerate(values.items())
        }
    )


def _lines(panel: Panel) -> timeseries.Panel:
    named = len(panel.queries) > 1 or "{{" in panel.queries[0].legend
    legend = (
        common.VizLegendOptions()
        .show_legend(named)
        .display_mode(common_models.LegendDisplayMode.LIST)
        .placement(common_models.LegendPlacement.BOTTOM)
        .calcs([])
    )
    built = (
        timeseries.Panel()
        .line_width(2)
        .fill_opacity(40 if panel.stacked else 8)
        .show_points(common_models.VisibilityMode.AUTO)
        .legend(legend)
        .tooltip(
            common.VizTooltipOptions()
            .mode(common_models.TooltipDisplayMode.MULTI)
            .sort(common_models.SortOrder.DESCENDING)
        )
    )
    if panel.stacked:
        built = built.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL).group("A"))
    if panel.logarithmic:
        scale = common.ScaleDistributionConfig().type(common_models.ScaleDistribution.LOG).log(10)
        built = built.scale_distribution(scale)
    if panel.steps:
        built = built.color_scheme(
            dashboard.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC)
        ).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(common_models.GraphThresholdsStyleMode.DASHED)
        )
    return built


def _stat(panel: Panel) -> stat.Panel:
    mode = common_models.BigValueTextMode.NAME if panel.names else common_models.BigValueTextMode.AUTO
    return (
        stat.Panel()
        .reduce_options(_LAST)
        .text_mode(mode)
        .color_mode(common_models.BigValueColorMode.VALUE)
        .graph_mode(common_models.BigValueGraphMode.NONE)
    )


def _bars() -> bargauge.Panel:
    return (
        bargauge.Panel()
        .reduce_options(_LAST)
        .orientation(common_models.VizOrientation.HORIZONTAL)
        .sizing(common_models.BarGaugeSizing.MANUAL)
        .name_placement(common_models.BarGaugeNamePlacement.TOP)
        .min_viz_height(16)
        .max_viz_height(44)
        .text(common.VizTextDisplayOptions().title_size(13).value_size(18))
        .display_mode(common_models.BarGaugeDisplayMode.BASIC)
        .show_unfilled(True)
        .min(0)
    )


def _table(panel: Panel) -> table.Panel:
    several = len(panel.queries) > 1
    titles = {f"Value #{chr(ord('A') + n)}" if several else "Value": q for n, q in enumerate(panel.queries)}
    order = (*panel.columns, *titles)
    built = (
        table.Panel()
        .min_width(80)
        .cell_height(common_models.TableCellHeight.SM)
        .with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            models.DataTransformerConfig(
                id_val="organize",
                options={
                    # A column without a title shows only that the row exists.
                    "excludeByName": {
                        "Time": True,
                        **{column: True for column, query in titles.items() if not query.legend},
                    },
                    "indexByName": {name: index for index, name in enumerate(order)},
                    "renameByName": {
                        column: query.legend for column, query in titles.items() if query.legend
                    },
                },
            )
        )
    )
    for column, link in panel.links.items():
        built = built.override_by_name(column, [_property("links", [{"title": link.title, "url": link.url}])])
    for query in panel.queries:
        properties = []
        if query.unit is not None:
            properties.append(_property("unit", query.unit))
        if query.decimals is not None:
            properties.append(_property("decimals", query.decimals))
        if query.values:
            properties.append(_property("mappings", [_mapping(query.values)]))
            properties.append(_property("custom.cellOptions", {"type": "color-text"}))
        if properties:
            built = built.override_by_name(query.legend, properties)
    return built


def _states() -> statetimeline.Panel:
    return (
        statetimeline.Panel()
        .merge_values(True)
        .row_height(0.8)
        .show_value(common_models.VisibilityMode.AUTO)
        .color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
        .legend(common.VizLegendOptions().show_legend(False))
    )


def _property(name: str, value: object) -> models.DynamicConfigValue:
    return models.DynamicConfigValue(id_val=name, value=value)


def _complete(data: dict[str, Any], board: Dashboard) -> dict[str, Any]:
    """The JSON of a dashboard with the fields for which the library has no function."""
    for variable in data["templating"]["list"]:
        for key in ("auto", "auto_count", "auto_min"):  # Grafana knows these fields on intervals only.
            variable.pop(key, None)
        if variable["type"] == "constant":
            variable["hide"] = 2
    for annotation, marks in zip(data["annotations"].get("list", ()), board.annotations, strict=True):
        annotation |= {"titleFormat": marks.text, "step": "60s"}
    return data
