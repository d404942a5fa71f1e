"""When the result of a stage counts."""

from finetune_operator.planning.stages import done
from finetune_trainer.contract import Stage
from tests.operator import scenes


def test_the_data_of_the_newest_spec_does_not_count_for_an_earlier_one() -> None:
    """The spec is changed and changed back before training: the status holds the data of the spec between."""
    job = scenes.job_of(
        {"status": {"reached": "Prepare", "attempts": [{"stage": "Prepare", "outcome": "Succeeded"}]}}
    )
    assert job.status
    first = job.status.attempts[0]
    second = first.model_copy(
        update={"number": 2, "job": "tickets-0b5c3-p2", "spec_digest": "sha256:" + "b" * 64}
    )
    status = job.status.model_copy(update={"attempts": [first, second]})

    assert done(status, Stage.PREPARE, second.spec_digest)
    assert not done(status, Stage.PREPARE, first.spec_digest)
