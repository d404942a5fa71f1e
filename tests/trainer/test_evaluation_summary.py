import numpy as np
import pytest

from finetune_trainer.contract import Evaluation, Interval
from finetune_trainer.contract.evaluation import comparison, describe
from finetune_trainer.tasks.text_classification.metrics import compare
from finetune_trainer.tasks.text_generation import metrics as generation

TRUTH = np.arange(300) % 3


def evaluation(probe_right: int, tuned_right: int) -> Evaluation:
    """Of 300 rows, so many answered rightly by each model."""
    wrong = (TRUTH + 1) % 3
    shuffled = np.random.default_rng(0).permutation(300)
    answers = {
        "majority": np.zeros(300, dtype=np.int64),
        "baseline": np.where(shuffled < probe_right, TRUTH, wrong),
        "tuned": np.where(shuffled < tuned_right, TRUTH, wrong),
    }
    return compare(TRUTH, answers, classes=3, metrics=("accuracy",), primary="accuracy", seed=1)


@pytest.mark.parametrize(
    ("probe", "tuned", "words"),
    [
        (150, 250, ": better than the linear probe's 0.5000 by 0.3333"),
        (250, 150, ": worse than the linear probe's 0.8333 by 0.3333"),
        (200, 201, ": not distinguishably better than"),
        (201, 200, ": not distinguishably worse than"),
    ],
)
def test_the_sentence_is_honest_when_tuning_helped_hurt_or_cannot_be_told(
    probe: int, tuned: int, words: str
) -> None:
    assert words in describe(evaluation(probe, tuned))


def test_equal_models_are_called_equal() -> None:
    assert "equal to the linear probe's" in describe(evaluation(200, 200))


def test_an_interval_that_includes_zero_decides_nothing() -> None:
    assert (
        comparison(Interval(value=0.1, low=0.0, high=0.2), higher_is_better=True)
        == "not distinguishably better than"
    )
    assert comparison(Interval(value=0.1, low=0.001, high=0.2), higher_is_better=True) == "better than"


@pytest.mark.parametrize(
    ("tuned", "words"),
    [
        (1.0, "loss 1.0000 on 40 test rows: better than the base model's 2.0000 by 1.0000"),
        (3.0, "loss 3.0000 on 40 test rows: worse than the base model's 2.0000 by 1.0000"),
        (2.0, "loss 2.0000 on 40 test rows: equal to the base model's 2.0000"),
    ],
)
def test_of_a_loss_less_is_better_and_there_is_no_majority(tuned: float, words: str) -> None:
    def sums(loss: float) -> generation.Sums:
        return np.tile([loss * 5, 5, 2], (40, 1))

    told = describe(
        generation.compare(
            {"baseline": sums(2.0), "tuned": sums(tuned)}, metrics=("loss",), primary="loss", seed=1
        )
    )
    assert told.startswith(words)
    assert "majority" not in told
    assert "linear probe" not in told


def test_without_the_difference_both_scores_are_told() -> None:
    compared = evaluation(150, 250)
    assert compared.delta
    for delta in (None, compared.delta.model_copy(update={"metrics": {}})):
        told = describe(compared.model_copy(update={"delta": delta}))
        assert told == "accuracy 0.8333 on 300 test rows; linear probe 0.5000."
    assert describe(compared.model_copy(update={"tuned": None})).endswith("no model was tuned.")
