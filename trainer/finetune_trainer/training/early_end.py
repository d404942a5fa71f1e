"""Ends a training before its last step: selects the best weights of the checkpoints of earlier attempts."""

import logging
import math
from functools import partial

from pydantic import ValidationError

from finetune_trainer.checkpoints.documents import identity_of
from finetune_trainer.checkpoints.listing import Checkpoint, folder_of
from finetune_trainer.contract import Activity, Best, FailureClass
from finetune_trainer.data.batches import steps_per_epoch
from finetune_trainer.failures import StageFailure
from finetune_trainer.heartbeat import beat_on_bytes
from finetune_trainer.training import best_weights
from finetune_trainer.training.checkpointing import candidates
from finetune_trainer.training.context import Context
from finetune_trainer.training.distributed import broadcast_object
from finetune_trainer.training.evaluate import over_rows
from finetune_trainer.training.evaluation_engine import ready
from finetune_trainer.training.fit import Tuned, better
from finetune_trainer.training.loop_state import BestWeights, LoopState

log = logging.getLogger(__name__)


def finish(context: Context) -> Tuned:
    """Selects the weights to publish without further training. A collective operation.

    The candidates are the best weights that training has evaluated, and the weights of the newest checkpoint,
    which are evaluated here if training has not evaluated them.

    Args:
        context: the run.

    Raises:
        StageFailure: class Storage (CheckpointMissing) if the run has no usable checkpoint; class Preempted.
    """
    identity = identity_of(context.config.run, context.chosen, context.data_digest, context.base_digest)
    root = folder_of(context.config.run.runs, identity)
    per_epoch = steps_per_epoch(len(context.prepared.train), context.chosen.batch_size)
    for checkpoint in candidates(context, root, identity):
        step = checkpoint.manifest.step
        state = _state_with_best(context, checkpoint, step / per_epoch, f"{root}{checkpoint.name}/")
        if state and state.best:
            break
        log.warning("checkpoint %s is damaged; trying the one before", checkpoint.name)
    else:
        raise StageFailure(
            FailureClass.STORAGE,
            "CheckpointMissing",
            f"the training should end early, but no usable checkpoint lies below {root}",
            "the next attempt trains until its first checkpoint; check who deletes objects in this folder",
        )
    log.info("ended early at step %d of %d", step, context.chosen.epochs * per_epoch)
    seconds = max(state.step_seconds, 1e-9)
    return Tuned(
        best=state.best.score,
        checkpoint=f"{root}{state.best.checkpoint}/",
        history=state.history,
        curve=state.curve.points,
        steps=step,
        epochs=step / per_epoch,
        seconds=state.training_seconds,
        rows_per_second=state.rows / seconds,
        tokens_per_second=state.tokens / seconds,
    )


def _state_with_best(context: Context, checkpoint: Checkpoint, epoch: float, folder: str) -> LoopState | None:
    """The state of a checkpoint after the evaluation of its weights, equal on every rank.

    If the weights are damaged, the state keeps the best weights that training has evaluated.

    Args:
        context: the run.
        checkpoint: the checkpoint.
        epoch: passes over the training rows until the checkpoint.
        folder: URI of the checkpoint, with a slash at the end.

    Returns:
        The state, without best weights if there are none; None if the state cannot be read.
    """
    step = checkpoint.manifest.step
    try:
        state = LoopState.model_validate(checkpoint.manifest.loop)
    except ValidationError:
        return None
    if state.evaluated_at(step):
        return state
    try:
        return _evaluated(context, state, step, epoch, checkpoint.name, folder)
    except StageFailure as failure:
        if failure.reason != best_weights.DAMAGED_CHECKPOINT:
            raise
        log.warning("the weights of step %d are not evaluated: %s", step, failure.message)
        return state


def _evaluated(
    context: Context, state: LoopState, step: int, epoch: float, name: str, folder: str
) -> LoopState:
    """The state after an evaluation of the weights of a checkpoint on the validation rows."""
    prepared, task = context.prepared, context.task
    primary = context.config.run.evaluation.primary_metric
    on_bytes = beat_on_bytes(context.heartbeat, Activity.EVALUATING)
    # Training has computed all earlier scores with quantized weights if the job requests them.
    with ready(context, context.load_for_training()) as model:
        best_weights.load(context.gang, model, context.store, folder, context.published_dtype, on_bytes)
        predictions = over_rows(
            context,
            partial(task.model.predict, model),
            prepared.validation,
            lambda _: context.heartbeat.beat(Activity.EVALUATING),
        )
    score = task.metrics.score(primary, predictions, prepared.validation, len(prepared.labels))
    # Ranks on different machines may round differently, but must select the same weights.
    value = float(broadcast_object(context.gang, score))
    if not math.isfinite(value):
        if state.best is None:
            raise StageFailure(
                FailureClass.NUMERICAL,
                "NonFiniteLoss",
                f"the loss of the validation rows at step {step} is not finite",
                "lower training.learningRate, or use precision Float32",
            )
        return state
    state = state.evaluated(epoch, step, value)
    if state.best is None or better(primary, value, state.best.score.metric):
        best = BestWeights(score=Best(step=step, metric=value), checkpoint=name)
        state = state.model_copy(update={"best": best})
    return state
