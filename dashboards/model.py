"""PURE. What a dashboard consists of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """How a panel draws its data."""

    LINES = "timeseries"
    """Values over the time range, as lines or stacked areas."""
    STAT = "stat"
    """The value at the end of the time range, as a large number."""
    BARS = "bargauge"
    """The values at the end of the time range, as horizontal bars."""
    TABLE = "table"
    """The values at the end of the time range, one row for each combination of labels."""
    STATES = "state-timeline"
    """Values over the time range, as coloured bands."""

    @property
    def instant(self) -> bool:
        """Whether the queries of the panel are evaluated only at the end of the time range."""
        return self in {Kind.STAT, Kind.BARS, Kind.TABLE}


@dataclass(frozen=True)
class Query:
    """A query of Prometheus."""

    expr: str
    legend: str = ""
    """Name of the series, with labels as {{label}}; in a table, the title of the column."""
    unit: str | None = None
    """Unit of the values, if not the unit of the panel. Only in tables."""
    decimals: int | None = None
    """Decimals of the values, if not the decimals of the panel. Only in tables."""
    values: Mapping[float, tuple[str, str]] = field(default_factory=dict)
    """Text and colour that replace a value. Only in tables."""


@dataclass(frozen=True)
class Link:
    """A link from the values of a panel."""

    title: str
    url: str


@dataclass(frozen=True)
class Panel:
    """One panel."""

    id: int
    """Unique in the dashboard. Links of alerts contain the id, so the id of a panel never changes."""
    title: str
    """A question."""
    means: str
    """Meaning of the values, for the description of the panel."""
    remedy: str
    """What to do when the values look bad, for the description of the panel."""
    kind: Kind
    queries: tuple[Query, ...]
    unit: str = "short"
    width: int = 8
    """Width in columns; a dashboard has 24 columns."""
    height: int = 8
    minimum: float | None = None
    maximum: float | None = None
    decimals: int | None = None
    steps: tuple[tuple[float, str], ...] = ()
    """Colours from a value upwards. Values below the first step are green, or blue if there are no steps."""
    first_color: str | None = None
    """Colour of values below the first step, if not green or blue."""
    values: Mapping[float, tuple[str, str]] = field(default_factory=dict)
    """Text and colour that replace a value. Not in tables."""
    colors: Mapping[str, str] = field(default_factory=dict)
    """Colours of series, by their name."""
    columns: tuple[str, ...] = ()
    """Labels that a table shows as columns, in this order, before the values."""
    empty: str = ""
    """Text in place of the values when a query returns none."""
    names: bool = False
    """Whether a stat shows the names of the series in place of their values."""
    stacked: bool = False
    logarithmic: bool = False
    alerts: tuple[str, ...] = ()
    """Alerts that link to this panel; the panel links to their runbooks."""
    links: Mapping[str, Link] = field(default_factory=dict)
    """Links from the values of a column of a table, by the name of the column."""


@dataclass(frozen=True)
class Row:
    """A row of panels."""

    id: int
    title: str
    panels: tuple[Panel, ...]
    needs: str = ""
    """Software that the queries of the row need beside the product. Such a row is collapsed."""


@dataclass(frozen=True)
class Variable:
    """A variable whose values come from Prometheus."""

    name: str
    label: str
    query: str
    several: bool = False
    """Whether several values, or all, can be selected; then queries match the variable with =~."""


@dataclass(frozen=True)
class Annotation:
    """Marks at points in time, in all panels with a time axis."""

    name: str
    expr: str
    text: str
    color: str


@dataclass(frozen=True)
class Dashboard:
    """A dashboard."""

    uid: str
    title: str
    about: str
    rows: tuple[Row, ...]
    since: str = "now-6h"
    """Start of the time range at first."""
    variables: tuple[Variable, ...] = ()
    annotations: tuple[Annotation, ...] = ()

    @property
    def panels(self) -> tuple[Panel, ...]:
        """The panels of all rows."""
        return tuple(panel for row in self.rows for panel in row.panels)
