"""Computes the weights from which a new head starts, before the DeepSpeed engine exists."""

from functools import partial

from transformers import set_seed

from finetune_trainer.contract import Activity
from finetune_trainer.tasks.base import HeadStart
from finetune_trainer.training.context import Context
from finetune_trainer.training.distributed import broadcast_object
from finetune_trainer.training.evaluate import Evaluator


def compute(context: Context, before: float, after: float) -> HeadStart | None:
    """Computes the weights from which a new head starts. A collective operation.

    Args:
        context: the run.
        before: progress of the stage before this calculation, in percent.
        after: progress of the stage after this calculation, in percent.

    Returns:
        The weights, equal on every rank; None where the head starts as the task loads the model.
    """
    set_seed(context.config.run.training.seed)
    start = context.task.model.head_start(
        context.inputs,
        context.config.run.training,
        Evaluator(context),
        partial(context.report_progress, Activity.EVALUATING_BASELINE, before, after),
    )
    # Ranks on different machines may round differently, but must start equal.
    return broadcast_object(context.gang, start)  # type: ignore[no-any-return]
