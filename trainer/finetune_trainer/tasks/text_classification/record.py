"""PURE: the part of the training record for text classification."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import FiniteFloat, NonNegativeInt, PositiveInt

from finetune_trainer.contract import Model
from finetune_trainer.tasks.bootstrap import ModelRole
from finetune_trainer.tasks.text_classification.metrics import Predicted, confusion, score_classes

Kind = Literal["fixed", "broken", "wrong"]
"""Only the tuned model is correct, only the linear probe is correct, or both are wrong."""
EXAMPLES, EXCERPT = 6, 400
"""Maximum number of examples of each kind, and of characters of a text."""


class ClassRow(Model):
    """The scores of a model for one class."""

    label: str
    precision: FiniteFloat
    recall: FiniteFloat
    f1: FiniteFloat
    support: NonNegativeInt
    """Number of test rows of this class."""


class ProbeFacts(Model):
    """The fit of the linear probe."""

    strength: FiniteFloat
    validation: FiniteFloat
    rows: PositiveInt
    reused: bool
    """Whether an earlier attempt measured the baseline."""


class ExampleRow(Model):
    """A test row for which the models disagree or are both wrong."""

    kind: Kind
    file: str
    """Path below the folder that all files of the split share."""
    line: PositiveInt
    """1-based line in the file."""
    text: str
    """Start of the text, decoded from the tokens."""
    label: str
    probe: str
    """Prediction of the linear probe."""
    tuned: str
    """Prediction of the tuned model."""
    probability: FiniteFloat
    """Probability of the prediction of the tuned model."""


class ClassificationFacts(Model):
    """The scores of each model for each class."""

    labels: tuple[str, ...]
    confusion: dict[ModelRole, tuple[tuple[NonNegativeInt, ...], ...]]
    """Confusion matrix of each model: a row for each true class, a column for each predicted class."""
    classes: dict[ModelRole, tuple[ClassRow, ...]]
    fixed: NonNegativeInt
    """Number of test rows that only the tuned model predicts correctly."""
    broken: NonNegativeInt
    """Number of test rows that only the linear probe predicts correctly."""
    probe: ProbeFacts
    examples: tuple[ExampleRow, ...] = ()
    """The examples of each kind with the highest probability."""


def build_confusions(
    truth: Predicted, predictions: Mapping[ModelRole, Predicted], classes: int
) -> dict[ModelRole, tuple[tuple[int, ...], ...]]:
    """Builds the confusion matrix of each model."""
    return {
        model: tuple(tuple(int(cell) for cell in row) for row in confusion(truth, predicted, classes))
        for model, predicted in predictions.items()
    }


def build_class_rows(
    truth: Predicted, predictions: Mapping[ModelRole, Predicted], labels: Sequence[str]
) -> dict[ModelRole, tuple[ClassRow, ...]]:
    """Builds the scores of each model for each class."""
    return {
        model: tuple(ClassRow(**vars(figures)) for figures in score_classes(truth, predicted, labels))
        for model, predicted in predictions.items()
    }


def format_prediction_lines(
    locations: Sequence[tuple[str, int]],
    truth: Predicted,
    predictions: Mapping[ModelRole, Predicted],
    logits: npt.NDArray[np.float32],
    labels: Sequence[str],
) -> Iterator[str]:
    """Yields one JSON line for each test row, with the data from which all metrics can be computed.

    Args:
        locations: file and 1-based line of each row.
        truth: true classes, shape [rows].
        predictions: predicted classes of each model, shape [rows].
        logits: logits of the tuned model, shape [rows, classes].
        labels: class names.
    """
    probabilities = _softmax(logits)
    for row, (file, line) in enumerate(locations):
        document = {
            "file": file,
            "line": line,
            "label": labels[truth[row]],
            "majority": labels[predictions["majority"][row]],
            "linearProbe": labels[predictions["baseline"][row]],
            "tuned": labels[predictions["tuned"][row]],
            "probabilities": {
                label: round(float(value), 6) for label, value in zip(labels, probabilities[row], strict=True)
            },
        }
        yield json.dumps(document, ensure_ascii=False)


def select_examples(
    locations: Sequence[tuple[str, int]],
    truth: Predicted,
    predictions: Mapping[ModelRole, Predicted],
    logits: npt.NDArray[np.float32],
    labels: Sequence[str],
    text: Callable[[int], str],
) -> tuple[ExampleRow, ...]:
    """Selects the examples of each kind with the highest probability.

    Args:
        locations: file and 1-based line of each row.
        truth: true classes, shape [rows].
        predictions: predicted classes of each model, shape [rows].
        logits: logits of the tuned model, shape [rows, classes].
        labels: class names.
        text: returns the text of a row by its index.
    """
    sure = _softmax(logits).max(axis=1)
    before, after = predictions["baseline"] == truth, predictions["tuned"] == truth
    masks: dict[Kind, npt.NDArray[np.bool_]] = {
        "fixed": ~before & after,
        "broken": before & ~after,
        "wrong": ~before & ~after,
    }
    surest = np.argsort(-sure, kind="stable")
    return tuple(
        ExampleRow(
            kind=kind,
            file=locations[row][0],
            line=locations[row][1],
            text=text(int(row))[:EXCERPT],
            label=labels[truth[row]],
            probe=labels[predictions["baseline"][row]],
            tuned=labels[predictions["tuned"][row]],
            probability=round(float(sure[row]), 6),
        )
        for kind in get_args(Kind)
        for row in surest[masks[kind][surest]][:EXAMPLES]
    )


def _softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Computes a numerically stable softmax over the classes, shape [rows, classes]."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities: npt.NDArray[np.float64] = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities
