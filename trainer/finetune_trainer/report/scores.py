"""The section `Results`: every metric of every model with intervals, as a drawing and as a table. Pure."""

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
from finetune_trainer.report.charts import Axis, Mark, Row, Tick, intervals, tick_labels
from finetune_trainer.report.rendering import TEMPLATES, Section


@dataclass(frozen=True)
class ScoredModel:
    """A model with the metrics of the model on the test rows."""

    kind: str
    """CSS class of the marks of the model."""
    name: str
    scores: Scores


@dataclass(frozen=True)
class Forest:
    """Intervals of several metrics on one axis."""

    title: str
    rows: list[tuple[str, Row]]
    """Title of the metric, and the drawing."""
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
    """The metrics of all models.

    Args:
        evaluation: all models on the same test rows.
        explained: how to read the figures of the task; names stand in backticks.
    """
    models = scored_models(evaluation)
    values = {
        "models": models,
        "forests": [forest for names in _alike(evaluation) for forest in _forests(names, evaluation, models)],
        "metrics": metric_rows(evaluation),
        "baseline": baseline_name(evaluation),
        "compared": evaluation.delta is not None,
        "rows": evaluation.rows,
        "primary": TITLES[evaluation.primary_metric],
        "explained": explained,
    }
    return Section("results", "Results", f"{TEMPLATES}/sections.html.j2", values)


def scored_models(evaluation: Evaluation) -> list[ScoredModel]:
    """The models that were measured, the weakest first."""
    known = (
        ("majority", "majority class", evaluation.majority),
        ("baseline", baseline_name(evaluation), evaluation.baseline),
        ("tuned", "this model", evaluation.tuned),
    )
    return [ScoredModel(kind, name, scores) for kind, name, scores in known if scores is not None]


def metric_rows(evaluation: Evaluation) -> list[MetricRow]:
    """All metrics, with a value for each model of `scored_models`."""
    gains = evaluation.delta.metrics if evaluation.delta else {}
    return [
        MetricRow(
            TITLES[name],
            not HIGHER_IS_BETTER[name],
            [model.scores.metrics.get(name) for model in scored_models(evaluation)],
            gains.get(name),
        )
        for name in evaluation.baseline.metrics
    ]


def _alike(evaluation: Evaluation) -> Iterator[list[MetricName]]:
    """Metrics that share an axis: metrics of which more is better all end at 1; every other stands alone."""
    names = list(evaluation.baseline.metrics)
    if together := [name for name in names if HIGHER_IS_BETTER[name]]:
        yield together
    yield from ([name] for name in names if not HIGHER_IS_BETTER[name])


def _forests(
    names: Sequence[MetricName], evaluation: Evaluation, models: Sequence[ScoredModel]
) -> Iterator[Forest]:
    """Scores and, side by side with the scores, differences, of metrics that share an axis."""
    lines, bounded = len(models), HIGHER_IS_BETTER[names[0]]
    scored = {
        name: [Mark(model.kind, model.name, of) for model in models if (of := model.scores.metrics.get(name))]
        for name in names
    }
    axis = Axis.around([*_ends(scored), 0.0, *([1.0] if bounded else [])])
    better, side = ("more", "right") if bounded else ("less", "left")
    yield _forest(f"Scores ({better} is better)", axis, scored, lines)
    if evaluation.delta:
        gains = {
            name: [Mark(verdict.compared(gain, name), "difference", gain)]
            for name in names
            if (gain := evaluation.delta.metrics.get(name))
        }
        title = f"Difference to the {baseline_name(evaluation)} ({side} of zero is better)"
        yield _forest(title, Axis.around([*_ends(gains), 0.0]), gains, lines)


def _ends(rows: Mapping[MetricName, Sequence[Mark]]) -> list[float]:
    marks = [mark.of for row in rows.values() for mark in row]
    return [end for of in marks for end in (of.low, of.value, of.high)]


def _forest(title: str, axis: Axis, rows: Mapping[MetricName, Sequence[Mark]], lines: int) -> Forest:
    drawn = [
        (TITLES[name], intervals(axis, row, described=_told(name, row), lines=lines))
        for name, row in rows.items()
    ]
    return Forest(title, drawn, tick_labels(axis))


def _told(name: MetricName, marks: Sequence[Mark]) -> str:
    values = (
        f"{mark.name} {numbers.measured(mark.of.value)} ({numbers.interval(mark.of)})" for mark in marks
    )
    return f"{TITLES[name]}: {'; '.join(values)}"
