import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, matthews_corrcoef
from sklearn.metrics import precision_recall_fscore_support as per_class

from finetune_trainer.contract import Evaluation, MetricName, Scores
from finetune_trainer.tasks import bootstrap
from finetune_trainer.tasks.text_classification.metrics import (
    ModelRole,
    Predicted,
    compare,
    confusion,
    count_flips,
    measure,
    score_classes,
)

METRICS = ("accuracy", "macroF1", "microF1", "weightedF1", "mcc")


def rows(seed: int, count: int = 200, classes: int = 6, right: float = 0.6) -> tuple[Predicted, Predicted]:
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, count)
    predictions = np.where(random.random(count) < right, truth, random.integers(0, classes, count))
    return truth, predictions


@pytest.mark.parametrize("case", ["usual", "class never true", "class never seen", "always the same"])
def test_every_metric_equals_scikit_learns(case: str) -> None:
    truth, predictions = rows(1)
    classes = 6
    if case == "class never true":
        truth = np.where(truth == 3, 2, truth)
    if case == "class never seen":
        classes = 8
    if case == "always the same":
        predictions = np.full_like(predictions, 4)
    options: dict[str, Any] = {"labels": range(classes), "zero_division": 0}
    assert measure(truth, predictions, classes) == pytest.approx(
        {
            "accuracy": accuracy_score(truth, predictions),
            "macroF1": f1_score(truth, predictions, average="macro", **options),
            "microF1": f1_score(truth, predictions, average="micro", **options),
            "weightedF1": f1_score(truth, predictions, average="weighted", **options),
            "mcc": matthews_corrcoef(truth, predictions),
        },
        abs=1e-12,
    )


def test_confusion_matrix_and_classes_equal_scikit_learns() -> None:
    truth, predictions = rows(2)
    labels = [f"c{k}" for k in range(7)]
    assert np.array_equal(
        confusion(truth, predictions, 7), confusion_matrix(truth, predictions, labels=range(7))
    )
    precision, recall, f1, support = per_class(truth, predictions, labels=range(7), zero_division=0)
    figures = score_classes(truth, predictions, labels)
    assert [row.precision for row in figures] == pytest.approx(list(precision))
    assert [row.recall for row in figures] == pytest.approx(list(recall))
    assert [row.f1 for row in figures] == pytest.approx(list(f1))
    assert [row.support for row in figures] == list(support)


def compared(predictions: dict[ModelRole, Predicted], truth: Predicted, **options: Any) -> Evaluation:
    return compare(
        truth, predictions, **{"classes": 6, "metrics": METRICS, "primary": "macroF1", "seed": 3, **options}
    )


def test_intervals_agree_with_resampling_the_rows_one_by_one() -> None:
    truth, predictions = rows(4)
    evaluation = compared({"majority": np.zeros_like(truth), "baseline": predictions}, truth)
    random = np.random.default_rng(0)
    strata = [np.flatnonzero(truth == label) for label in range(6)]
    resampled = [np.concatenate([random.choice(rows, len(rows)) for rows in strata]) for _ in range(1000)]
    scores = [
        f1_score(truth[pick], predictions[pick], average="macro", labels=range(6), zero_division=0)
        for pick in resampled
    ]
    interval = evaluation.baseline.metrics["macroF1"]
    assert [interval.low, interval.high] == pytest.approx(np.percentile(scores, [2.5, 97.5]), abs=0.012)
    assert interval.low < interval.value < interval.high


@pytest.mark.parametrize("rows_of_a_class", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(10))
def test_an_interval_holds_its_value_with_few_rows_of_each_class(rows_of_a_class: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    truth = np.repeat(np.arange(6), rows_of_a_class)
    guess = np.where(random.random(len(truth)) < 0.7, truth, random.integers(0, 6, len(truth)))
    other = np.where(random.random(len(truth)) < 0.5, truth, random.integers(0, 6, len(truth)))
    evaluation = compared({"baseline": other, "tuned": guess}, truth)
    assert evaluation.tuned
    assert evaluation.delta
    for scores in (evaluation.baseline, evaluation.tuned, evaluation.delta):
        for interval in scores.metrics.values():
            assert interval.low <= interval.value <= interval.high


def test_the_difference_of_equal_models_is_exactly_nothing_because_resamples_are_paired() -> None:
    truth, predictions = rows(5)
    evaluation = compared(
        {"majority": np.zeros_like(truth), "baseline": predictions, "tuned": predictions}, truth
    )
    assert evaluation.delta
    for interval in evaluation.delta.metrics.values():
        assert (interval.low, interval.value, interval.high) == (0, 0, 0)


def test_a_paired_interval_is_narrower_than_that_of_either_model() -> None:
    truth, predictions = rows(6, count=1000)
    better = predictions.copy()
    better[:50] = truth[:50]
    evaluation = compared({"majority": np.zeros_like(truth), "baseline": predictions, "tuned": better}, truth)
    assert evaluation.delta
    assert evaluation.tuned

    def width(scores: Scores) -> float:
        return scores.metrics["accuracy"].high - scores.metrics["accuracy"].low

    assert width(evaluation.delta) < width(evaluation.tuned) / 2
    assert evaluation.delta.metrics["accuracy"].low > 0


def test_the_same_seed_gives_the_same_intervals_and_the_primary_metric_is_always_there() -> None:
    truth, predictions = rows(7)
    models: dict[ModelRole, Predicted] = {
        "majority": np.zeros_like(truth),
        "baseline": predictions,
        "tuned": predictions,
    }
    first, second = (compared(models, truth, metrics=("accuracy",), primary="mcc") for _ in range(2))
    assert first == second
    assert set(first.baseline.metrics) == {"accuracy", "mcc"}
    assert first.baseline.primary == round(matthews_corrcoef(truth, predictions), 4)


@pytest.mark.parametrize(("count", "classes"), [(1000, 10), (10_000, 40)])
def test_intervals_for_three_models_take_less_than_two_seconds(count: int, classes: int) -> None:
    truth, predictions = rows(8, count, classes)
    other = rows(9, count, classes)[1]
    began = time.process_time()
    compared(
        {"majority": np.zeros_like(truth), "baseline": predictions, "tuned": other}, truth, classes=classes
    )
    assert time.process_time() - began < 2


def test_flips_count_what_tuning_set_right_and_what_it_spoilt() -> None:
    truth = np.array([0, 1, 2, 0, 1])
    before, after = np.array([0, 0, 0, 0, 1]), np.array([1, 1, 2, 0, 1])
    assert count_flips(truth, before, after) == {"fixed": 2, "broken": 1}


@pytest.mark.parametrize("rows_of_a_class", [1, 2, 3])
def test_with_few_rows_of_each_class_the_percentiles_of_the_resamples_include_the_score(
    monkeypatch: pytest.MonkeyPatch, rows_of_a_class: int
) -> None:
    resampled: list[bootstrap.Values] = []
    usual = bootstrap._build_scores

    def watched(values: Mapping[MetricName, bootstrap.Values], primary: MetricName) -> Scores:
        resampled.append(values["macroF1"])
        return usual(values, primary)

    monkeypatch.setattr(bootstrap, "_build_scores", watched)
    for seed in range(10):
        random = np.random.default_rng(seed)
        truth = np.repeat(np.arange(100), rows_of_a_class)
        guess = np.where(random.random(len(truth)) < 0.9, truth, random.integers(0, 100, len(truth)))
        compared({"baseline": guess}, truth, classes=100)
    assert len(resampled) == 10
    for score, *others in resampled:
        low, high = np.percentile(others, [2.5, 97.5])
        assert low <= score <= high
