"""The dashboards without a server: metrics, labels, variables, units, positions and links."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml

from dashboards.__main__ import BOARDS, document
from dashboards.exporters import FOREIGN, Foreign
from dashboards.grafana import COLUMNS, RUNBOOKS, places, render
from dashboards.model import Dashboard, Kind, Panel, Query, Row
from tests.monitoring.queries import FOLDER, Window, documents, filled, panels

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/metrics.md"
ALERTS = ROOT / "charts/finetune-operator/files/alerts.yaml"
ALERT_PAGE = ROOT / "docs/runbooks.md"
OF_TARGETS = {"job", "instance"}
"""Labels that Prometheus adds."""
RECORDED = {"namespace", "finetunejob", "stage", "outcome", "class", "node", "use"}
"""Labels of the series of recording rules."""
WINDOW = Window(0, 3600)
COUNTING = {"rate", "increase"}
UNITS = {
    "_timestamp_seconds": {"s"},
    "_seconds": {"s"},
    "_gpu_seconds": {"s", "percentunit"},
    "_seconds_total": {"h", "percentunit"},
    "_bytes": {"bytes", "percentunit"},
    "_ratio": {"percentunit"},
    "tokens_per_second": {"tokens/s"},
    "samples_per_second": {"rows/s"},
    "_total": {"short", "ops", "reqps"},
    "_ACTIVE": {"percentunit", "short"},
    "_FB_USED": {"mbytes"},
    "_POWER_USAGE": {"watt"},
    "_TEMP": {"celsius"},
}
"""Units that fit the end of the name of a metric; the longest end counts."""


def product_metrics() -> dict[str, Foreign]:
    """The metrics of docs/metrics.md, by name."""
    found = {}
    for line in PAGE.read_text().splitlines():
        if row := re.match(r"\| `(\w+)` \| (\w+) \| ([^|]*) \|", line):
            found[row[1]] = Foreign("", row[2], tuple(re.findall(r"`(\w+)`", row[3])))
    return found


METRICS = product_metrics() | FOREIGN


def known(name: str) -> tuple[Foreign, set[str]]:
    """The metric of a series and the labels that the series can have.

    Raises:
        KeyError: there is no such metric.
    """
    metric, suffix = name, re.search(r"_(bucket|sum|count)$", name)
    if suffix and (base := METRICS.get(name.removesuffix(suffix[0]))) and base.kind == "histogram":
        metric = name.removesuffix(suffix[0])
    labels = {*METRICS[metric].labels, *OF_TARGETS}
    return METRICS[metric], labels | {"le"} if METRICS[metric].kind == "histogram" else labels


@dataclass(frozen=True)
class Selector:
    """A selector of series in a query, with the function around its range, if there is one."""

    text: str
    name: str
    matchers: tuple[str, ...]
    function: str


def selected(node: promql.VectorSelector, function: str) -> Iterator[Selector]:
    """The selector, once for each name of a metric."""
    text = re.sub(r"\s*offset.*", "", str(node))
    matchers = {matcher.name: matcher.value for matcher in node.matchers.matchers}
    names = [node.name] if node.name else matchers.pop("__name__").split("|")
    for name in names:
        yield Selector(text, name, tuple(matchers), function)


def selectors(node: Any, function: str = "") -> Iterator[Selector]:
    match node:
        case promql.VectorSelector():
            yield from selected(node, function)
        case promql.MatrixSelector():
            yield from selectors(node.vector_selector, function)
        case promql.Call():
            for argument in node.args:
                inside = node.func.name if isinstance(argument, promql.MatrixSelector) else ""
                yield from selectors(argument, inside)
        case promql.BinaryExpr():
            yield from selectors(node.lhs)
            yield from selectors(node.rhs)
        case promql.AggregateExpr() | promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            yield from selectors(node.expr)


def grouping(node: Any) -> Iterator[str]:
    """The labels by which a query groups and joins."""
    match node:
        case promql.AggregateExpr():
            yield from node.modifier.labels if node.modifier else ()
            yield from grouping(node.expr)
        case promql.BinaryExpr():
            if node.modifier:
                yield from node.modifier.matching.labels if node.modifier.matching else ()
                yield from node.modifier.group_labels or ()
            yield from grouping(node.lhs)
            yield from grouping(node.rhs)
        case promql.Call():
            for argument in node.args:
                yield from grouping(argument)
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            yield from grouping(node.expr)


def problems_of(expr: str, legend: str = "", records: tuple[str, ...] = ()) -> list[str]:
    """What is wrong with a query. `records` are the names of recording rules."""
    tree = promql.parse(expr)
    found, labels = [], set()
    all_selectors = list(selectors(tree))
    counted = {one.text for one in all_selectors if one.function in COUNTING}
    for one in all_selectors:
        if one.name in records:
            labels |= RECORDED
            continue
        try:
            metric, allowed = known(one.name)
        except KeyError:
            found.append(f"no metric {one.name}")
            continue
        labels |= allowed
        found += [f"{one.name} has no label {name}" for name in set(one.matchers) - allowed]
        cumulative = metric.kind == "counter" or one.name.endswith("_bucket")
        # promql.events takes the last value of a new counter; the same series are then under increase() too.
        new = one.function == "last_over_time" and one.text in counted
        if cumulative and one.function not in COUNTING and not new:
            found.append(f"{one.name} is a counter outside rate() and increase()")
        if not cumulative and one.function in COUNTING:
            found.append(f"{one.name} is no counter and stands in {one.function}()")
    labels |= set(re.findall(r'"(\w+)", "[^"]*", "\w*", "[^"]*"\)', expr))  # written by label_replace()
    used = {*grouping(tree), *re.findall(r"{{\s*(\w+)\s*}}", legend)}
    found += [f"no metric of the query has the label {name}" for name in sorted(used - labels)]
    return found


def units_of(panel: Panel) -> Iterator[tuple[str, str]]:
    """Pairs of a metric and the unit in which a panel shows the metric."""
    for query in panel.queries:
        unit = panel.unit if query.unit is None else query.unit
        names = {one.name for one in selectors(promql.parse(filled(query.expr, VARIABLES, WINDOW)))}
        for name in names:
            bare = re.sub(r"_bucket$", "", name)
            ends = sorted((end for end in UNITS if bare.endswith(end)), key=len)
            counts_series = query.expr.startswith(("count", "(count"))
            if ends and not counts_series:
                yield name, f"{unit} in {sorted(UNITS[ends[-1]])}" if unit not in UNITS[ends[-1]] else ""


VARIABLES = {"namespace": "a", "job": "b"}
PANELS = [(name, panel) for name, board in BOARDS.items() for panel in board.panels]
each_board = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
each_panel = pytest.mark.parametrize("panel", [p for _, p in PANELS], ids=[f"{n}: {p.id}" for n, p in PANELS])


def test_the_files_of_the_chart_are_fresh() -> None:
    assert sorted(file.stem for file in FOLDER.glob("*.json")) == sorted(BOARDS)
    for name, board in BOARDS.items():
        assert (FOLDER / f"{name}.json").read_text() == document(board), "run `make generate`"


@each_panel
def test_queries_use_metrics_and_labels_that_exist(panel: Panel) -> None:
    for query in panel.queries:
        assert problems_of(filled(query.expr, VARIABLES, WINDOW), query.legend) == []


@pytest.mark.parametrize(
    ("expr", "legend", "problem"),
    [
        ("finetune_unknown", "", "no metric finetune_unknown"),
        ('finetune_job_gpus{node="n"}', "", "finetune_job_gpus has no label node"),
        ("finetune_attempts_total", "", "is a counter outside rate() and increase()"),
        ("last_over_time(finetune_attempts_total[1h])", "", "is a counter outside rate() and increase()"),
        ("rate(finetune_job_gpus[5m])", "", "finetune_job_gpus is no counter and stands in rate()"),
        ("sum by (node) (finetune_job_gpus)", "", "no metric of the query has the label node"),
        ("finetune_job_gpus", "{{node}}", "no metric of the query has the label node"),
        ("finetune_recovery_seconds_bucket", "", "is a counter outside rate() and increase()"),
    ],
)
def test_a_wrong_query_is_found(expr: str, legend: str, problem: str) -> None:
    (found,) = problems_of(expr, legend)
    assert found.endswith(problem)


def test_rules_use_metrics_and_labels_that_exist() -> None:
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    records = tuple(rule["record"] for rule in rules if "record" in rule)
    for rule in rules:
        expr = re.sub(r"#.*", "", rule["expr"])
        assert problems_of(expr, records=records) == [], rule.get("record") or rule["alert"]


@each_panel
def test_units_fit_the_metrics(panel: Panel) -> None:
    assert [wrong for wrong in units_of(panel) if wrong[1]] == []


def test_a_wrong_unit_is_found() -> None:
    panel = Panel(1, "?", "", "", Kind.STAT, (Query("finetune_trainer_peak_memory_bytes"),), unit="s")
    assert list(units_of(panel)) == [("finetune_trainer_peak_memory_bytes", "s in ['bytes', 'percentunit']")]


@each_panel
def test_a_panel_is_a_question_with_an_explanation(panel: Panel) -> None:
    assert panel.title.endswith("?")
    assert panel.means.endswith(".")
    assert panel.remedy.endswith(".")
    grouped = re.match(r"\(*(sum|max|min|avg) by \(\w", panel.queries[0].expr)
    many = panel.kind in {Kind.LINES, Kind.BARS} and grouped
    assert not many or "{{" in panel.queries[0].legend, "several series need names"
    unbounded = {"none", "sci", "celsius"}
    assert panel.kind is not Kind.LINES or panel.minimum is not None or panel.unit in unbounded
    share = panel.unit == "percentunit" and panel.kind is Kind.LINES
    assert not share or panel.maximum == 1 or "process_cpu" in panel.queries[0].expr


@each_board
def test_ids_are_unique_and_variables_are_defined(board: Dashboard) -> None:
    ids = [row.id for row in board.rows] + [panel.id for panel in board.panels]
    assert sorted(ids) == sorted(set(ids))
    rendered = json.dumps(render(board))
    names = {"datasource", "runbooks"} | {variable.name for variable in board.variables}
    used = set(re.findall(r"\$\{?([a-zA-Z]\w*)", rendered)) - {"__data", "__url_time_range"}
    assert used - names == {name for name in used if name.startswith("__")}
    assert used - names <= {"__range", "__rate_interval", "__all"}


@each_board
def test_titles_are_unique(board: Dashboard) -> None:
    titles = [panel.title for panel in board.panels]
    assert sorted(titles) == sorted(set(titles))


def overlaps(board: dict[str, Any]) -> list[str]:
    """The panels that lie on top of each other or beyond the right edge."""
    groups = [board["panels"], *(panel.get("panels") or [] for panel in board["panels"])]
    found = []
    for group in groups:
        taken: dict[tuple[int, int], str] = {}
        for panel in group:
            at = panel["gridPos"]
            cells = [
                (x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
            ]
            found += sorted({f"{panel['title']} on {taken[cell]}" for cell in cells if cell in taken})
            if at["x"] + at["w"] > COLUMNS:
                found.append(f"{panel['title']} is too wide")
            taken |= dict.fromkeys(cells, panel["title"])
    return found


@pytest.mark.parametrize("board", documents().values(), ids=documents())
def test_panels_do_not_overlap(board: dict[str, Any]) -> None:
    assert overlaps(board) == []


def test_an_overlap_is_found() -> None:
    board = documents()["job"]
    first, second = [panel for panel, _ in panels(board)][:2]
    second["gridPos"] = first["gridPos"]
    assert overlaps(board) == [f"{second['title']} on {first['title']}"]


@each_board
def test_a_row_that_needs_other_software_is_collapsed_and_says_so(board: Dashboard) -> None:
    rendered = {panel["id"]: panel for panel in render(board)["panels"]}
    for row in board.rows:
        sources = {
            known(one.name)[0].source
            for panel in row.panels
            for query in panel.queries
            for one in selectors(promql.parse(filled(query.expr, VARIABLES, WINDOW)))
        } - {""}
        assert bool(sources) == bool(row.needs), row.title
        assert all(source in row.needs for source in sources), row.title
        assert rendered[row.id]["collapsed"] == bool(row.needs)
        assert row.needs in rendered[row.id]["title"]


def test_the_layout_fills_lines_from_left_to_right() -> None:
    def panel(number: int, width: int, height: int) -> Panel:
        return Panel(number, "?", "", "", Kind.STAT, (), width=width, height=height)

    found = [(p.id, at.x, at.y) for p, at in places([panel(1, 16, 4), panel(2, 8, 6), panel(3, 8, 4)], 10)]
    assert found == [(1, 0, 10), (2, 16, 10), (3, 0, 16)]
    with pytest.raises(ValueError, match="25 columns wide"):
        list(places([panel(1, 25, 4)], 0))


def test_an_entry_is_enough_for_a_new_panel() -> None:
    board = BOARDS["job"]
    more = Panel(999, "New?", "Means.", "Do.", Kind.LINES, (Query("finetune_trainer_epoch"),), minimum=0)
    row = replace(board.rows[0], panels=(*board.rows[0].panels, more))
    rendered = render(replace(board, rows=(row, *board.rows[1:])))
    assert "New?" in [panel["title"] for panel in rendered["panels"]]
    assert overlaps(rendered) == []


def alert_panels() -> dict[str, str]:
    """The path of the panel of each alert."""
    return {
        alert: f"/d/{board.uid}?viewPanel={panel.id}"
        for board in BOARDS.values()
        for panel in board.panels
        for alert in panel.alerts
    }


def test_every_alert_links_to_its_panel_and_every_panel_to_its_runbook() -> None:
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    alerts = {rule["alert"]: rule["annotations"]["dashboard_url"] for rule in rules if "alert" in rule}
    linked = alert_panels()
    assert alerts.keys() == linked.keys()
    for alert, url in alerts.items():
        assert url.startswith("GRAFANA")
        path, *variables = url.removeprefix("GRAFANA").split("&")
        assert path == linked[alert]
        of_job = ["var-namespace={{ $labels.namespace }}", "var-job={{ $labels.finetunejob }}"]
        assert variables == (of_job if path.startswith("/d/finetune-job") else [])
    sections = set(re.findall(r"^## (\w+)$", ALERT_PAGE.read_text(), flags=re.MULTILINE))
    assert linked.keys() <= sections
    for board in documents().values():
        for panel, _ in panels(board):
            for link in panel.get("links") or ():
                assert re.fullmatch(r"\$\{runbooks\}#\w+", link["url"])


@each_board
def test_the_address_of_the_runbooks_is_in_one_place(board: Dashboard) -> None:
    """The chart replaces the address."""
    rendered = render(board)
    (variable,) = (v for v in rendered["templating"]["list"] if v["name"] == "runbooks")
    assert variable["query"] == RUNBOOKS
    assert variable["hide"] == 2
    text = json.dumps({key: value for key, value in rendered.items() if key != "templating"})
    assert "${runbooks}" in text


@each_board
def test_dashboards_link_to_each_other_with_time_and_variables(board: Dashboard) -> None:
    first, runbooks = render(board)["links"]
    assert first["type"] == "dashboards"
    assert first["tags"] == render(board)["tags"]
    assert first["includeVars"]
    assert first["keepTime"]
    assert runbooks["url"] == "${runbooks}"


def test_a_row_of_a_fleet_table_opens_the_job() -> None:
    tables = [panel for panel in BOARDS["fleet"].panels if panel.links]
    assert tables
    for panel in tables:
        assert {"namespace", "finetunejob"} <= set(panel.columns)
        link = panel.links["finetunejob"]
        assert link.url.startswith(f"/d/{BOARDS['job'].uid}?")
        names = set(re.findall(r"var-(\w+)=", link.url))
        assert names == {variable.name for variable in BOARDS["job"].variables}


def test_the_rows_are_rendered_in_order() -> None:
    board = BOARDS["capacity"]
    row = Row(1, "R", board.rows[0].panels[:1])
    rendered = render(replace(board, rows=(row, replace(row, id=2, needs="x"))))
    assert [(panel["id"], panel["gridPos"]["y"]) for panel in rendered["panels"]] == [
        (1, 0),
        (101, 1),
        (2, 9),
    ]


def test_the_page_lists_the_panel_and_the_runbook_of_each_alert() -> None:
    text = (ROOT / "docs/monitoring.md").read_text()
    rows = {
        f"| `{alert}` | {name} | {panel.title} | [{alert}](runbooks.md#{alert.lower()}) |"
        for name, board in BOARDS.items()
        for panel in board.panels
        for alert in panel.alerts
    }
    listed = text.partition("<!-- alerts")[2].partition("<!-- end of alerts")[0].splitlines()[3:]
    assert sorted(line for line in listed if line) == sorted(rows)
    for source in {metric.source for metric in FOREIGN.values()} - {""}:
        assert source.split()[0].removeprefix("the") in text
    for name in BOARDS:
        assert (ROOT / f"docs/images/dashboard-{name}.png").stat().st_size < 300_000
