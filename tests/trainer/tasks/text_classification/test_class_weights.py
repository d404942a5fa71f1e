import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from finetune_trainer.tasks.text_classification.class_weights import class_weights

LABELS = np.repeat([0, 1, 2], [60, 30, 10])


def test_none_weighs_nothing() -> None:
    assert class_weights("None", LABELS, 3) is None


def test_balanced_is_what_scikit_learn_calls_balanced() -> None:
    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    assert class_weights("Balanced", LABELS, 3) == pytest.approx(expected)


def test_square_root_has_the_square_roots_ratios_and_a_mean_of_one() -> None:
    weights = class_weights("SquareRoot", LABELS, 3)
    assert weights is not None
    assert weights[LABELS].mean() == pytest.approx(1)
    assert weights / weights[0] == pytest.approx(np.sqrt([1, 60 / 30, 60 / 10]))


@pytest.mark.parametrize("kind", ["Balanced", "SquareRoot"])
def test_a_class_without_training_rows_does_not_count(kind: str) -> None:
    weights = class_weights(kind, LABELS, 4)  # type: ignore[arg-type]
    assert weights is not None
    assert weights[3] == 0
    assert weights[LABELS].mean() == pytest.approx(1)
