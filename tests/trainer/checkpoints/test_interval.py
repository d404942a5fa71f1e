import pytest

from finetune_trainer.checkpoints.interval import interval_seconds
from finetune_trainer.config import Checkpoints


@pytest.mark.parametrize(
    ("every", "copy", "nodes", "seconds"),
    [
        (300, None, 1, 300),
        (300, 9.0, 8, 300),
        ("Auto", None, 1, 60),
        ("Auto", 0.001, 1, 60),
        # sqrt(2 * 5 s * 86400 s)
        ("Auto", 5.0, 1, pytest.approx(929.5, abs=0.1)),
        # Four nodes fail four times as often.
        ("Auto", 5.0, 4, pytest.approx(464.8, abs=0.1)),
        ("Auto", 500.0, 1, 3600),
    ],
)
def test_the_interval_balances_the_copy_and_the_lost_work(
    every: object, copy: float | None, nodes: int, seconds: float
) -> None:
    settings = Checkpoints.model_validate({"every_seconds": every})
    assert interval_seconds(settings, copy, nodes) == seconds
