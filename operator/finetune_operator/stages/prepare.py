"""Prepare: checks store, model and data, splits, tokenises, and decides what is `Auto`. Pure."""

from finetune_operator.observed import Manifest
from finetune_operator.resources import stage_job
from finetune_operator.turn import Ground, Turn
from finetune_trainer.contract import Stage


def job(turn: Turn, ground: Ground, number: int) -> Manifest:
    """The Job of one attempt."""
    return stage_job(turn.job, ground.run, turn.settings, ground.profile, Stage.PREPARE, number)
