"""PURE: builds the verdict at the top of the report page: whether tuning improved the model."""

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
    """A highlighted number."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class Verdict:
    """The top of the report page."""

    outcome: Outcome
    sign: str
    headline: str
    explained: str
    tiles: list[Tile]


def find_outcome(evaluation: Evaluation) -> Outcome:
    """Returns the outcome by the primary metric."""
    if evaluation.tuned is None or evaluation.delta is None:
        return "untuned"
    return classify_difference(evaluation.delta.metrics[evaluation.primary_metric], evaluation.primary_metric)


def classify_difference(gain: Interval, metric: MetricName) -> Outcome:
    """Classifies a difference; `undecided` if the interval contains 0."""
    if gain.value == gain.low == gain.high == 0:
        return "equal"
    if gain.low <= 0 <= gain.high:
        return "undecided"
    return "better" if (gain.value > 0) is HIGHER_IS_BETTER[metric] else "worse"


def build_verdict(record: TrainingRecord) -> Verdict:
    """Builds the verdict with explanation and highlighted numbers."""
    outcome = find_outcome(record.evaluation)
    explained = _explain(record.evaluation, outcome)
    return Verdict(
        outcome, _SIGNS[outcome], build_headline(record.evaluation), explained, _build_tiles(record)
    )


def build_headline(evaluation: Evaluation) -> str:
    """Returns the verdict as a sentence."""
    metric, baseline = evaluation.primary_metric, baseline_name(evaluation)
    name = TITLES[metric]
    before = numbers.format_metric(evaluation.baseline.metrics[metric].value)
    if evaluation.tuned is None:
        return f"Nothing was tuned: the {baseline} reaches {name} {before}."
    after = numbers.format_metric(evaluation.tuned.metrics[metric].value)
    match find_outcome(evaluation):
        case "better":
            return f"Better than the {baseline}: {name} {after} instead of {before}."
        case "worse":
            return f"Worse than the {baseline}: {name} {after} instead of {before}."
        case "equal":
            return f"Equal to the {baseline}: {name} {after} for both."
        case _:
            return f"No clear difference from the {baseline}: {name} {after} against {before}."


def _explain(evaluation: Evaluation, outcome: Outcome) -> str:
    count = numbers.format_plural(evaluation.rows, "row")
    rows = f"The test set has {count}, which no training and no choice used."
    if evaluation.delta is None:
        return rows
    gain = evaluation.delta.metrics[evaluation.primary_metric]
    ends = numbers.format_interval(gain, signed=True)
    difference = f"The difference is {numbers.format_metric(gain.value, signed=True)} (95 % interval {ends})"
    match outcome:
        case "equal":
            return f"{rows} Both models score the same."
        case "undecided":
            return (
                f"{rows} {difference}. The interval contains zero, so these test rows cannot tell which "
                "model is better. More test rows make the interval narrower."
            )
        case _:
            return f"{rows} {difference}. The choice of the test rows does not explain the difference."


def _build_tiles(record: TrainingRecord) -> list[Tile]:
    evaluation = record.evaluation
    scores = (
        ("this model", evaluation.tuned),
        (baseline_name(evaluation), evaluation.baseline),
        ("majority class", evaluation.majority),
    )
    rows, took = record.rows["train"], numbers.format_duration(record.training_seconds)
    return [
        *(_build_score_tile(name, of, evaluation.primary_metric) for name, of in scores if of is not None),
        Tile("trained on", numbers.format_count(rows), "row" if rows == 1 else "rows"),
        Tile("training took", took, f"{record.rows_per_second:,.1f} rows/s"),
    ]


def _build_score_tile(name: str, of: Scores, metric: MetricName) -> Tile:
    value = of.metrics[metric]
    return Tile(
        name, numbers.format_metric(value.value), f"{TITLES[metric]} ({numbers.format_interval(value)})"
    )
