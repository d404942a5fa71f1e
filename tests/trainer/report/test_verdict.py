from collections.abc import Callable

import pytest

from finetune_trainer import contract
from finetune_trainer.contract import Evaluation, Interval, Scores
from finetune_trainer.report.record import TrainingRecord
from finetune_trainer.report.verdict import build_headline, build_verdict, classify_difference, find_outcome


def evaluation(low: float, high: float, value: float | None = None) -> Evaluation:
    """The tuned model's gain over 0.5, with its interval."""
    value = (low + high) / 2 if value is None else value
    scores = [
        Scores(primary=point, metrics={"mcc": Interval(value=point, low=point, high=point)})
        for point in (0.1, 0.5, 0.5 + value)
    ]
    gain = Scores(primary=value, metrics={"mcc": Interval(value=value, low=low, high=high)})
    return Evaluation(
        primary_metric="mcc", rows=100, majority=scores[0], baseline=scores[1], tuned=scores[2], delta=gain
    )


@pytest.mark.parametrize(
    ("low", "high", "came_to", "words"),
    [
        (0.1, 0.3, "better", "Better than the linear probe: Matthews correlation 0.7000 instead of 0.5000."),
        (-0.3, -0.1, "worse", "Worse than the linear probe: Matthews correlation 0.3000 instead of 0.5000."),
        (-0.1, 0.3, "undecided", "No clear difference from the linear probe: Matthews correlation 0.6000"),
        (0.0, 0.2, "undecided", "No clear difference"),
        (0.0, 0.0, "equal", "Equal to the linear probe: Matthews correlation 0.5000 for both."),
    ],
)
def test_the_verdict_is_what_the_interval_says(low: float, high: float, came_to: str, words: str) -> None:
    given = evaluation(low, high)
    assert find_outcome(given) == came_to
    assert build_headline(given).startswith(words)


def test_of_a_metric_of_which_less_is_better_a_fall_is_the_good_news(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(contract.HIGHER_IS_BETTER, "mcc", False)
    assert find_outcome(evaluation(-0.3, -0.1)) == "better"
    assert find_outcome(evaluation(0.1, 0.3)) == "worse"
    assert classify_difference(Interval(value=-0.1, low=-0.2, high=0.1), "mcc") == "undecided"


def test_nothing_tuned_is_told_as_that() -> None:
    untuned = evaluation(0.1, 0.2).model_copy(update={"tuned": None, "delta": None})
    assert (
        build_headline(untuned) == "Nothing was tuned: the linear probe reaches Matthews correlation 0.5000."
    )


def test_without_a_majority_class_the_base_model_is_what_it_is_compared_with(
    record_of: Callable[..., TrainingRecord],
) -> None:
    record = record_of(["a", "b"])
    plain = record.model_copy(update={"evaluation": record.evaluation.model_copy(update={"majority": None})})
    shown = build_verdict(plain)
    assert "than the base model:" in shown.headline
    assert [tile.name for tile in shown.tiles] == ["this model", "base model", "trained on", "training took"]
