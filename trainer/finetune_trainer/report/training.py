"""How training went, step by step. Pure."""

from collections.abc import Iterator, Sequence

from finetune_trainer.contract import TITLES
from finetune_trainer.report import charts, numbers
from finetune_trainer.report.markup import Html, Section, paragraph, table, tag
from finetune_trainer.report.record import TrainingRecord


def section(record: TrainingRecord) -> Section:
    """Curves over steps, and the epochs that were evaluated."""
    best = record.best
    kept = (
        f"The weights after step {best.step:,} were kept: {_metric(record)} {numbers.measured(best.metric)} "
        "on the validation rows. A dashed line marks that step."
    )
    return Section(
        "training",
        "Training",
        (paragraph(kept), tag("div", *_curves(record), _epochs(record), class_="charts")),
    )


def _curves(record: TrainingRecord) -> Iterator[Html]:
    metric = _metric(record)
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
) -> Html:
    """What every step has is drawn from 0; of what only evaluations have, the change is what matters."""
    (first, begin), (last, end) = points[0], points[-1]
    values = [value for _, value in points]
    described = (
        f"{title}: {numbers.short(begin)} at step {first:,}, {numbers.short(end)} at step {last:,}; "
        f"between {numbers.short(min(values))} and {numbers.short(max(values))}."
    )
    return charts.line(
        title, points, described=described, dots=dots, marked=record.best.step, from_zero=not dots
    )


def _epochs(record: TrainingRecord) -> Html:
    rows = [
        (
            str(row.epoch),
            numbers.count(row.step),
            f"{row.training_loss:.4f}",
            numbers.measured(row.validation),
            "kept" if row.step == record.best.step else "",
        )
        for row in record.history
    ]
    head = ("epoch", "step", "training loss", f"{_metric(record)}, validation", "")
    return table("Epochs that were evaluated", head, rows)


def _metric(record: TrainingRecord) -> str:
    return TITLES[record.evaluation.primary_metric]
