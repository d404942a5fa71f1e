"""Weights of the classes in the loss. No torch."""

from typing import Any

import numpy as np
import numpy.typing as npt

from finetune_trainer.config import ClassWeights


def class_weights(
    kind: ClassWeights, labels: npt.NDArray[np.integer[Any]], classes: int
) -> npt.NDArray[np.float64] | None:
    """The factor of the loss of each class's rows, shape [classes]; None: 1 for each.

    `Balanced` is n / (k * n_c) for n rows, of which n_c have the class c, and k classes that have rows: all
    classes have the same part in the loss (King and Zeng 2001). `SquareRoot` is the square root of that,
    divided by the mean over the rows. In both cases the mean over the rows is 1; a class without rows has 0.

    Args:
        kind: `spec.training.classWeights`.
        labels: class number of each training row, shape [rows].
        classes: number of classes.
    """
    if kind == "None":
        return None
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    there = counts > 0
    weights = np.zeros(classes, dtype=np.float64)
    weights[there] = len(labels) / (there.sum() * counts[there])
    if kind == "SquareRoot":
        weights = np.sqrt(weights)
        weights /= (weights * counts).sum() / counts.sum()
    return weights
