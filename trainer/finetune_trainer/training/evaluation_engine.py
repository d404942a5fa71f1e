"""Prepares models for forward passes: on the device, or sharded over the ranks at ZeRO stage 3."""

from collections.abc import Iterator
from contextlib import contextmanager

from finetune_trainer.models.load import AnyModel, move_to_device
from finetune_trainer.models.weights import is_sharded
from finetune_trainer.training.context import Context
from finetune_trainer.training.deepspeed_config import evaluation_config


@contextmanager
def ready(context: Context, model: AnyModel) -> Iterator[AnyModel]:
    """Prepares a model for forward passes within the context. A collective operation.

    DeepSpeed gathers the parameters of a sharded model layer by layer, so that no rank holds the whole model.
    After the context, the model can be changed and trained, as if it had not been evaluated.

    Args:
        context: the run.
        model: a model that was loaded during the run: whole, or sharded at ZeRO stage 3.

    Yields:
        The model, in evaluation mode.
    """
    if not is_sharded(model):
        yield move_to_device(context.gang.device, model)
        return
    import deepspeed  # noqa: PLC0415 - the import takes 5 s

    config = evaluation_config(context.chosen, context.dtypes)
    engine, *_ = deepspeed.initialize(model=model, config=config)
    try:
        yield model.eval()
    finally:
        engine.destroy()
