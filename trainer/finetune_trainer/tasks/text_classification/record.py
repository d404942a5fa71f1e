"""The classifier's part of the training record. Pure."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import FiniteFloat, NonNegativeInt, PositiveInt

from finetune_trainer.contract import Model
from finetune_trainer.tasks.bootstrap import ModelRole
from finetune_trainer.tasks.text_classification.metrics import Predicted, by_class, confusion

Kind = Literal["fixed", "broken", "wrong"]
"""Only the tuned model is right, only the linear probe is, neither is."""
EXAMPLES, EXCERPT = 6, 400
"""Examples of each kind, and letters of a text that are kept."""


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


class ExampleRow(Model):
    """A test row about which the models disagree, or are both wrong."""

    kind: Kind
    file: str
    """Path below the folder that all files of its split share."""
    line: PositiveInt
    """1-based, in this file."""
    text: str
    """The start of it, as the model read it."""
    label: str
    probe: str
    """What the linear probe answers."""
    tuned: str
    """What the tuned model answers."""
    probability: FiniteFloat
    """Which the tuned model gives its answer."""


class ClassificationFacts(Model):
    """The classes, one by one, as each model sees them."""

    labels: tuple[str, ...]
    confusion: dict[ModelRole, tuple[tuple[NonNegativeInt, ...], ...]]
    """Row: true class; column: predicted class; both in the order of `labels`."""
    classes: dict[ModelRole, tuple[ClassRow, ...]]
    fixed: NonNegativeInt
    """Test rows that the tuned model has right and the linear probe wrong."""
    broken: NonNegativeInt
    """Test rows that the tuned model has wrong and the linear probe right."""
    probe: ProbeFacts
    examples: tuple[ExampleRow, ...] = ()
    """Of each kind those that the tuned model is surest about."""


def confusions(
    truth: Predicted, predictions: Mapping[ModelRole, Predicted], classes: int
) -> dict[ModelRole, tuple[tuple[int, ...], ...]]:
    """The confusion matrix of each model as plain numbers."""
    return {
        model: tuple(tuple(int(cell) for cell in row) for row in confusion(truth, predicted, classes))
        for model, predicted in predictions.items()
    }


def class_rows(
    truth: Predicted, predictions: Mapping[ModelRole, Predicted], labels: Sequence[str]
) -> dict[ModelRole, tuple[ClassRow, ...]]:
    """Per-class figures of each model as documents."""
    return {
        model: tuple(ClassRow(**vars(figures)) for figures in by_class(truth, predicted, labels))
        for model, predicted in predictions.items()
    }


def lines(
    locations: Sequence[tuple[str, int]],
    truth: Predicted,
    predictions: Mapping[ModelRole, Predicted],
    logits: npt.NDArray[np.float32],
    labels: Sequence[str],
) -> Iterator[str]:
    """One JSON line a test row: everything needed to compute every metric again.

    Args:
        locations: file and 1-based line of each row.
        truth: true classes, shape [rows].
        predictions: predicted classes of each model, shape [rows].
        logits: of the tuned model, shape [rows, classes].
        labels: class names.
    """
    probabilities = _probabilities(logits)
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


def examples(
    locations: Sequence[tuple[str, int]],
    truth: Predicted,
    predictions: Mapping[ModelRole, Predicted],
    logits: npt.NDArray[np.float32],
    labels: Sequence[str],
    text: Callable[[int], str],
) -> tuple[ExampleRow, ...]:
    """Rows to look at, the surest answers of each kind first.

    Args:
        locations: file and 1-based line of each row.
        truth: true classes, shape [rows].
        predictions: predicted classes of each model, shape [rows].
        logits: of the tuned model, shape [rows, classes].
        labels: class names.
        text: tells the text of a row by its number, counted from 0.
    """
    sure = _probabilities(logits).max(axis=1)
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


def _probabilities(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Softmax over the classes; huge logits do no harm."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities: npt.NDArray[np.float64] = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities
