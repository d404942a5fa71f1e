"""A saved model against what training saw: it loads, it is finite, it gives the same logits."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.models import weights
from finetune_trainer.tasks.protocol import Learning

LOGITS = "expected_logits"
"""Name of the logits among the stored inputs."""
TOLERANCE = 1e-5
"""Largest difference of a logit, relative to the largest logit where that is above 1."""


def verify(learning: Learning, model_folder: Path, verification: Path) -> float:
    """Loads the model from its files alone and computes the stored rows again.

    Args:
        learning: of the task.
        model_folder: the saved model.
        verification: inputs as the task collates them, and LOGITS, shape [rows, width] (safetensors).

    Returns:
        The largest difference of a logit.

    Raises:
        StageFailure: Internal (does not load, other logits), Numerical (a weight that is no number).
    """
    model = learning.load_published(model_folder)
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
            computed = learning.logits(model, stored)
    except (SafetensorError, KeyError) as error:
        raise StageFailure(
            FailureClass.INTERNAL, "VerificationUnreadable", f"{verification.name} cannot be used: {error}"
        ) from error
    difference = float((computed - expected).abs().max())
    allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
    # Written so that a difference of NaN fails too.
    if not difference <= allowed:
        raise StageFailure(
            FailureClass.INTERNAL,
            "VerificationFailed",
            f"the model loaded from its files differs from the trained one: logits by {difference:.2e}, "
            f"at most {allowed:.2e} is allowed",
            "apply the job again; if it comes back, the store or a node damages data",
        )
    return difference
