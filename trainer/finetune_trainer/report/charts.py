"""Charts as inline SVG, drawn in percent of their box: letters keep their size on any screen. Pure."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from finetune_trainer.contract import Interval
from finetune_trainer.report.markup import Html, tag
from finetune_trainer.report.numbers import short

_TICKS = 4


@dataclass(frozen=True)
class Axis:
    """A linear scale that ends at round numbers."""

    low: float
    high: float
    ticks: tuple[float, ...]

    @classmethod
    def around(cls, values: Sequence[float], *, most: int = _TICKS) -> "Axis":
        """The smallest scale that holds all values; about `most` steps of 1, 2 or 5 times a power of ten."""
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
        """Where a value lies, from 0 to 1."""
        return (value - self.low) / (self.high - self.low)

    def percent(self, value: float) -> str:
        """Where it lies, for SVG."""
        return f"{100 * self.share(value):.2f}%"


@dataclass(frozen=True)
class Mark:
    """A value with its interval, one of several in a row."""

    kind: str
    """Class of the mark: colour and meaning."""
    name: str
    of: Interval


def line(
    title: str,
    points: Sequence[tuple[float, float]],
    *,
    described: str,
    dots: bool = False,
    marked: float | None = None,
    from_zero: bool = False,
) -> Html:
    """A curve over steps.

    Args:
        title: what is drawn.
        points: (step, value), at least one, by step.
        described: the curve in a sentence, for those who do not see it.
        dots: whether each point is a measurement of its own.
        marked: a step to point at.
        from_zero: whether the axis has to begin at 0.
    """
    steps = Axis(0, max(points[-1][0], 1), _whole_ticks(points[-1][0]))
    values = Axis.around([value for _, value in points] + ([0.0] if from_zero else []))
    path = " ".join(f"{1000 * steps.share(x):.1f},{1000 * (1 - values.share(y)):.1f}" for x, y in points)
    drawn = tag(
        "svg",
        tag("polyline", points=path, vector_effect="non-scaling-stroke"),
        viewBox="0 0 1000 1000",
        preserveAspectRatio="none",
        width="100%",
        height="100%",
    )
    return _figure(
        title,
        described,
        *_horizontal(values),
        *_step_labels(steps),
        *_pointed(steps, marked),
        drawn,
        *(_dot(steps, values, x, y) for x, y in points if dots or len(points) == 1),
    )


def histogram(title: str, counts: Sequence[tuple[int, int]], limit: int, *, described: str) -> Html:
    """Rows by length.

    Args:
        title: what is drawn.
        counts: (smallest length of the bin, rows in it), in order; a bin ends where the next begins.
        limit: longer rows are cut.
        described: the chart in a sentence.
    """
    values = Axis.around([0.0, *(float(rows) for _, rows in counts)])
    width = 100 / len(counts)
    bars = [
        tag(
            "rect",
            tag("title", f"from {edge} tokens: {rows:,} rows"),
            x=f"{number * width + width * 0.06:.2f}%",
            y=f"{100 * (1 - values.share(rows)):.2f}%",
            width=f"{width * 0.88:.2f}%",
            height=f"{100 * values.share(rows):.2f}%",
            class_="cut" if edge >= limit else None,
        )
        for number, (edge, rows) in enumerate(counts)
    ]
    edges = [
        tag(
            "text",
            str(edge),
            x=f"{number * width:.2f}%",
            y="100%",
            dy="1.4em",
            class_="tick",
            text_anchor="middle",
        )
        for number, (edge, _) in enumerate(counts)
    ]
    return _figure(title, described, *_horizontal(values), *bars, *edges, *_limit(counts, limit))


def intervals(axis: Axis, marks: Sequence[Mark], *, described: str, lines: int) -> Html:
    """Values with their intervals, one below the other, on an axis that other rows share.

    Args:
        axis: the scale.
        marks: what to draw, from above.
        described: the same in a sentence.
        lines: height of the row; as many marks fit into it.
    """
    height = 100 / len(marks)
    grid = [
        tag(
            "line",
            x1=axis.percent(at),
            x2=axis.percent(at),
            y1="0",
            y2="100%",
            class_="grid" if at else "zero",
        )
        for at in axis.ticks
    ]
    drawn = [_whisker(axis, mark, height * (number + 0.5)) for number, mark in enumerate(marks)]
    return tag("svg", *grid, *drawn, class_="row", role="img", aria_label=described, style=f"--marks:{lines}")


def tick_labels(axis: Axis) -> Html:
    """The numbers below rows that share an axis."""
    labels = (
        tag("text", short(at), x=axis.percent(at), y="1em", class_="tick", text_anchor="middle")
        for at in axis.ticks
    )
    return tag("svg", *labels, class_="axis", aria_hidden="true")


def _whisker(axis: Axis, mark: Mark, middle: float) -> Html:
    at = f"{middle:.2f}%"
    return tag(
        "g",
        tag("title", f"{mark.name}: {short(mark.of.value)} ({short(mark.of.low)} to {short(mark.of.high)})"),
        tag("line", x1=axis.percent(mark.of.low), x2=axis.percent(mark.of.high), y1=at, y2=at),
        tag("circle", cx=axis.percent(mark.of.value), cy=at, r="5"),
        class_=f"mark {mark.kind}",
    )


def _figure(title: str, described: str, *content: Html) -> Html:
    return tag(
        "figure",
        tag("figcaption", title),
        tag("svg", *content, class_="plot", role="img", aria_label=described),
    )


def _horizontal(values: Axis) -> Iterator[Html]:
    for at in values.ticks:
        y = f"{100 * (1 - values.share(at)):.2f}%"
        yield tag("line", x1="0", x2="100%", y1=y, y2=y, class_="grid")
        yield tag("text", short(at), x="-8", y=y, dy="0.32em", class_="tick", text_anchor="end")


def _step_labels(steps: Axis) -> Iterator[Html]:
    for at in steps.ticks:
        yield tag(
            "text",
            f"step {short(at)}" if at == steps.ticks[-1] else short(at),
            x=steps.percent(at),
            y="100%",
            dy="1.4em",
            class_="tick",
            text_anchor="end" if at == steps.ticks[-1] else "middle",
        )


def _pointed(steps: Axis, marked: float | None) -> Iterator[Html]:
    if marked is not None:
        x = steps.percent(marked)
        yield tag("line", x1=x, x2=x, y1="0", y2="100%", class_="marked")


def _limit(counts: Sequence[tuple[int, int]], limit: int) -> Iterator[Html]:
    """A line at a length, as far into its bin as it is between the bin's ends."""
    for number, ((edge, _), (end, _)) in enumerate(pairwise(counts)):
        if edge <= limit < end:
            x = f"{100 * (number + (limit - edge) / (end - edge)) / len(counts):.2f}%"
            yield tag("line", x1=x, x2=x, y1="0", y2="100%", class_="marked")


def _dot(steps: Axis, values: Axis, x: float, y: float) -> Html:
    return tag(
        "circle",
        tag("title", f"step {short(x)}: {short(y)}"),
        cx=steps.percent(x),
        cy=f"{100 * (1 - values.share(y)):.2f}%",
        r="4",
    )


def _whole_ticks(last: float) -> tuple[float, ...]:
    inner = Axis.around([0.0, max(last, 1)]).ticks
    # The last step is named even where it is no round number, unless a round one stands too close to it.
    return (*(at for at in inner if at < 0.75 * last), last)
