"""Train: the gang, its meeting point, and what it may hold of the batch at once. Pure."""

from finetune_operator.api import FineTuneJobStatus, TrainStatus
from finetune_operator.observed import Manifest
from finetune_operator.resources import stage_job
from finetune_operator.turn import Ground, Turn, trained
from finetune_trainer.contract import Chosen, FailureClass, Stage, TrainPayload


def job(turn: Turn, ground: Ground, number: int) -> Manifest:
    """The Job of one attempt: one pod a node."""
    status = turn.status
    return stage_job(
        turn.job,
        ground.run,
        turn.settings,
        ground.profile,
        Stage.TRAIN,
        number,
        chosen=chosen(turn),
        prepared=status.data.digest if status.data else None,
    )


def chosen(turn: Turn) -> Chosen | None:
    """Prepare's decisions; after out of memory with the micro-batch halved and the batch kept."""
    first = turn.status.chosen
    earlier = [a for a in trained(turn.status.attempts) if a.config_digest == turn.digest]
    if first is None or not earlier:
        return first
    micro = earlier[-1].micro_batch_size or first.micro_batch_size
    if earlier[-1].failure == FailureClass.OUT_OF_MEMORY and micro % 2 == 0:
        micro //= 2
    accumulation = first.accumulation_steps * first.micro_batch_size // micro
    return first.model_copy(update={"micro_batch_size": micro, "accumulation_steps": accumulation})


def accepted(status: FineTuneJobStatus, payload: TrainPayload) -> FineTuneJobStatus:
    """The status with training's result."""
    training = TrainStatus(
        best_step=payload.best.step,
        best_validation=payload.best.metric,
        staging=payload.staging,
        peak_memory_bytes=payload.peak_memory_bytes,
        gpu_seconds=payload.gpu_seconds,
    )
    return status.model_copy(
        update={"training": training, "evaluation": payload.evaluation, "progress": None}
    )


def told(status: FineTuneJobStatus) -> str:
    """Training's result in a sentence."""
    measured = status.evaluation
    if measured is None or measured.tuned is None:
        return "The model is trained."
    return (
        f"{measured.primary_metric} {measured.tuned.primary:.3f} on {measured.rows:,} test rows;"
        f" base model {measured.baseline.primary:.3f}, majority class {measured.majority.primary:.3f}."
    )
