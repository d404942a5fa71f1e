"""Computes the start of a new head before the DeepSpeed engine exists, while ranks hold whole models."""

from functools import partial

from transformers import set_seed

from finetune_trainer.contract import Activity
from finetune_trainer.tasks.base import HeadStart
from finetune_trainer.training.context import Context
from finetune_trainer.training.distributed import from_first
from finetune_trainer.training.evaluate import Evaluator


def computed(context: Context, before: float, after: float) -> HeadStart | None:
    """The start of the head, equal on every rank; a collective call. None: as the task loads the model.

    Args:
        context: the run.
        before: percent of the stage that is done.
        after: percent of the stage that is done afterwards.
    """
    set_seed(context.config.run.training.seed)
    start = context.task.model.head_start(
        context.inputs,
        context.config.run.training,
        Evaluator(context),
        context.gang.device,
        partial(context.report_progress, Activity.EVALUATING_BASELINE, before, after),
    )
    # Ranks on unlike machines round differently.
    return from_first(context.gang, start)  # type: ignore[no-any-return]
