"""PURE: builds the section `Results` of the report page: charts and a table of metrics with intervals."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from finetune_trainer.contract import (
    HIGHER_IS_BETTER,
    TITLES,
    Evaluation,
    Interval,
    MetricName,
    Scores,
    baseline_name,
)
from finetune_trainer.report import numbers, verdict
from finetune_trainer.report.charts import Axis, Mark, Row, Tick, build_tick_labels, plot_intervals
from finetune_trainer.report.rendering import TEMPLATES, Section


@dataclass(frozen=True)
class ScoredModel:
    """The metrics of a model on the test rows."""

    kind: str
    """CSS class of the marks of the model."""
    name: str
    scores: Scores


@dataclass(frozen=True)
class Forest:
    """Intervals of several metrics on one axis."""

    title: str
    rows: list[tuple[str, Row]]
    """Title and chart row of each metric."""
    ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class MetricRow:
    """A metric in the table."""

    title: str
    less_is_better: bool
    values: list[Interval | None]
    """One value for each model."""
    gain: Interval | None
    """Difference between the tuned model and the baseline."""


def section(evaluation: Evaluation, explained: str) -> Section:
    """Builds the section with the metrics of all models.

    Args:
        evaluation: the scores of all models.
        explained: explanation of the metrics, with names in backticks.
    """
    models = list_scored_models(evaluation)
    values = {
        "models": models,
        "forests": [
            forest
            for names in _group_by_axis(evaluation)
            for forest in _build_forests(names, evaluation, models)
        ],
        "metrics": build_metric_rows(evaluation),
        "baseline": baseline_name(evaluation),
        "compared": evaluation.delta is not None,
        "rows": evaluation.rows,
        "primary": TITLES[evaluation.primary_metric],
        "explained": explained,
    }
    return Section("results", "Results", f"{TEMPLATES}/sections.html.j2", values)


def list_scored_models(evaluation: Evaluation) -> list[ScoredModel]:
    """Returns the models with scores: majority class, baseline, tuned model."""
    candidates = (
        ("majority", "majority class", evaluation.majority),
        ("baseline", baseline_name(evaluation), evaluation.baseline),
        ("tuned", "this model", evaluation.tuned),
    )
    return [ScoredModel(kind, name, scores) for kind, name, scores in candidates if scores is not None]


def build_metric_rows(evaluation: Evaluation) -> list[MetricRow]:
    """Returns the table rows of all metrics, with a value for each model of `list_scored_models`."""
    gains = evaluation.delta.metrics if evaluation.delta else {}
    return [
        MetricRow(
            TITLES[name],
            not HIGHER_IS_BETTER[name],
            [model.scores.metrics.get(name) for model in list_scored_models(evaluation)],
            gains.get(name),
        )
        for name in evaluation.baseline.metrics
    ]


def _group_by_axis(evaluation: Evaluation) -> Iterator[list[MetricName]]:
    """Yields groups of metrics that share an axis.

    Metrics for which higher is better have the maximum 1 and share an axis; other metrics have their own
    axis.
    """
    names = list(evaluation.baseline.metrics)
    if together := [name for name in names if HIGHER_IS_BETTER[name]]:
        yield together
    yield from ([name] for name in names if not HIGHER_IS_BETTER[name])


def _build_forests(
    names: Sequence[MetricName], evaluation: Evaluation, models: Sequence[ScoredModel]
) -> Iterator[Forest]:
    """Yields the charts of scores and differences for metrics that share an axis."""
    lines, bounded = len(models), HIGHER_IS_BETTER[names[0]]
    scored = {
        name: [Mark(model.kind, model.name, of) for model in models if (of := model.scores.metrics.get(name))]
        for name in names
    }
    axis = Axis.around([*_list_interval_ends(scored), 0.0, *([1.0] if bounded else [])])
    better, side = ("more", "right") if bounded else ("less", "left")
    yield _build_forest(f"Scores ({better} is better)", axis, scored, lines)
    if evaluation.delta:
        gains = {
            name: [Mark(verdict.classify_difference(gain, name), "difference", gain)]
            for name in names
            if (gain := evaluation.delta.metrics.get(name))
        }
        title = f"Difference to the {baseline_name(evaluation)} ({side} of zero is better)"
        yield _build_forest(title, Axis.around([*_list_interval_ends(gains), 0.0]), gains, lines)


def _list_interval_ends(rows: Mapping[MetricName, Sequence[Mark]]) -> list[float]:
    marks = [mark.of for row in rows.values() for mark in row]
    return [end for of in marks for end in (of.low, of.value, of.high)]


def _build_forest(title: str, axis: Axis, rows: Mapping[MetricName, Sequence[Mark]], lines: int) -> Forest:
    drawn = [
        (TITLES[name], plot_intervals(axis, row, described=_describe_marks(name, row), lines=lines))
        for name, row in rows.items()
    ]
    return Forest(title, drawn, build_tick_labels(axis))


def _describe_marks(name: MetricName, marks: Sequence[Mark]) -> str:
    values = (
        f"{mark.name} {numbers.format_metric(mark.of.value)} ({numbers.format_interval(mark.of)})"
        for mark in marks
    )
    return f"{TITLES[name]}: {'; '.join(values)}"
