"""Report: reads the result of a finished attempt back from S3, where its message was lost. Pure."""

from finetune_operator.api import AttemptStatus
from finetune_operator.observed import Manifest
from finetune_operator.rendering import Asked
from finetune_operator.resources import stage_job
from finetune_operator.turn import Turn, report_number
from finetune_trainer.contract import Stage


def job(turn: Turn, asked: Asked, attempt: AttemptStatus) -> Manifest:
    """The report Job of an attempt."""
    return stage_job(
        turn.job,
        asked,
        turn.settings,
        Stage.REPORT,
        report_number(turn, attempt),
        reported=(Stage(attempt.stage), attempt.number),
    )
