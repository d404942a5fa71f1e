"""PURE: the training record, which contains the results of Train for model card and report page."""

import importlib.metadata
import platform
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, JsonValue, NonNegativeInt, PositiveFloat, PositiveInt

from finetune_trainer.config import ComputeType
from finetune_trainer.contract import Best, Evaluation, Model
from finetune_trainer.models.method_facts import MethodFacts

_LIBRARIES = (
    "torch",
    "transformers",
    "deepspeed",
    "accelerate",
    "peft",
    "scikit-learn",
    "safetensors",
    "numpy",
)


class EvaluationRow(Model):
    """An evaluation of the validation rows during training."""

    epoch: PositiveFloat
    """Epochs that were completed, such as 1.5."""
    step: PositiveInt
    training_loss: FiniteFloat
    """Mean over the training rows since the previous evaluation."""
    validation: FiniteFloat
    """Primary metric on the validation rows."""


class CurvePoint(Model):
    """Consecutive optimizer steps; `step` is the last step."""

    step: PositiveInt
    loss: FiniteFloat
    """Mean loss of the rows of these steps."""
    gradient_norm: FiniteFloat
    """Maximum gradient norm before clipping."""
    learning_rate: FiniteFloat
    """Learning rate after the last step."""
    rows_per_second: Annotated[float, Field(ge=0)]
    """Rows of all ranks for each second of these steps."""


class HeadInit(Model):
    """The linear probe from which a new head starts."""

    strength: FiniteFloat
    """Inverse strength of the L2 penalty (C), selected on the validation rows."""
    validation: FiniteFloat
    """The primary metric of the probe on the validation rows."""
    rows: PositiveInt
    """Number of training rows of the probe."""


class TrainingRecord(Model):
    """The results and properties of a training run."""

    evaluation: Evaluation
    task: dict[str, JsonValue] = {}
    """The part of the task, see `tasks.base.RecordingTaskReport.record`."""
    best: Best
    history: tuple[EvaluationRow, ...]
    curve: tuple[CurvePoint, ...] = ()
    """All steps in at most 200 points."""
    rows: dict[Literal["train", "validation", "test"], NonNegativeInt]
    parameters: PositiveInt
    ended_early: PositiveInt | None = None
    """Last optimizer step of a training that was ended before its last planned step."""
    skipped_step: PositiveInt | None = None
    """Optimizer step that changed no weights, because its loss or gradient was not finite."""
    head_init: HeadInit | None = None
    """None if the head started with random weights or with the weights of the base model (`head_kept`)."""
    trained_parameters: PositiveInt | None = None
    """Number of trained parameters; None in records of older releases, which trained all parameters."""
    method: MethodFacts = MethodFacts()
    """The effects of the method."""
    head_kept: bool | None = None
    """Whether the classification layer of the base model was kept; None without such a layer, or in records
    of older releases."""
    needs_transformers_5: bool = True
    """Whether config.json says something that transformers 4 cannot read."""
    precision: ComputeType
    """Data type of matrix products."""
    weights: ComputeType = "float32"
    """Data type of the weights in the memory of Train."""
    devices: str
    """Description of the devices."""
    training_seconds: Annotated[float, Field(ge=0)]
    """Duration of the optimizer steps and the evaluations on validation rows."""
    rows_per_second: Annotated[float, Field(ge=0)]
    tokens_per_second: Annotated[float, Field(ge=0)]
    versions: dict[str, str]


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries."""
    installed = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {"python": platform.python_version(), **installed}
