"""Every metric of every model, with intervals: as a drawing and as a table. Pure."""

from collections.abc import Iterator, Mapping, Sequence

from finetune_trainer.contract import HIGHER_IS_BETTER, TITLES, Evaluation, Interval, MetricName, Scores
from finetune_trainer.report import numbers, verdict
from finetune_trainer.report.charts import Axis, Mark, intervals, tick_labels
from finetune_trainer.report.markup import Html, Section, joined, paragraph, prose, table, tag
from finetune_trainer.report.record import base_name

ScoredModel = tuple[str, str, Scores]
"""Class of its marks, name, and what it scores."""


def section(evaluation: Evaluation, explained: str) -> Section:
    """What was reached.

    Args:
        evaluation: all models on the same test rows.
        explained: the task's own words on how to read the figures.
    """
    baseline = base_name(evaluation)
    models = _models(evaluation, baseline)
    drawings = [drawn for names in _alike(evaluation) for drawn in _drawings(names, evaluation, models)]
    return Section(
        "results",
        "Results",
        (
            tag("div", _legend(models), *drawings, class_="forests"),
            _table(evaluation, models, baseline),
            paragraph(
                f"All models answered the same {numbers.plural(evaluation.rows, 'test row')}. Intervals: "
                "95 % percentile bootstrap, 1,000 resamples of the test rows; that of the difference is "
                "paired. The metric that decided which weights were kept is ",
                tag("strong", TITLES[evaluation.primary_metric]),
                " on the validation rows.",
            ),
            prose(explained),
        ),
    )


def _models(evaluation: Evaluation, baseline: str) -> list[ScoredModel]:
    known = (
        ("majority", "majority class", evaluation.majority),
        ("baseline", baseline, evaluation.baseline),
        ("tuned", "this model", evaluation.tuned),
    )
    return [(kind, name, scores) for kind, name, scores in known if scores is not None]


def _legend(models: Sequence[ScoredModel]) -> Html:
    items = (tag("li", tag("span", class_=f"swatch {kind}"), f" {name}") for kind, name, _ in models)
    return tag("ul", *items, class_="legend", aria_hidden="true")


def _drawings(
    names: Sequence[MetricName], evaluation: Evaluation, models: Sequence[ScoredModel]
) -> Iterator[Html]:
    """Scores and, side by side with them, differences, of metrics that can share an axis."""
    lines, primary, bounded = len(models), evaluation.primary_metric, HIGHER_IS_BETTER[names[0]]
    scored = {
        name: [Mark(kind, who, of) for kind, who, scores in models if (of := scores.metrics.get(name))]
        for name in names
    }
    axis = Axis.around([*_ends(scored), 0.0, *([1.0] if bounded else [])])
    better, side = ("more", "right") if bounded else ("less", "left")
    yield _forest(f"Scores ({better} is better)", axis, scored, primary, lines=lines)
    if evaluation.delta:
        gains = {
            name: [Mark(verdict.compared(gain, name), "difference", gain)]
            for name in names
            if (gain := evaluation.delta.metrics.get(name))
        }
        title = f"Difference to the {base_name(evaluation)} ({side} of zero is better)"
        yield _forest(title, Axis.around([*_ends(gains), 0.0]), gains, primary, lines=lines)


def _alike(evaluation: Evaluation) -> Iterator[list[MetricName]]:
    """Metrics that can share an axis: those of which more is better all end at 1, others stand alone."""
    names = list(evaluation.baseline.metrics)
    if together := [name for name in names if HIGHER_IS_BETTER[name]]:
        yield together
    yield from ([name] for name in names if not HIGHER_IS_BETTER[name])


def _ends(rows: Mapping[MetricName, Sequence[Mark]]) -> list[float]:
    marks = [mark.of for row in rows.values() for mark in row]
    return [end for of in marks for end in (of.low, of.value, of.high)]


def _forest(
    title: str, axis: Axis, rows: Mapping[MetricName, Sequence[Mark]], primary: MetricName, *, lines: int
) -> Html:
    drawn: list[Html] = []
    for name, marks in rows.items():
        told = "; ".join(
            f"{mark.name} {numbers.measured(mark.of.value)} ({numbers.interval(mark.of)})" for mark in marks
        )
        label = TITLES[name]
        shown = tag("strong", label) if name == primary else label
        drawn += [
            tag("div", shown, class_="name"),
            intervals(axis, marks, described=f"{label}: {told}", lines=lines),
        ]
    return tag(
        "figure",
        tag("figcaption", title),
        tag("div", *drawn, tag("div", class_="name"), tick_labels(axis), class_="forest"),
    )


def _table(evaluation: Evaluation, models: Sequence[ScoredModel], baseline: str) -> Html:
    head = ["metric", *(name for _, name, _ in models)]
    if evaluation.delta:
        head.append(f"difference to the {baseline}")
    rows = [_row(name, evaluation, models) for name in evaluation.baseline.metrics]
    return table("All metrics, with 95 % intervals", head, rows)


def _row(name: MetricName, evaluation: Evaluation, models: Sequence[ScoredModel]) -> list[Html | str]:
    label = TITLES[name]
    direction = "" if HIGHER_IS_BETTER[name] else tag("small", "less is better")
    first = joined([tag("strong", label) if name == evaluation.primary_metric else label, direction])
    cells = [_value(scores.metrics.get(name)) for _, _, scores in models]
    if evaluation.delta:
        cells.append(_value(evaluation.delta.metrics.get(name), signed=True))
    return [first, *cells]


def _value(of: Interval | None, *, signed: bool = False) -> Html:
    if of is None:
        return tag("td", "")
    return tag(
        "td", numbers.measured(of.value, signed=signed), tag("small", numbers.interval(of, signed=signed))
    )
