"""PURE: computes the geometry of charts in percent of the chart size, so that text keeps its size.

`templates/charts.html.j2` renders the values as inline SVG.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from finetune_trainer.contract import Interval
from finetune_trainer.report.numbers import format_short

_TICKS = 4


@dataclass(frozen=True)
class Axis:
    """A linear scale that ends at round numbers."""

    low: float
    high: float
    ticks: tuple[float, ...]

    @classmethod
    def around(cls, values: Sequence[float], *, most: int = _TICKS) -> "Axis":
        """Returns the smallest scale that contains all values, with ticks at 1, 2 or 5 times a power of ten.

        Args:
            values: the values, at least one.
            most: approximate number of intervals.
        """
        low, high = min(values), max(values)
        if high - low <= 1e-9 * max(abs(low), abs(high)):
            low, high = (low - abs(low) / 2 - 0.5 * (low == 0), high + abs(high) / 2 + 0.5 * (low == 0))
        rough = (high - low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        ticks = tuple(float(f"{number * step:.12g}") for number in range(first, last + 1))
        return cls(ticks[0], ticks[-1], ticks)

    def share(self, value: float) -> float:
        """Returns the position of a value on the scale, from 0 to 1."""
        return (value - self.low) / (self.high - self.low)

    def percent(self, value: float) -> str:
        """Returns the position of a value from the left in percent."""
        return _percent(self.share(value))

    def from_top(self, value: float) -> str:
        """Returns the position of a value on a vertical scale from the top in percent."""
        return _percent(1 - self.share(value))


@dataclass(frozen=True)
class Tick:
    """A number on an axis."""

    text: str
    at: str
    anchor: str = "middle"
    """`text-anchor` of SVG."""


@dataclass(frozen=True)
class Dot:
    """A point of a curve with a text."""

    x: str
    y: str
    text: str


@dataclass(frozen=True)
class Bar:
    """A bin of a histogram."""

    x: str
    y: str
    width: str
    height: str
    beyond: bool
    """Whether the rows of the bin are longer than the limit."""
    text: str


@dataclass(frozen=True)
class Plot:
    """A chart with a vertical axis: a curve or a histogram."""

    title: str
    described: str
    """Alternative text of the chart."""
    levels: tuple[Tick, ...]
    """Ticks of the vertical axis, with horizontal grid lines."""
    below: tuple[Tick, ...]
    """Ticks of the horizontal axis."""
    marked: str | None
    """Position of a dashed vertical line."""
    path: str = ""
    """`points` of an SVG polyline in a box of 1000 by 1000."""
    dots: tuple[Dot, ...] = ()
    bars: tuple[Bar, ...] = ()


@dataclass(frozen=True)
class Mark:
    """A value with its interval."""

    kind: str
    """CSS class of the mark."""
    name: str
    of: Interval


@dataclass(frozen=True)
class Whisker:
    """The geometry of a mark."""

    kind: str
    text: str
    low: str
    value: str
    high: str
    y: str


@dataclass(frozen=True)
class Row:
    """Marks below each other on an axis that several rows share."""

    described: str
    lines: int
    """Height of the row in marks."""
    zero: str | None
    """Position of zero, if the axis has a tick at zero."""
    grid: tuple[str, ...]
    """Positions of the other ticks."""
    whiskers: tuple[Whisker, ...]


def plot_curve(
    title: str,
    points: Sequence[tuple[float, float]],
    *,
    described: str,
    dots: bool = False,
    marked: float | None = None,
    from_zero: bool = False,
) -> Plot:
    """Plots a curve over steps.

    Args:
        title: title of the chart.
        points: (step, value) in the order of steps, at least one.
        described: alternative text.
        dots: whether to draw a dot at each point.
        marked: step of a vertical line.
        from_zero: whether the vertical axis includes 0.
    """
    steps = Axis(0, max(points[-1][0], 1), _whole_ticks(points[-1][0]))
    values = Axis.around([value for _, value in points] + ([0.0] if from_zero else []))
    return Plot(
        title,
        described,
        levels=_level_ticks(values),
        below=tuple(_step_tick(steps, at) for at in steps.ticks),
        marked=None if marked is None else steps.percent(marked),
        path=" ".join(f"{1000 * steps.share(x):.1f},{1000 * (1 - values.share(y)):.1f}" for x, y in points),
        dots=tuple(
            Dot(steps.percent(x), values.from_top(y), f"step {format_short(x)}: {format_short(y)}")
            for x, y in points
            if dots or len(points) == 1
        ),
    )


def plot_histogram(title: str, counts: Sequence[tuple[int, int]], limit: int, *, described: str) -> Plot:
    """Plots the number of rows by length.

    Args:
        title: title of the chart.
        counts: (smallest length of the bin, rows of the bin) in ascending order.
        limit: length to which rows are truncated.
        described: alternative text.
    """
    values = Axis.around([0.0, *(float(rows) for _, rows in counts)])
    width = 1 / len(counts)
    return Plot(
        title,
        described,
        levels=_level_ticks(values),
        below=tuple(Tick(str(edge), _percent(number * width)) for number, (edge, _) in enumerate(counts)),
        marked=_limit_position(counts, limit),
        bars=tuple(
            Bar(
                x=_percent(number * width + width * 0.06),
                y=values.from_top(rows),
                width=_percent(width * 0.88),
                height=values.percent(rows),
                beyond=edge >= limit,
                text=f"from {edge} tokens: {rows:,} rows",
            )
            for number, (edge, rows) in enumerate(counts)
        ),
    )


def plot_intervals(axis: Axis, marks: Sequence[Mark], *, described: str, lines: int) -> Row:
    """Plots values with intervals below each other.

    Args:
        axis: the scale, which several rows share.
        marks: values with intervals, from top to bottom.
        described: alternative text.
        lines: height of the row in marks.
    """
    return Row(
        described,
        lines,
        zero=axis.percent(0) if 0 in axis.ticks else None,
        grid=tuple(axis.percent(at) for at in axis.ticks if at),
        whiskers=tuple(
            Whisker(
                mark.kind,
                f"{mark.name}: {format_short(mark.of.value)}"
                f" ({format_short(mark.of.low)} to {format_short(mark.of.high)})",
                low=axis.percent(mark.of.low),
                value=axis.percent(mark.of.value),
                high=axis.percent(mark.of.high),
                y=_percent((number + 0.5) / len(marks)),
            )
            for number, mark in enumerate(marks)
        ),
    )


def build_tick_labels(axis: Axis) -> tuple[Tick, ...]:
    """Returns the tick labels of an axis."""
    return tuple(Tick(format_short(at), axis.percent(at)) for at in axis.ticks)


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def _level_ticks(values: Axis) -> tuple[Tick, ...]:
    return tuple(Tick(format_short(at), values.from_top(at)) for at in values.ticks)


def _step_tick(steps: Axis, at: float) -> Tick:
    if at == steps.ticks[-1]:
        return Tick(f"step {format_short(at)}", steps.percent(at), "end")
    return Tick(format_short(at), steps.percent(at))


def _limit_position(counts: Sequence[tuple[int, int]], limit: int) -> str | None:
    """Returns the position of a length, interpolated within the bin; None beyond the last bin."""
    for number, ((edge, _), (end, _)) in enumerate(pairwise(counts)):
        if edge <= limit < end:
            return _percent((number + (limit - edge) / (end - edge)) / len(counts))
    return None


def _whole_ticks(last: float) -> tuple[float, ...]:
    inner = Axis.around([0.0, max(last, 1)]).ticks
    # The last step always has a tick. Ticks close to the last step are omitted.
    return (*(at for at in inner if at < 0.75 * last), last)
