"""The result of a training, and its comparison with the result of a training without faults."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load

from finetune_trainer.contract import TerminationMessage, TrainPayload
from finetune_trainer.paths import MODEL_FOLDER, RECORD
from finetune_trainer.report.record import TrainingRecord
from finetune_trainer.s3.store import Store

TOLERANCE = 1e-6
"""Maximum relative difference at another world size."""


@dataclass(frozen=True)
class Result:
    """The loss curve, the evaluations and the weights of a training."""

    curve: tuple[tuple[float, ...], ...]
    """For each point: step, loss, gradient norm, learning rate."""
    history: tuple[tuple[float, ...], ...]
    """For each evaluation: epoch, step, training loss, validation metric."""
    weights: dict[str, bytes]
    """The safetensors files of the tuned model."""


def read_result(store: Store, message: TerminationMessage) -> Result:
    """Reads the result from the staging folder.

    Args:
        store: the output store.
        message: the termination message of Train.
    """
    payload = message.payload
    assert isinstance(payload, TrainPayload)  # noqa: S101 - the message of a success of Train
    record = TrainingRecord.model_validate_json(store.read(payload.staging + RECORD))
    entries = [entry.uri for entry in store.list(f"{payload.staging}{MODEL_FOLDER}/")]
    return Result(
        tuple((point.step, point.loss, point.gradient_norm, point.learning_rate) for point in record.curve),
        tuple((row.epoch, row.step, row.training_loss, row.validation) for row in record.history),
        {uri.rpartition("/")[2]: store.read(uri) for uri in entries if uri.endswith(".safetensors")},
    )


def differences(found: Result, expected: Result, *, same_world: bool) -> list[str]:
    """Compares two results. Returns a sentence for each difference.

    Args:
        found: the result after a fault.
        expected: the result without faults.
        same_world: whether the results must be equal; else they may differ by TOLERANCE.
    """
    if same_world:
        pairs: dict[str, tuple[Any, Any]] = {
            "loss curve": (found.curve, expected.curve),
            "evaluations": (found.history, expected.history),
            "weights": (found.weights, expected.weights),
        }
        return [f"the {name} differs" for name, (one, other) in pairs.items() if one != other]
    measured = {
        "loss curve": _difference(_losses(found), _losses(expected)),
        "weights": max(
            _difference(load(found.weights[name])[key], values)
            for name, content in expected.weights.items()
            for key, values in load(content).items()
        ),
    }
    return [
        f"the {name} differs by {value:.1e} (relative)"
        for name, value in measured.items()
        if value > TOLERANCE
    ]


def _losses(result: Result) -> npt.NDArray[Any]:
    return np.array([loss for _, loss, *_ in result.curve])


def _difference(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """The largest difference, relative to the largest value; infinite if the shapes differ."""
    if one.shape != other.shape:
        return float("inf")
    return float(np.abs(one - other).max() / max(np.abs(other).max(), np.finfo(np.float64).tiny))
