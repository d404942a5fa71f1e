"""The stage Train: measures the baseline, trains, measures the tuned model, and uploads the staged result."""

import time
from functools import partial

import numpy as np
import torch

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import Activity, FailureClass, TrainPayload, describe
from finetune_trainer.failures import StageFailure
from finetune_trainer.heartbeat import Heartbeat, beat_on_bytes
from finetune_trainer.models import methods
from finetune_trainer.models.load import silence_libraries
from finetune_trainer.models.weights import is_sharded
from finetune_trainer.paths import Paths
from finetune_trainer.stages.result import StageResult
from finetune_trainer.tasks.base import Predictions
from finetune_trainer.tasks.registry import training_task
from finetune_trainer.training import baseline, best_weights, early_end, head_start, peak_memory, staging
from finetune_trainer.training.context import Context, open_context
from finetune_trainer.training.distributed import max_over_ranks
from finetune_trainer.training.evaluate import over_rows
from finetune_trainer.training.evaluation_engine import ready
from finetune_trainer.training.fit import training_arguments, tune
from finetune_trainer.training.staging import Outcome

LOADED, MEASURED, STARTED, TRAINED, TESTED, DONE = 2.0, 8.0, 12.0, 90.0, 95.0, 100.0
"""Progress of the stage after each of its parts, in percent."""


def run(config: TrainConfig, paths: Paths, heartbeat: Heartbeat) -> StageResult:
    """Runs the stage on one rank. Every rank runs this function, and rank 0 writes the results.

    Raises:
        StageFailure: class UserConfig (a GPU or weights are missing), Numerical, Communication, Storage or
            Preempted.
    """
    began = time.monotonic()
    silence_libraries()
    context = open_context(config, paths, heartbeat, training_task(config.run.task))
    args = training_arguments(context)
    base, reused = baseline.measure(context, LOADED, MEASURED)
    context = context.with_packing(base.packing)
    context = context.with_head(head_start.compute(context, MEASURED, STARTED))
    peak_memory.reset(context.gang.device)
    if config.finish:
        tuned = early_end.finish(context)
    else:
        tuned = tune(context, args, first_percent=STARTED, last_percent=TRAINED)
    peak = int(max_over_ranks(context.gang, peak_memory.measure(context.gang.device)))
    model, predictions, samples = _test_model(context, tuned.checkpoint)
    staging.save_model(context, model)
    if not context.gang.first:
        return StageResult(None, "The first rank has the result.", tuned.steps, tuned.epochs)
    outcome = Outcome(model, predictions, samples, base, reused, tuned)
    record = staging.build_record(context, outcome)
    uri = staging.upload(
        context, outcome, record, partial(context.report_progress, Activity.UPLOADING, TESTED, DONE)
    )
    gpus = context.gang.world if context.gang.device.type == "cuda" else 0
    payload = TrainPayload(
        best=tuned.best,
        evaluation=record.evaluation,
        staging=uri,
        peak_memory_bytes=peak,
        gpu_seconds=round(gpus * (time.monotonic() - began)),
    )
    return StageResult(payload, describe(record.evaluation), tuned.steps, tuned.epochs)


def _test_model(context: Context, checkpoint: str) -> tuple[torch.nn.Module, Predictions, tuple[str, ...]]:
    """Loads the weights that are published, and evaluates the test rows. A collective operation.

    Args:
        context: the run.
        checkpoint: URI of the checkpoint with the best weights.

    Returns:
        The model (sharded at ZeRO stage 3), its predictions, and generated texts (empty on ranks that did not
        generate).

    Raises:
        StageFailure: class Numerical (a prediction is not finite) or Preempted; on all ranks.
    """
    with ready(context, context.load_model()) as model:
        on_bytes = beat_on_bytes(context.heartbeat, Activity.EVALUATING_TUNED)
        best_weights.load(context.gang, model, context.store, checkpoint, context.published_dtype, on_bytes)
        methods.merge_if_requested(context.config.run.method, model, context.published_dtype)
        predictions = over_rows(
            context,
            partial(context.task.model.predict, model),
            context.prepared.test,
            partial(context.report_progress, Activity.EVALUATING_TUNED, TRAINED, TESTED),
        )
        if non_finite := int((~np.isfinite(predictions).all(axis=1)).sum()):
            raise StageFailure(
                FailureClass.NUMERICAL,
                "NonFiniteLogits",
                f"the tuned model has no finite output for {non_finite} test rows",
                "lower training.learningRate, or use precision Float32",
            )
        context.heartbeat.beat(Activity.EVALUATING_TUNED)
        # All ranks must take part in a forward pass of a sharded model.
        takes_part = context.gang.first or is_sharded(model)
        samples = context.task.model.samples(context.inputs, model) if takes_part else ()
    return model, predictions, samples
