import pytest

from finetune_trainer.contract import MetricName
from finetune_trainer.training.fit import better


@pytest.mark.parametrize(
    ("metric", "value", "best", "is_better"),
    [
        ("macroF1", 0.6, 0.5, True),
        ("macroF1", 0.4, 0.5, False),
        ("macroF1", 0.5, 0.5, False),
        ("loss", 0.4, 0.5, True),
        ("loss", 0.6, 0.5, False),
        ("perplexity", 0.5, 0.5, False),
        ("tokenAccuracy", 0.6, 0.5, True),
    ],
)
def test_the_best_checkpoint_is_chosen_in_the_metrics_own_direction(
    metric: MetricName, value: float, best: float, *, is_better: bool
) -> None:
    assert better(metric, value, best) is is_better
