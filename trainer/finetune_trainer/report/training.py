"""PURE. The section `Training`: curves over steps, and the evaluations of the validation rows."""

from collections.abc import Iterator, Sequence

from finetune_trainer.contract import TITLES
from finetune_trainer.report import charts, numbers
from finetune_trainer.report.record import TrainingRecord
from finetune_trainer.report.rendering import TEMPLATES, Section


def section(record: TrainingRecord) -> Section:
    """Curves over steps, and the evaluations of the validation rows."""
    metric = TITLES[record.evaluation.primary_metric]
    values = {
        "plots": list(_build_plots(record, metric)),
        "evaluations": record.history,
        "best": record.best,
        "metric": metric,
    }
    return Section("training", "Training", f"{TEMPLATES}/sections.html.j2", values)


def _build_plots(record: TrainingRecord, metric: str) -> Iterator[charts.Plot]:
    measured = [(row.step, row.validation) for row in record.history]
    validation = _plot_steps(
        f"{metric[0].upper()}{metric[1:]} on validation rows", measured, record, dots=True
    )
    steps = {
        "Training loss": [(point.step, point.loss) for point in record.curve],
        "Gradient norm before clipping": [(point.step, point.gradient_norm) for point in record.curve],
        "Learning rate": [(point.step, point.learning_rate) for point in record.curve],
        "Rows per second": [(point.step, point.rows_per_second) for point in record.curve],
    }
    drawn = [_plot_steps(title, points, record) for title, points in steps.items() if points]
    yield from (*drawn[:1], validation, *drawn[1:])


def _plot_steps(
    title: str, points: Sequence[tuple[int, float]], record: TrainingRecord, *, dots: bool = False
) -> charts.Plot:
    """Plots a curve. The axis of a curve of evaluations (`dots`) does not include 0."""
    (first, begin), (last, end) = points[0], points[-1]
    values = [value for _, value in points]
    described = (
        f"{title}: {numbers.format_short(begin)} at step {first:,},"
        f" {numbers.format_short(end)} at step {last:,};"
        f" between {numbers.format_short(min(values))} and {numbers.format_short(max(values))}."
    )
    return charts.plot_curve(
        title, points, described=described, dots=dots, marked=record.best.step, from_zero=not dots
    )
