"""Publish: reloads the tuned model in a fresh process, compares it, writes its manifest last. Pure."""

from finetune_operator.api import FineTuneJobStatus, ModelStatus
from finetune_operator.observed import Manifest
from finetune_operator.resources import stage_job
from finetune_operator.turn import Ground, Turn
from finetune_trainer.contract import PublishPayload, Stage


def job(turn: Turn, ground: Ground, number: int) -> Manifest:
    """The Job of one attempt."""
    status = turn.status
    return stage_job(
        turn.job,
        ground.run,
        turn.settings,
        ground.profile,
        Stage.PUBLISH,
        number,
        chosen=status.chosen,
        prepared=status.data.digest if status.data else None,
    )


def accepted(status: FineTuneJobStatus, payload: PublishPayload) -> FineTuneJobStatus:
    """The status with the published model."""
    published = {"uri": payload.uri, "digest": payload.digest, "size_bytes": payload.size_bytes}
    model = (status.model or ModelStatus()).model_copy(update=published)
    return status.model_copy(update={"model": model, "report": payload.report, "progress": None})


def told(status: FineTuneJobStatus) -> str:
    """What was published, in a sentence."""
    return f"The model is published at {status.model.uri if status.model else 'its output'}."
