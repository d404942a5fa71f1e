"""Report: reads the result of a finished attempt back from S3, where its message was lost. Pure."""

from finetune_operator import names, rendering
from finetune_operator.api import AttemptStatus
from finetune_operator.observed import Manifest
from finetune_operator.resources import stage_job
from finetune_operator.turn import Ground, Turn
from finetune_trainer.contract import Stage


def job(turn: Turn, ground: Ground, attempt: AttemptStatus) -> Manifest:
    """The report Job of an attempt."""
    return stage_job(
        turn.job,
        ground.run,
        turn.settings,
        ground.profile,
        Stage.REPORT,
        report_number(turn, attempt),
        reported=(Stage(attempt.stage), attempt.number),
    )


def report_name(turn: Turn, attempt: AttemptStatus) -> str:
    """Name of an attempt's report Job."""
    uid = rendering.uid_of(turn.job)
    return names.child_name(turn.job.metadata["name"], uid, Stage.REPORT, report_number(turn, attempt))


def report_number(turn: Turn, attempt: AttemptStatus) -> int:
    """The attempt's place in the list, from 1: attempts are never taken out, so it stays."""
    return [a.job for a in turn.status.attempts].index(attempt.job) + 1
