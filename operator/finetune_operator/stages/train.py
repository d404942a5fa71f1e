"""Train: the gang, its meeting point, and what it may hold of the batch at once. Pure."""

from finetune_operator.observed import Manifest
from finetune_operator.rendering import Asked
from finetune_operator.resources import stage_job
from finetune_operator.turn import Turn, trained
from finetune_trainer.contract import Chosen, FailureClass, Stage


def job(turn: Turn, asked: Asked, number: int) -> Manifest:
    """The Job of one attempt: one pod a node."""
    status = turn.status
    return stage_job(
        turn.job,
        asked,
        turn.settings,
        Stage.TRAIN,
        number,
        chosen=chosen(turn),
        prepared=status.data.digest if status.data else None,
    )


def chosen(turn: Turn) -> Chosen | None:
    """Prepare's decisions; after out of memory with the micro-batch halved and the batch kept."""
    first = turn.status.chosen
    earlier = [a for a in trained(turn.status.attempts) if a.spec_digest == turn.digest]
    if first is None or not earlier:
        return first
    micro = earlier[-1].micro_batch_size or first.micro_batch_size
    if earlier[-1].failure == FailureClass.OUT_OF_MEMORY and micro % 2 == 0:
        micro //= 2
    accumulation = first.accumulation_steps * first.micro_batch_size // micro
    return first.model_copy(update={"micro_batch_size": micro, "accumulation_steps": accumulation})
