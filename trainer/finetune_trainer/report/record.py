"""The training record: the results of Train for model card and report. Pure."""

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
    """Some optimizer steps in a row, the last of them named."""

    step: PositiveInt
    loss: FiniteFloat
    """Mean over their rows."""
    gradient_norm: FiniteFloat
    """The largest, before clipping."""
    learning_rate: FiniteFloat
    """After the last of them."""
    rows_per_second: Annotated[float, Field(ge=0)]
    """In these steps alone, over all ranks."""


class HeadInit(Model):
    """The linear probe from which a new head starts."""

    strength: FiniteFloat
    """Inverse strength of the L2 penalty (C), chosen by the validation rows."""
    validation: FiniteFloat
    """The primary metric of the probe on the validation rows."""
    rows: PositiveInt
    """Number of training rows that the probe saw."""


class TrainingRecord(Model):
    """Everything about a training run that a reader of its result may want to know."""

    evaluation: Evaluation
    task: dict[str, JsonValue] = {}
    """The task's own part, see `tasks.base.RecordingTaskReport.record`."""
    best: Best
    history: tuple[EvaluationRow, ...]
    curve: tuple[CurvePoint, ...] = ()
    """All steps in at most 200 points."""
    rows: dict[Literal["train", "validation", "test"], NonNegativeInt]
    parameters: PositiveInt
    head_init: HeadInit | None = None
    """None: the head started with random weights, or with those of the base model (`head_kept`)."""
    trained_parameters: PositiveInt | None = None
    """Those that training changed; None: a release before this one did not tell, and trained all."""
    method: MethodFacts = MethodFacts()
    """What the method did to the model."""
    head_kept: bool | None = None
    """Whether the class layer is the base model's; None: the task has none, or an older release trained."""
    needs_transformers_5: bool = True
    """Whether config.json says something that transformers 4 cannot read."""
    precision: ComputeType
    devices: str
    """What it ran on, for people."""
    training_seconds: Annotated[float, Field(ge=0)]
    """Optimizer steps and evaluations on validation rows."""
    rows_per_second: Annotated[float, Field(ge=0)]
    tokens_per_second: Annotated[float, Field(ge=0)]
    versions: dict[str, str]


def versions() -> dict[str, str]:
    """Versions of what computed the result."""
    known = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {"python": platform.python_version(), **known}
