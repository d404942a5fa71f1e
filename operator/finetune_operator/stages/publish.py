"""Publish: reloads the tuned model in a fresh process, compares it, writes its manifest last. Pure."""

from finetune_operator.observed import Manifest
from finetune_operator.rendering import Asked
from finetune_operator.resources import stage_job
from finetune_operator.turn import Turn
from finetune_trainer.contract import Stage


def job(turn: Turn, asked: Asked, number: int) -> Manifest:
    """The Job of one attempt."""
    status = turn.status
    return stage_job(
        turn.job,
        asked,
        turn.settings,
        Stage.PUBLISH,
        number,
        chosen=status.chosen,
        prepared=status.data.digest if status.data else None,
    )
