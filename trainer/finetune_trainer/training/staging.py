"""The staging folder in S3: the tuned model, predictions, and the training record."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from finetune_trainer.contract import Activity
from finetune_trainer.heartbeat import beat_on_bytes
from finetune_trainer.models import methods, older_readers, older_tokenizers, saved_files
from finetune_trainer.models.collate import lengths
from finetune_trainer.models.lineage import lineage_of
from finetune_trainer.models.load import move_to_device
from finetune_trainer.models.verify import LOGITS, compute_logits
from finetune_trainer.paths import MODEL_FOLDER, PREDICTIONS, RECORD, VERIFICATION
from finetune_trainer.report.record import TrainingRecord, versions
from finetune_trainer.s3.manifest import Manifest, upload_folder
from finetune_trainer.s3.results import writer
from finetune_trainer.s3.uploads import UPLOAD_SILENCE_SECONDS
from finetune_trainer.tasks.base import Baseline, Predictions
from finetune_trainer.training.context import Context
from finetune_trainer.training.fit import Tuned

VERIFIED_ROWS = 64
"""Maximum number of test rows whose logits Publish compares; a task may need fewer."""


@dataclass(frozen=True)
class Outcome:
    """The results of the stage on rank 0."""

    model: torch.nn.Module
    """The whole tuned model with the weights that are published."""
    predictions: Predictions
    """Predictions of the tuned model on the test rows."""
    samples: tuple[str, ...]
    """Texts that the tuned model generated."""
    baseline: Baseline
    reused: bool
    """Whether an earlier attempt measured the baseline."""
    tuned: Tuned


def build_record(context: Context, outcome: Outcome) -> TrainingRecord:
    """The training record; computes the evaluation and its intervals."""
    prepared, tuned, task, inputs = context.prepared, outcome.tuned, context.task, context.inputs
    context.heartbeat.beat(Activity.EVALUATING_TUNED)
    trained, parameters = methods.count_parameters(outcome.model)
    settings: Any = outcome.model.config
    return TrainingRecord(
        evaluation=task.metrics.evaluation(inputs, outcome.baseline, outcome.predictions),
        task=task.report.record(
            inputs, outcome.baseline, outcome.predictions, outcome.samples, reused=outcome.reused
        ).model_dump(mode="json", by_alias=True),
        best=tuned.best,
        history=tuned.history,
        curve=tuned.curve,
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


def upload(
    context: Context, outcome: Outcome, record: TrainingRecord, on_progress: Callable[[float], None]
) -> str:
    """Uploads the results to a new staging folder, the manifest last, and the predictions to the report.

    Args:
        context: the run.
        outcome: the results; the model is moved to the CPU, and converted to the published data type.
        record: the training record.
        on_progress: called with 0 before and with 1 after the upload.

    Returns:
        URI of the staging folder.
    """
    context.heartbeat.beat(Activity.SAVING)
    folder = context.paths.scratch / "staging"
    rmtree(folder, ignore_errors=True)
    model_folder = folder / MODEL_FOLDER
    folder.mkdir(parents=True)
    model: Any = move_to_device(torch.device("cpu"), outcome.model)
    _write_verification(context, model, folder / VERIFICATION)
    methods.save(model, model_folder, context.config.run.served_base_name, context.published_dtype)
    saved_files.complete(model_folder, context.base, generates=model.can_generate())
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


def _write_verification(context: Context, model: torch.nn.Module, path: Path) -> None:
    """Writes inputs and logits of test rows of all lengths; Publish computes the logits again.

    Both compute in float32, whose rounding depends little on the CPU.

    Args:
        context: the run.
        model: the tuned model on the CPU.
        path: path of the file.
    """
    test = context.prepared.test
    by_length = np.argsort(lengths(test), kind="stable")
    most = min(VERIFIED_ROWS, context.task.model.verified_rows(model, test))
    # A single row is the longest row; more rows are spread evenly from the longest to the shortest.
    sample = by_length[np.unique(np.linspace(len(test) - 1, 0, most).astype(np.int64))]
    inputs = context.collate(test, sample)
    logits = compute_logits(context.task.model, model, inputs)
    save_file({**inputs, LOGITS: logits.contiguous()}, path)


def _devices(context: Context) -> str:
    gang = context.gang
    if gang.device.type == "cuda":
        return f"{gang.world} x {torch.cuda.get_device_name()}"
    return f"{gang.world} CPU processes with {torch.get_num_threads()} threads each"
