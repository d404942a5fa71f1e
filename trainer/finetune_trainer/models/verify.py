"""Verifies a saved model: the files load, the weights are finite, and the logits equal those of Train."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from finetune_trainer.config import Lora, TrainConfig
from finetune_trainer.contract import FailureClass, WeightsDtype
from finetune_trainer.failures import StageFailure
from finetune_trainer.models import base_model, lora, methods, weights
from finetune_trainer.models.float32_layers import float32_layers
from finetune_trainer.models.merged_layers import merged_parameters
from finetune_trainer.paths import MODEL_FOLDER, VERIFICATION, Paths
from finetune_trainer.s3.digests import OnBytes, ignore_bytes

log = logging.getLogger(__name__)

LOGITS = "expected_logits"
"""Name of the logits in the verification file."""
TOLERANCE = 1e-5
"""Maximum difference of a logit, relative to the largest logit if this logit is above 1."""
MERGED_TOLERANCE: dict[WeightsDtype, float] = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 1e-3}
"""Tolerance for a merged adapter by published data type. Publish merges as Train does, but another CPU or GPU
can compute a sum that is rounded to the neighbouring number."""

_STAGED = "the files that Train stored, whose SHA-256 is right,"


class PublishableTask(Protocol):
    """The functions of a task that `verify` calls, see `tasks.base.TaskModel`."""

    def load_published(self, folder: Path, base: Path | None, dtype: torch.dtype) -> torch.nn.Module:
        """Loads a tuned model."""

    def logits(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Computes the logits that are compared."""


def verify(
    config: TrainConfig,
    task: PublishableTask,
    paths: Paths,
    staged: Path,
    dtype: WeightsDtype,
    on_bytes: OnBytes = ignore_bytes,
) -> tuple[Path, float]:
    """Loads the staged model and compares its logits with the logits of Train; optionally merges an adapter.

    The comparison is in float32, which represents the published weights exactly. An adapter is loaded into
    the base model from S3. If the job requests merging, the adapter is merged, and the merged model is saved,
    loaded and compared.

    Args:
        config: the configuration of the trainer.
        task: the task of the run.
        paths: paths of the pod.
        staged: folder of the staged files.
        dtype: data type of the published weights.
        on_bytes: called with the number of transferred bytes of the base model.

    Returns:
        The folder of the model to publish, and the largest difference of a logit of this model.

    Raises:
        StageFailure: Internal (the model does not load, or has other logits), Numerical (a weight is not
            finite), Storage or UserConfig (ModelChanged) for the base model of an adapter.
    """
    method = config.run.method
    folder, verification = staged / MODEL_FOLDER, staged / VERIFICATION
    base = base_model.fetch(config, paths, on_bytes)[0] if isinstance(method, Lora) else None
    weights_dtype = weights.torch_dtype(dtype)
    tuned: Any = task.load_published(folder, base, weights_dtype)
    if not isinstance(method, Lora) or not method.merge:
        return folder, _compare(task, tuned, verification, TOLERANCE, _STAGED)
    whole = paths.scratch / "merged"
    rmtree(whole, ignore_errors=True)
    merged = merged_parameters(tuned, weights_dtype)
    tuned = lora.remove_adapter(tuned)
    methods.save(tuned, whole, config.run.served_base_name, weights_dtype, merged)
    del tuned, merged
    base_model.copy_files(folder, whole)
    reloaded = task.load_published(whole, None, weights_dtype)
    return whole, _compare(task, reloaded, verification, MERGED_TOLERANCE[dtype], "the merged files")


def compute_in_float32(
    compute: Callable[[torch.nn.Module, dict[str, torch.Tensor]], torch.Tensor],
    model: torch.nn.Module,
    inputs: dict[str, torch.Tensor],
) -> torch.Tensor:
    """Runs a model in float32, without a float32 copy of all weights where the architecture permits this.

    Args:
        compute: maps model and inputs to numbers, such as logits.
        model: the model on the CPU.
        inputs: inputs of the model.

    Returns:
        The result of `compute`, such as shape [rows, width].
    """
    with torch.no_grad():
        try:
            with float32_layers(model):
                return compute(model, inputs)
        except RuntimeError as error:
            log.info(
                "all weights are converted to float32, because a module uses those of another: %s", error
            )
            return compute(model.float(), inputs)


def _compare(
    task: PublishableTask, model: torch.nn.Module, verification: Path, tolerance: float, files: str
) -> float:
    """Computes the logits of the stored rows, and returns the largest difference of a logit.

    Args:
        task: the task of the model.
        model: the loaded model.
        verification: safetensors file with the inputs of the model and LOGITS, shape [rows, width].
        tolerance: maximum difference, see TOLERANCE.
        files: description of the model files in messages.
    """
    if non_finite := weights.list_non_finite(model):
        raise StageFailure(
            FailureClass.NUMERICAL,
            "NonFiniteWeights",
            f"{len(non_finite)} weights of the tuned model are not finite, first of all {non_finite[0]}",
            "lower training.learningRate, or use precision Float32",
        )
    try:
        stored = load_file(verification)
        expected = stored.pop(LOGITS)
        computed = compute_in_float32(task.logits, model, stored)
    except (SafetensorError, KeyError) as error:
        raise StageFailure(
            FailureClass.INTERNAL, "VerificationUnreadable", f"{verification.name} cannot be used: {error}"
        ) from error
    difference = float((computed - expected).abs().max())
    allowed = tolerance * max(1.0, float(expected.abs().max()))
    # A difference of NaN, or logits that are not finite, must fail too.
    if not difference <= allowed < math.inf:
        raise StageFailure(
            FailureClass.INTERNAL,
            "VerificationFailed",
            f"the model loaded from {files} gives other logits than the model that Train saved: they"
            f" differ by {difference:.2e}, at most {allowed:.2e} is allowed",
            "Nothing is published. Either this architecture is not loaded as it was saved, or this node"
            " computes otherwise than the node of Train. Report this with config.json of the base model.",
        )
    return difference
