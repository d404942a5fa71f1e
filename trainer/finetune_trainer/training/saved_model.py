"""Loads the saved model on rank 0: checks its predictions, and stores the logits that Publish compares."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from finetune_trainer.config import ComputeType, Lora
from finetune_trainer.contract import Activity, FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.models.collate import lengths
from finetune_trainer.models.merged_layers import merged_weights
from finetune_trainer.models.verify import LOGITS, MERGED_TOLERANCE, compute_in_float32
from finetune_trainer.tasks.base import Numbers, Predictions
from finetune_trainer.training.context import Context

VERIFIED_ROWS = 64
"""Maximum number of test rows whose logits Publish compares; a task may need fewer."""
_COMPARED_ROWS = 4
"""Number of test rows whose predictions are compared, the shortest rows of the verified rows."""
_TOLERANCE: dict[ComputeType, float] = {"float32": 1e-4, "bfloat16": 1e-1}
"""Maximum mean difference of predictions by data type of matrix products, relative to the mean prediction if
this is above 1. The saved model computes in float32. MERGED_TOLERANCE is added for a merged adapter."""


def verify(context: Context, folder: Path, predictions: Predictions, path: Path) -> None:
    """Compares the saved model with the measured model, and writes inputs and logits of test rows.

    The weights stay mapped from the files, and one layer at a time is converted to float32, whose rounding
    depends little on the CPU. Publish computes the same logits again.

    Args:
        context: the run.
        folder: folder of the saved model or adapter.
        predictions: predictions that were measured on the test rows, shape [rows, width].
        path: path of the file to write.

    Raises:
        StageFailure: Internal (the saved model does not load, or has other predictions).
    """
    method, task, test = context.config.run.method, context.task.model, context.prepared.test
    # Otherwise, transformers would shard the loaded model at ZeRO stage 3.
    unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]
    base = context.base if isinstance(method, Lora) else None
    model: Any = task.load_published(folder, base, context.published_dtype)
    rows = _select_rows(context, model)
    inputs = context.collate(test, rows)
    merges = isinstance(method, Lora) and method.merge
    with merged_weights(model, context.published_dtype) if merges else nullcontext():
        context.heartbeat.beat(Activity.SAVING)
        compared = rows[:_COMPARED_ROWS]
        found = compute_in_float32(task.predict, model, context.collate(test, compared))
        tolerance = _TOLERANCE[context.dtypes.products]
        tolerance += MERGED_TOLERANCE[context.dtypes.published] if merges else 0.0
        comparable = context.task.metrics.comparable
        _compare(comparable(predictions[compared]), comparable(found.numpy()), tolerance)
        context.heartbeat.beat(Activity.SAVING)
        logits = compute_in_float32(task.logits, model, inputs)
    save_file({**inputs, LOGITS: logits.contiguous()}, path)


def _select_rows(context: Context, model: torch.nn.Module) -> Numbers:
    """Selects test rows of all lengths, the shortest row first. A single row is the longest row."""
    test = context.prepared.test
    by_length = np.argsort(lengths(test), kind="stable")
    most = min(VERIFIED_ROWS, context.task.model.verified_rows(model, test))
    rows: Numbers = by_length[np.unique(np.linspace(len(test) - 1, 0, most).astype(np.int64))]
    return rows


def _compare(expected: Predictions, found: Predictions, tolerance: float) -> None:
    """Compares the predictions of the measured model with those of the saved model.

    Args:
        expected: comparable predictions of the measured model, shape [rows, width].
        found: comparable predictions of the saved model, of the same shape.
        tolerance: maximum mean difference, see _TOLERANCE.
    """
    difference = float(np.abs(found - expected).mean())
    allowed = tolerance * max(1.0, float(np.abs(expected).mean()))
    # A difference of NaN must fail too.
    if not difference <= allowed:
        raise StageFailure(
            FailureClass.INTERNAL,
            "SavedModelDiffers",
            f"the saved model gives other predictions than the model that was measured: they differ by"
            f" {difference:.2e} on average, at most {allowed:.2e} is allowed",
            "Nothing is published. Report this with config.json of the base model.",
        )
