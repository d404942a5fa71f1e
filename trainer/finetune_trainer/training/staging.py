"""The staging folder in S3: the tuned model, predictions, and the training record."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch

from finetune_trainer.contract import Activity
from finetune_trainer.data.batches import steps_per_epoch
from finetune_trainer.heartbeat import beat_on_bytes
from finetune_trainer.models import methods, older_readers, older_tokenizers, saved_files
from finetune_trainer.models.lineage import lineage_of
from finetune_trainer.models.weights import is_sharded
from finetune_trainer.paths import MODEL_FOLDER, PREDICTIONS, RECORD, VERIFICATION
from finetune_trainer.report.record import TrainingRecord, versions
from finetune_trainer.s3.manifest import Manifest, upload_folder
from finetune_trainer.s3.results import writer
from finetune_trainer.s3.uploads import UPLOAD_SILENCE_SECONDS
from finetune_trainer.tasks.base import Baseline, Predictions
from finetune_trainer.training import saved_model
from finetune_trainer.training.context import Context
from finetune_trainer.training.fit import Tuned


@dataclass(frozen=True)
class Outcome:
    """The results of the stage on rank 0."""

    model: torch.nn.Module
    """The tuned model with the weights that are published; sharded at ZeRO stage 3."""
    predictions: Predictions
    """Predictions of the tuned model on the test rows."""
    samples: tuple[str, ...]
    """Texts that the tuned model generated."""
    baseline: Baseline
    reused: bool
    """Whether an earlier attempt measured the baseline."""
    tuned: Tuned


def save_model(context: Context, model: torch.nn.Module) -> None:
    """Saves the tuned model on the disk of rank 0. A collective operation at ZeRO stage 3.

    Args:
        context: the run.
        model: the tuned model, whole or sharded.
    """
    context.heartbeat.beat(Activity.SAVING)
    folder = _staging_folder(context)
    if context.gang.first:
        rmtree(folder, ignore_errors=True)
    # All ranks must take part in gathering the parameters of a sharded model.
    if context.gang.first or is_sharded(model):
        methods.save(
            model,
            folder / MODEL_FOLDER if context.gang.first else None,
            context.config.run.served_base_name,
            context.published_dtype,
            on_part=partial(context.heartbeat.beat, Activity.SAVING),
        )


def build_record(context: Context, outcome: Outcome) -> TrainingRecord:
    """The training record; computes the evaluation and its intervals."""
    prepared, tuned, task, inputs = context.prepared, outcome.tuned, context.task, context.inputs
    context.heartbeat.beat(Activity.EVALUATING_TUNED)
    trained, parameters = methods.count_parameters(outcome.model)
    settings: Any = outcome.model.config
    ended_early, skipped_step = facts_of_steps(context, tuned.steps)
    return TrainingRecord(
        evaluation=task.metrics.evaluation(inputs, outcome.baseline, outcome.predictions),
        task=task.report.record(
            inputs, outcome.baseline, outcome.predictions, outcome.samples, reused=outcome.reused
        ).model_dump(mode="json", by_alias=True),
        best=tuned.best,
        history=tuned.history,
        curve=tuned.curve,
        ended_early=ended_early,
        skipped_step=skipped_step,
        head_init=context.head.init if context.head else None,
        rows={
            "train": len(prepared.train),
            "validation": len(prepared.validation),
            "test": len(prepared.test),
        },
        parameters=parameters,
        trained_parameters=trained,
        method=methods.find_facts(context.config.run.method, outcome.model),
        head_kept=getattr(outcome.model, "head_kept", None),
        needs_transformers_5=not (
            older_readers.is_readable(settings.to_dict()) and older_tokenizers.is_readable(context.base)
        ),
        precision=context.dtypes.products,
        weights=context.dtypes.weights,
        devices=_devices(context),
        training_seconds=tuned.seconds,
        rows_per_second=tuned.rows_per_second,
        tokens_per_second=tuned.tokens_per_second,
        versions=versions(),
    )


def facts_of_steps(context: Context, steps: int) -> tuple[int | None, int | None]:
    """The last step of a training that ended early, and the skipped step; each None if there is none.

    Args:
        context: the run.
        steps: number of completed steps.
    """
    chosen, skipped = context.chosen, context.config.skipped_step
    planned = chosen.epochs * steps_per_epoch(len(context.prepared.train), chosen.batch_size)
    ended_early = steps if steps < planned else None
    return ended_early, skipped if skipped is not None and skipped <= steps else None


def upload(
    context: Context, outcome: Outcome, record: TrainingRecord, on_progress: Callable[[float], None]
) -> str:
    """Checks the saved model, and uploads all results to a new staging folder, the manifest last.

    Args:
        context: the run.
        outcome: the results, after `save_model`.
        record: the training record.
        on_progress: called with 0 before and with 1 after the upload.

    Returns:
        URI of the staging folder.

    Raises:
        StageFailure: Storage, or Internal (the saved model does not load, or has other predictions).
    """
    context.heartbeat.beat(Activity.SAVING)
    folder = _staging_folder(context)
    model: Any = outcome.model
    saved_files.complete(folder / MODEL_FOLDER, context.base, generates=model.can_generate())
    saved_model.verify(context, folder / MODEL_FOLDER, outcome.predictions, folder / VERIFICATION)
    lines = context.task.report.prediction_lines(context.inputs, outcome.baseline, outcome.predictions)
    predictions = "".join(f"{line}\n" for line in lines)
    (folder / PREDICTIONS).write_text(predictions)
    (folder / RECORD).write_text(record.model_dump_json(by_alias=True))
    config = context.config
    manifest = Manifest.of(
        folder,
        job=config.job,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        base_model=context.base_digest,
        data=context.data_digest,
        config=config.run.digest(),
        lineage=lineage_of(config.run, context.store, context.base_digest),
        on_bytes=beat_on_bytes(context.heartbeat, Activity.SAVING),
    )
    uri = f"{config.run.runs}staging/{config.attempt}-{writer()}/"
    on_progress(0.0)
    on_bytes = beat_on_bytes(
        context.heartbeat, Activity.UPLOADING, max(UPLOAD_SILENCE_SECONDS, config.hang_timeout_seconds)
    )
    on_bytes(0)
    upload_folder(context.store, folder, uri, manifest, on_bytes)
    context.store.write(f"{config.run.runs}report/{PREDICTIONS}", predictions.encode())
    on_progress(1.0)
    return uri


def _staging_folder(context: Context) -> Path:
    return context.paths.scratch / "staging"


def _devices(context: Context) -> str:
    gang = context.gang
    if gang.device.type == "cuda":
        return f"{gang.world} x {torch.cuda.get_device_name()}"
    return f"{gang.world} CPU processes with {torch.get_num_threads()} threads each"
