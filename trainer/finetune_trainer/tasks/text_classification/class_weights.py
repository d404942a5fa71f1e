"""Computes the weights of the classes in the loss. Imports no torch."""

from typing import Any

import numpy as np
import numpy.typing as npt

from finetune_trainer.config import ClassWeights


def class_weights(
    kind: ClassWeights, labels: npt.NDArray[np.integer[Any]], classes: int
) -> npt.NDArray[np.float64] | None:
    """Computes the factor of the loss for the rows of each class.

    `Balanced` is n / (k * n_c) for n rows, of which n_c rows have class c, and k classes with rows, so that
    all classes contribute equally to the loss (King and Zeng 2001). `SquareRoot` is the square root of
    `Balanced`, divided by the mean over the rows. In both cases the mean over the rows is 1, and a class
    without rows has the weight 0.

    Args:
        kind: `spec.training.classWeights`.
        labels: class number of each training row, shape [rows].
        classes: number of classes.

    Returns:
        Weights, shape [classes]; None for unweighted losses.
    """
    if kind == "None":
        return None
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    has_rows = counts > 0
    weights = np.zeros(classes, dtype=np.float64)
    weights[has_rows] = len(labels) / (has_rows.sum() * counts[has_rows])
    if kind == "SquareRoot":
        weights = np.sqrt(weights)
        weights /= (weights * counts).sum() / counts.sum()
    return weights
