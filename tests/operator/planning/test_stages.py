"""The tables of stages."""

from finetune_operator.names import Condition
from finetune_operator.planning.stages import STAGES
from finetune_operator.rendering.stage_pods import STAGE_PODS
from finetune_trainer.contract import Stage


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
