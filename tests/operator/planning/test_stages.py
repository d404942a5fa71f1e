"""The tables of stages, and when the result of a stage counts."""

from finetune_operator.names import Condition
from finetune_operator.planning.stages import STAGES, is_done
from finetune_operator.rendering.stage_pods import STAGE_PODS
from finetune_trainer.contract import Stage
from tests.operator import scenes


def test_every_stage_of_the_contract_has_a_row() -> None:
    assert set(STAGE_PODS) == set(Stage)
    assert set(STAGES) == set(Stage) - {Stage.READBACK, Stage.CLEANUP}


def test_stages_share_no_letter_condition_or_state() -> None:
    assert len({pods.letter for pods in STAGE_PODS.values()}) == len(STAGE_PODS)
    assert len({row.condition for row in STAGES.values()}) == len(STAGES)
    assert len({row.state for row in STAGES.values()}) == len(STAGES)


def test_conditions_stand_in_the_order_of_the_stages() -> None:
    of_stages = [row.condition for row in STAGES.values()]
    assert [kind for kind in Condition if kind in of_stages] == of_stages


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

    assert is_done(status, Stage.PREPARE, second.spec_digest)
    assert not is_done(status, Stage.PREPARE, first.spec_digest)
