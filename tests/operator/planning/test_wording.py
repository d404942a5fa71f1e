"""Numbers in messages."""

import pytest

from finetune_operator.planning.stages import STAGES
from finetune_operator.planning.wording import count
from finetune_trainer.contract import Account, Stage
from tests.operator import scenes


@pytest.mark.parametrize(
    ("number", "says"), [(0, "0 classes"), (1, "1 class"), (2, "2 classes"), (1234, "1,234 classes")]
)
def test_a_noun_agrees_with_its_number(number: int, says: str) -> None:
    assert count(number, "class", "classes") == says


def test_the_summary_of_the_smallest_data_set_uses_the_singular() -> None:
    job = scenes.job_of({"status": {"reached": "Train"}})
    assert job.status
    assert job.status.data
    assert job.status.chosen
    assert job.status.evaluation
    one = {"train": 1, "validation": 1, "test": 1}
    data = job.status.data.model_copy(
        update={
            "labels": 1,
            "rows": job.status.data.rows.model_copy(update=one),
            "account": Account(read=1, left_out={"BadRows": 1}),
        }
    )
    chosen = job.status.chosen.model_copy(update={"total_steps": 1, "batch_size": 1})
    evaluation = job.status.evaluation.model_copy(update={"rows": 1})
    status = job.status.model_copy(update={"data": data, "chosen": chosen, "evaluation": evaluation})

    assert STAGES[Stage.PREPARE].summarize(status) == (
        "1 training row, 1 validation row, 1 test row, 1 class; 1 of 1 row left out (BadRows 1);"
        " 1 step of 1 row."
    )
    assert "on 1 test row:" in STAGES[Stage.TRAIN].summarize(status)
