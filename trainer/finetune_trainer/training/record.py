"""What a training run leaves for the model card and the report. Pure."""

import importlib.metadata
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt

from finetune_trainer.contract import Best, Evaluation, Interval, Model
from finetune_trainer.training.metrics import Answers, Contestant, by_class, confusion, flips

MODEL_FOLDER, RECORD, VERIFICATION = "model", "record.json", "verification.safetensors"
PREDICTIONS = "predictions.jsonl"
"""What a staging folder holds."""

_LIBRARIES = ("torch", "transformers", "deepspeed", "accelerate", "scikit-learn", "safetensors", "numpy")


class ClassRow(Model):
    """One class as one model sees it."""

    label: str
    precision: FiniteFloat
    recall: FiniteFloat
    f1: FiniteFloat
    support: NonNegativeInt
    """Test rows of this class."""


class EpochRow(Model):
    """What was known when an epoch was over."""

    epoch: PositiveInt
    step: PositiveInt
    training_loss: FiniteFloat
    """Mean over the rows since the row before."""
    validation: FiniteFloat
    """Primary metric on the validation rows."""


class ProbeFacts(Model):
    """How the linear probe was fitted."""

    strength: FiniteFloat
    validation: FiniteFloat
    rows: PositiveInt
    reused: bool
    """Whether an earlier attempt had measured it."""


class TrainingRecord(Model):
    """Everything about a training run that a reader of its result may want to know."""

    labels: tuple[str, ...]
    evaluation: Evaluation
    confusion: dict[Contestant, tuple[tuple[NonNegativeInt, ...], ...]]
    """Row: true class; column: predicted class; both in the order of `labels`."""
    classes: dict[Contestant, tuple[ClassRow, ...]]
    fixed: NonNegativeInt
    """Test rows that the tuned model has right and the linear probe wrong."""
    broken: NonNegativeInt
    """Test rows that the tuned model has wrong and the linear probe right."""
    probe: ProbeFacts
    best: Best
    history: tuple[EpochRow, ...]
    rows: dict[Literal["train", "validation", "test"], NonNegativeInt]
    parameters: PositiveInt
    precision: Literal["float32", "bfloat16"]
    devices: str
    """What it ran on, for people."""
    training_seconds: Annotated[float, Field(ge=0)]
    """Optimizer steps and evaluations on validation rows."""
    rows_per_second: Annotated[float, Field(ge=0)]
    tokens_per_second: Annotated[float, Field(ge=0)]
    versions: dict[str, str]


def sentence(evaluation: Evaluation) -> str:
    """What was reached, in one sentence that stays true when tuning made things worse."""
    name = evaluation.primary_metric
    tuned, delta = evaluation.tuned, evaluation.delta
    if tuned is None or delta is None:
        return f"{name} of the linear probe {evaluation.baseline.primary:.4f}; nothing was tuned."
    gain = delta.metrics[name]
    return (
        f"{name} {tuned.primary:.4f} on {evaluation.rows} test rows: {verdict(gain)} the linear probe's "
        f"{evaluation.baseline.primary:.4f} by {abs(gain.value):.4f} "
        f"(95 % interval of the difference {gain.low:+.4f} to {gain.high:+.4f}); "
        f"the majority class reaches {evaluation.majority.primary:.4f}."
    )


def verdict(gain: Interval) -> str:
    """Better or worse than, and whether the test rows can tell."""
    if gain.value == gain.low == gain.high == 0:
        return "equal to"
    direction = "better than" if gain.value > 0 else "worse than"
    return direction if gain.low > 0 or gain.high < 0 else f"not distinguishably {direction}"


def versions() -> dict[str, str]:
    """Versions of what computed the result."""
    known = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {"python": platform.python_version(), **known}


def confusions(
    truth: Answers, answers: Mapping[Contestant, Answers], classes: int
) -> dict[Contestant, tuple[tuple[int, ...], ...]]:
    """The confusion matrix of each model as plain numbers."""
    return {
        model: tuple(tuple(int(cell) for cell in row) for row in confusion(truth, predicted, classes))
        for model, predicted in answers.items()
    }


def class_rows(
    truth: Answers, answers: Mapping[Contestant, Answers], labels: Sequence[str]
) -> dict[Contestant, tuple[ClassRow, ...]]:
    """Per-class figures of each model as documents."""
    return {
        model: tuple(ClassRow(**vars(figures)) for figures in by_class(truth, predicted, labels))
        for model, predicted in answers.items()
    }


def flipped(truth: Answers, answers: Mapping[Contestant, Answers]) -> dict[str, int]:
    """Rows that tuning fixed and broke, against the linear probe."""
    return flips(truth, answers["baseline"], answers["tuned"])


def prediction_lines(
    rows: npt.NDArray[np.int64],
    truth: Answers,
    answers: Mapping[Contestant, Answers],
    logits: npt.NDArray[np.float32],
    labels: Sequence[str],
) -> Iterator[str]:
    """One JSON line a test row: everything needed to compute every metric again.

    Args:
        rows: 1-based line of each row in its source file, shape [rows].
        truth: true classes, shape [rows].
        answers: predicted classes of each model, shape [rows].
        logits: of the tuned model, shape [rows, classes].
        labels: class names.
    """
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    for place, row in enumerate(rows):
        line = {
            "row": int(row),
            "label": labels[truth[place]],
            "majority": labels[answers["majority"][place]],
            "linearProbe": labels[answers["baseline"][place]],
            "tuned": labels[answers["tuned"][place]],
            "probabilities": {
                label: round(float(value), 6)
                for label, value in zip(labels, probabilities[place], strict=True)
            },
        }
        yield json.dumps(line, ensure_ascii=False)
