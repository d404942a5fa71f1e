"""Verifies a saved model: it loads, its weights are finite, and its logits are those of training."""

import logging
import math
from pathlib import Path
from shutil import copyfile, rmtree
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from finetune_trainer.config import Lora, TrainConfig
from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.models import base_model, lora, older_readers, weights
from finetune_trainer.paths import MODEL_FOLDER, VERIFICATION, Paths
from finetune_trainer.s3.digests import OnBytes, ignore_bytes

log = logging.getLogger(__name__)

LOGITS = "expected_logits"
"""Name of the logits among the stored inputs."""
TOLERANCE = 1e-5
"""Largest difference of a logit, relative to the largest logit where that is above 1."""
MERGED_TOLERANCE = 1e-3
"""The same for a model whose adapter was merged: its products are rounded in another order."""

_STAGED = "the files that Train stored, whose SHA-256 is right,"


class Published(Protocol):
    """The functions of a task that `verify` calls, see `tasks.base.TaskModel`."""

    def load_published(self, folder: Path, base: Path | None) -> torch.nn.Module:
        """Loads a tuned model."""

    def logits(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Computes the logits that are compared."""


def verify(
    config: TrainConfig, task: Published, paths: Paths, staged: Path, on_bytes: OnBytes = ignore_bytes
) -> tuple[Path, float]:
    """Loads what Train staged from its files alone and compares its logits; merges an adapter if asked.

    An adapter is compared on the base model as it is in S3 now; merging begins with what was compared, and
    what is merged is saved, loaded and compared again.

    Args:
        config: the trainer's input.
        task: of the run.
        paths: of this pod.
        staged: what Train staged.
        on_bytes: is told of the bytes of the base model that move.

    Returns:
        The folder of the model that may be published, and the largest difference of a logit of it.

    Raises:
        StageFailure: Internal (does not load, other logits), Numerical (a weight that is no number), Storage
            or UserConfig (ModelChanged) where the base model is needed.
    """
    method = config.run.method
    folder, verification = staged / MODEL_FOLDER, staged / VERIFICATION
    base = base_model.fetch(config, paths, on_bytes)[0] if isinstance(method, Lora) else None
    tuned: Any = task.load_published(folder, base)
    difference = _compare(task, tuned, verification, TOLERANCE, _STAGED)
    if not isinstance(method, Lora) or not method.merge:
        return folder, difference
    log.info("the adapter on the base model: the largest difference of a logit is %.1e", difference)
    whole = paths.scratch / "merged"
    rmtree(whole, ignore_errors=True)
    model = lora.merged(tuned)
    model.config.name_or_path = ""
    model.save_pretrained(whole)
    older_readers.add_old_keys(whole)
    del tuned, model
    for name in base_model.TOKENIZER_FILES:
        if (folder / name).is_file():
            copyfile(folder / name, whole / name)
    return whole, _compare(
        task, task.load_published(whole, None), verification, MERGED_TOLERANCE, "the merged files"
    )


def _compare(
    task: Published, model: torch.nn.Module, verification: Path, tolerance: float, files: str
) -> float:
    """Computes the stored rows again; returns the largest difference of a logit.

    Args:
        task: of the model.
        model: from its files.
        verification: inputs as the task collates them, and LOGITS, shape [rows, width] (safetensors).
        tolerance: see TOLERANCE.
        files: which files the model was loaded from, for people.
    """
    if spoilt := weights.not_finite(model):
        raise StageFailure(
            FailureClass.NUMERICAL,
            "NonFiniteWeights",
            f"{len(spoilt)} weights of the tuned model are not finite, first of all {spoilt[0]}",
            "lower training.learningRate, or use precision Float32",
        )
    try:
        stored = load_file(verification)
        expected = stored.pop(LOGITS)
        with torch.no_grad():
            computed = task.logits(model, stored)
    except (SafetensorError, KeyError) as error:
        raise StageFailure(
            FailureClass.INTERNAL, "VerificationUnreadable", f"{verification.name} cannot be used: {error}"
        ) from error
    difference = float((computed - expected).abs().max())
    allowed = tolerance * max(1.0, float(expected.abs().max()))
    # Written so that a difference of NaN fails too, and logits that are not finite.
    if not difference <= allowed < math.inf:
        raise StageFailure(
            FailureClass.INTERNAL,
            "VerificationFailed",
            f"the model loaded from {files} gives other logits than the model in the memory of Train: they"
            f" differ by {difference:.2e}, at most {allowed:.2e} is allowed",
            "Nothing is published. Either this architecture is not loaded as it was saved, or this node"
            " computes otherwise than the node of Train. Report this with config.json of the base model.",
        )
    return difference
