from collections.abc import Callable

import pytest

from finetune_trainer import contract
from finetune_trainer.report.record import TrainingRecord
from finetune_trainer.report.scores import section
from tests.trainer.report.reading import shown, texts


def test_every_metric_of_every_model_is_in_the_table(record_of: Callable[..., TrainingRecord]) -> None:
    evaluation = record_of(["a", "b", "c"]).evaluation
    markup = shown(section(evaluation, "How to read it."))
    heads = texts(markup, "th")
    assert heads[:5] == [
        "metric",
        "majority class",
        "linear probe",
        "this model",
        "difference to the linear probe",
    ]
    assert heads[5:] == ["accuracy", "macro F1", "micro F1", "weighted F1", "Matthews correlation"]
    assert evaluation.tuned
    value = evaluation.tuned.metrics["macroF1"]
    assert f"{value.value:.4f}{value.low:.4f} to {value.high:.4f}" in texts(markup, "td")


def test_a_task_whose_baseline_is_the_base_model_never_speaks_of_a_probe(
    record_of: Callable[..., TrainingRecord],
) -> None:
    evaluation = record_of(["a", "b"]).evaluation.model_copy(update={"majority": None})
    markup = shown(section(evaluation, ""))
    assert "probe" not in markup
    assert texts(markup, "th")[:3] == ["metric", "base model", "this model"]


def test_metrics_of_which_less_is_better_stand_on_an_axis_of_their_own(
    record_of: Callable[..., TrainingRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(contract.HIGHER_IS_BETTER, "mcc", False)
    markup = shown(section(record_of(["a", "b"]).evaluation, ""))
    assert texts(markup, "figcaption") == [
        "Scores (more is better)",
        "Difference to the linear probe (right of zero is better)",
        "Scores (less is better)",
        "Difference to the linear probe (left of zero is better)",
    ]


def test_what_was_not_tuned_has_no_difference(record_of: Callable[..., TrainingRecord]) -> None:
    evaluation = record_of(["a", "b"]).evaluation.model_copy(update={"tuned": None, "delta": None})
    markup = shown(section(evaluation, ""))
    assert texts(markup, "th")[:3] == ["metric", "majority class", "linear probe"]
    assert "Difference" not in markup
