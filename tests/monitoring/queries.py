"""Runs the queries of dashboards against a Prometheus.

    python -m tests.monitoring.queries URL --var namespace=demo --var job=tickets --minutes 60

prints the number of series of each query, and fails if a query returns no data although its row needs nothing
beside the product.
"""

import argparse
import json
import math
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "charts/finetune-operator/files/dashboards"
POINTS = 300
"""Points in time at which a query is evaluated."""


@dataclass(frozen=True)
class Asked:
    """A query of a panel or of an annotation."""

    dashboard: str
    panel: str
    ref: str
    expr: str
    optional: bool
    """Whether the query may return no data: in a row that needs other software, and for annotations."""


@dataclass(frozen=True)
class Window:
    """A time range, in Unix seconds, and the range over which rates are computed."""

    start: float
    end: float
    rate: str = "4m"

    @property
    def length(self) -> str:
        """The length of the time range as a duration of Prometheus."""
        return f"{round(self.end - self.start)}s"


class QueryError(Exception):
    """Prometheus refused a query; the text is its message."""


def documents(folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """The JSON of the dashboards, by file name."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}


def panels(document: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], bool]]:
    """The panels of a dashboard, and whether a panel belongs to a collapsed row."""
    for panel in document["panels"]:
        if panel["type"] != "row":
            yield panel, False
        for inner in panel.get("panels") or ():
            yield inner, True


def queries(found: Mapping[str, Mapping[str, Any]]) -> list[Asked]:
    """All queries of dashboards."""
    asked = []
    for name, document in found.items():
        for panel, optional in panels(document):
            asked += [
                Asked(name, panel["title"], target["refId"], target["expr"], optional)
                for target in panel["targets"]
            ]
        asked += [
            Asked(name, f"annotation {annotation['name']}", "", annotation["expr"], optional=True)
            for annotation in document["annotations"].get("list", ())
        ]
    return asked


def filled(expr: str, variables: Mapping[str, str], window: Window) -> str:
    """A query with the values of its variables.

    Raises:
        KeyError: a variable has no value.
    """
    values = {**variables, "__range": window.length, "__rate_interval": window.rate}
    return re.sub(r"\$\{?([A-Za-z_]\w*)\}?", lambda match: values[match[1]], expr)


def ask(url: str, path: str, **parameters: str | float) -> Any:
    """The field `data` of an answer of the API of Prometheus.

    Raises:
        QueryError: Prometheus refused the request.
    """
    address = f"{url.rstrip('/')}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:  # noqa: S310 - the address of a person
            return json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        raise QueryError(json.load(error)["error"]) from None


def series(url: str, expr: str, window: Window, *, nonzero: bool = False) -> int:
    """The number of series with a finite value at one of POINTS points in time.

    Args:
        url: address of Prometheus.
        expr: the query.
        window: the time range.
        nonzero: whether zeros do not count: many queries have a zero in place of no result.

    Raises:
        QueryError: Prometheus refused the query.
    """

    def counts(text: str) -> bool:
        value = float(text)
        return math.isfinite(value) and not (nonzero and value == 0)

    step = (window.end - window.start) / POINTS
    data = ask(url, "query_range", query=expr, start=window.start, end=window.end, step=step)
    return sum(any(counts(value) for _, value in one["values"]) for one in data["result"])


def check(
    url: str, variables: Mapping[str, str], window: Window, asked: Iterable[Asked], *, nonzero: bool = False
) -> dict[Asked, int]:
    """The number of series of each query.

    Args:
        url: address of Prometheus.
        variables: values of the variables, for example {"namespace": "demo", "job": "tickets"}.
        window: the time range of the dashboards.
        asked: see `queries`.
        nonzero: see `series`.

    Raises:
        QueryError: Prometheus refused a query.
    """
    return {one: series(url, filled(one.expr, variables, window), window, nonzero=nonzero) for one in asked}


def empty(found: Mapping[Asked, int]) -> list[str]:
    """The queries that return no data although their row needs nothing beside the product."""
    return [
        f"{one.dashboard}: {one.panel} {one.ref}: {one.expr}"
        for one, number in found.items()
        if not (number or one.optional)
    ]


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description="Runs the queries of the dashboards against a Prometheus.")
    parser.add_argument("url")
    parser.add_argument("--var", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--minutes", type=float, default=60, help="length of the time range, which ends now")
    parser.add_argument("--rate", default="4m", help="range of rates: four times the scrape interval")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="folder with the JSON of the dashboards")
    arguments = parser.parse_args()
    now = time.time()
    variables = dict(variable.split("=", 1) for variable in arguments.var)
    window = Window(now - 60 * arguments.minutes, now, arguments.rate)
    found = check(arguments.url, variables, window, queries(documents(arguments.folder)))
    for one, number in found.items():
        note = " (may be empty)" if one.optional and not number else ""
        sys.stdout.write(f"{number:5}  {one.dashboard:9} {one.panel} {one.ref}{note}\n")
    missing = empty(found)
    sys.stdout.write(f"{len(found)} queries, {len(missing)} without data\n")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
