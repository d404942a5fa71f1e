"""Prepare: checks store, model and data, splits, tokenises, and decides what is `Auto`. Pure."""

from finetune_operator.observed import Manifest
from finetune_operator.rendering import Asked
from finetune_operator.resources import stage_job
from finetune_operator.turn import Turn
from finetune_trainer.contract import Stage


def job(turn: Turn, asked: Asked, number: int) -> Manifest:
    """The Job of one attempt."""
    return stage_job(turn.job, asked, turn.settings, Stage.PREPARE, number)
