"""The verdict, the first part of the page: whether tuning made the model better. Pure."""

from dataclasses import dataclass
from typing import Literal

from finetune_trainer.contract import (
    HIGHER_IS_BETTER,
    TITLES,
    Evaluation,
    Interval,
    MetricName,
    Scores,
    baseline_name,
)
from finetune_trainer.report import numbers
from finetune_trainer.report.record import TrainingRecord

Outcome = Literal["better", "worse", "undecided", "equal", "untuned"]
_SIGNS: dict[Outcome, str] = {"better": "▲", "worse": "▼", "undecided": "≈", "equal": "=", "untuned": "-"}


@dataclass(frozen=True)
class Tile:
    """A number that stands out."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class Verdict:
    """The head of the page."""

    outcome: Outcome
    sign: str
    headline: str
    explained: str
    tiles: list[Tile]


def outcome(evaluation: Evaluation) -> Outcome:
    """The outcome by the primary metric."""
    if evaluation.tuned is None or evaluation.delta is None:
        return "untuned"
    return compared(evaluation.delta.metrics[evaluation.primary_metric], evaluation.primary_metric)


def compared(gain: Interval, metric: MetricName) -> Outcome:
    """The outcome of a difference: `undecided` if its interval contains 0."""
    if gain.value == gain.low == gain.high == 0:
        return "equal"
    if gain.low <= 0 <= gain.high:
        return "undecided"
    return "better" if (gain.value > 0) is HIGHER_IS_BETTER[metric] else "worse"


def summary(record: TrainingRecord) -> Verdict:
    """The verdict, what the verdict is based on, and the most important numbers."""
    came_to = outcome(record.evaluation)
    explained = _explained(record.evaluation, came_to)
    return Verdict(came_to, _SIGNS[came_to], headline(record.evaluation), explained, _tiles(record))


def headline(evaluation: Evaluation) -> str:
    """The verdict in a sentence, also for a model that tuning made worse."""
    metric, baseline = evaluation.primary_metric, baseline_name(evaluation)
    name = TITLES[metric]
    before = numbers.measured(evaluation.baseline.metrics[metric].value)
    if evaluation.tuned is None:
        return f"Nothing was tuned: the {baseline} reaches {name} {before}."
    after = numbers.measured(evaluation.tuned.metrics[metric].value)
    match outcome(evaluation):
        case "better":
            return f"Better than the {baseline}: {name} {after} instead of {before}."
        case "worse":
            return f"Worse than the {baseline}: {name} {after} instead of {before}."
        case "equal":
            return f"Equal to the {baseline}: {name} {after} for both."
        case _:
            return f"No clear difference from the {baseline}: {name} {after} against {before}."


def _explained(evaluation: Evaluation, came_to: Outcome) -> str:
    rows = f"The test set has {numbers.plural(evaluation.rows, 'row')}, which no training and no choice used."
    if evaluation.delta is None:
        return rows
    gain = evaluation.delta.metrics[evaluation.primary_metric]
    ends = numbers.interval(gain, signed=True)
    difference = f"The difference is {numbers.measured(gain.value, signed=True)} (95 % interval {ends})"
    match came_to:
        case "equal":
            return f"{rows} Both models score the same."
        case "undecided":
            return (
                f"{rows} {difference}. The interval contains zero, so these test rows cannot tell which "
                "model is better. More test rows make the interval narrower."
            )
        case _:
            return f"{rows} {difference}. The choice of the test rows does not explain the difference."


def _tiles(record: TrainingRecord) -> list[Tile]:
    evaluation = record.evaluation
    scores = (
        ("this model", evaluation.tuned),
        (baseline_name(evaluation), evaluation.baseline),
        ("majority class", evaluation.majority),
    )
    rows, took = record.rows["train"], numbers.duration(record.training_seconds)
    return [
        *(_score(name, of, evaluation.primary_metric) for name, of in scores if of is not None),
        Tile("trained on", numbers.count(rows), "row" if rows == 1 else "rows"),
        Tile("training took", took, f"{record.rows_per_second:,.1f} rows/s"),
    ]


def _score(name: str, of: Scores, metric: MetricName) -> Tile:
    value = of.metrics[metric]
    return Tile(name, numbers.measured(value.value), f"{TITLES[metric]} ({numbers.interval(value)})")
