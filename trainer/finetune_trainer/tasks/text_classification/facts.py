"""What a classifier's training leaves for the model card and the report. Pure."""

import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from pydantic import FiniteFloat, NonNegativeInt, PositiveInt

from finetune_trainer.contract import Model
from finetune_trainer.tasks.text_classification.metrics import Contestant, Predicted, by_class, confusion


class ClassRow(Model):
    """One class as one model sees it."""

    label: str
    precision: FiniteFloat
    recall: FiniteFloat
    f1: FiniteFloat
    support: NonNegativeInt
    """Test rows of this class."""


class ProbeFacts(Model):
    """How the linear probe was fitted."""

    strength: FiniteFloat
    validation: FiniteFloat
    rows: PositiveInt
    reused: bool
    """Whether an earlier attempt had measured it."""


class ClassificationFacts(Model):
    """The classes, one by one, as each model sees them."""

    labels: tuple[str, ...]
    confusion: dict[Contestant, tuple[tuple[NonNegativeInt, ...], ...]]
    """Row: true class; column: predicted class; both in the order of `labels`."""
    classes: dict[Contestant, tuple[ClassRow, ...]]
    fixed: NonNegativeInt
    """Test rows that the tuned model has right and the linear probe wrong."""
    broken: NonNegativeInt
    """Test rows that the tuned model has wrong and the linear probe right."""
    probe: ProbeFacts


def confusions(
    truth: Predicted, answers: Mapping[Contestant, Predicted], classes: int
) -> dict[Contestant, tuple[tuple[int, ...], ...]]:
    """The confusion matrix of each model as plain numbers."""
    return {
        model: tuple(tuple(int(cell) for cell in row) for row in confusion(truth, predicted, classes))
        for model, predicted in answers.items()
    }


def class_rows(
    truth: Predicted, answers: Mapping[Contestant, Predicted], labels: Sequence[str]
) -> dict[Contestant, tuple[ClassRow, ...]]:
    """Per-class figures of each model as documents."""
    return {
        model: tuple(ClassRow(**vars(figures)) for figures in by_class(truth, predicted, labels))
        for model, predicted in answers.items()
    }


def prediction_lines(
    rows: npt.NDArray[np.int64],
    truth: Predicted,
    answers: Mapping[Contestant, Predicted],
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
