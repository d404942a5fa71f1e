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
        "plots": list(_plots(record, metric)),
        "evaluations": record.history,
        "best": record.best,
        "metric": metric,
    }
    return Section("training", "Training", f"{TEMPLATES}/sections.html.j2", values)


def _plots(record: TrainingRecord, metric: str) -> Iterator[charts.Plot]:
    measured = [(row.step, row.validation) for row in record.history]
    validation = _line(f"{metric[0].upper()}{metric[1:]} on validation rows", measured, record, dots=True)
    steps = {
        "Training loss": [(point.step, point.loss) for point in record.curve],
        "Gradient norm before clipping": [(point.step, point.gradient_norm) for point in record.curve],
        "Learning rate": [(point.step, point.learning_rate) for point in record.curve],
        "Rows per second": [(point.step, point.rows_per_second) for point in record.curve],
    }
    drawn = [_line(title, points, record) for title, points in steps.items() if points]
    yield from (*drawn[:1], validation, *drawn[1:])


def _line(
    title: str, points: Sequence[tuple[int, float]], record: TrainingRecord, *, dots: bool = False
) -> charts.Plot:
    """A curve of all steps begins at 0; a curve of evaluations (`dots`) shows the change."""
    (first, begin), (last, end) = points[0], points[-1]
    values = [value for _, value in points]
    described = (
        f"{title}: {numbers.short(begin)} at step {first:,}, {numbers.short(end)} at step {last:,}; "
        f"between {numbers.short(min(values))} and {numbers.short(max(values))}."
    )
    return charts.line(
        title, points, described=described, dots=dots, marked=record.best.step, from_zero=not dots
    )
