import numpy as np

from finetune_trainer.tasks.text_classification.facts import prediction_lines


def test_predictions_survive_huge_logits() -> None:
    logits = np.array([[1e4, 0.0, -1e4]], dtype=np.float32)
    answers = {name: np.array([0]) for name in ("majority", "baseline", "tuned")}
    (line,) = prediction_lines(np.array([7]), np.array([1]), answers, logits, ("a", "b", "c"))
    assert '"probabilities": {"a": 1.0, "b": 0.0, "c": 0.0}' in line
