"""Fits a linear probe: a logistic regression on frozen features, selected on the validation rows."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from finetune_trainer.contract import MetricName
from finetune_trainer.models.logistic_regression import LinearClassifier, Peers, Rows, compute_scaling, fit
from finetune_trainer.tasks.text_classification.metrics import measure

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Candidates for the inverse strength of the L2 penalty."""
PROBE_ROWS = 20_000
"""Maximum number of training rows of a probe; more rows improve a logistic regression little."""


@dataclass(frozen=True)
class LinearProbe:
    """The probe with the best score on the validation rows."""

    classifier: LinearClassifier
    strength: float
    validation: float
    """The primary metric on the validation rows."""
    rows: int
    """Number of training rows of the probe."""


def find_most_frequent_class(labels: Labels) -> int:
    """Returns the most frequent class; the lowest class number in a tie."""
    return int(np.bincount(labels).argmax())


def draw_probe_rows(labels: Labels, seed: int) -> npt.NDArray[np.int64]:
    """Draws the training rows of a probe: all rows, or PROBE_ROWS random rows.

    The first row of each class without drawn rows is added, so that the probe can predict every class.

    Args:
        labels: class of each training row, shape [rows].
        seed: seed of the run.

    Returns:
        Row numbers, ascending.
    """
    if len(labels) <= PROBE_ROWS:
        return np.arange(len(labels))
    drawn = np.random.default_rng(seed).choice(len(labels), PROBE_ROWS, replace=False)
    classes, first = np.unique(labels, return_index=True)
    return np.unique(np.concatenate([drawn, first[~np.isin(classes, labels[drawn])]]))


def fit_linear_probe(
    train: tuple[Features, Labels],
    validation: tuple[Features, Labels],
    *,
    classes: int,
    metric: MetricName,
    peers: Peers,
    bias: bool = True,
    class_weights: npt.NDArray[np.float64] | None = None,
    on_progress: Callable[[float], None] = lambda _: None,
) -> LinearProbe:
    """Fits a logistic regression for each of STRENGTHS, and selects the best on the validation rows.

    A collective call: each process fits on its share of the training rows.

    Args:
        train: features [rows, width] and labels [rows] of the training rows, on every process.
        validation: features [rows, width] and labels [rows] of the validation rows.
        classes: number of classes.
        metric: metric for the selection; higher is better.
        peers: the process group.
        bias: whether the classifier has a bias.
        class_weights: factor of the loss of the rows of each class, shape [classes]. Default: 1.
        on_progress: called with the completed share of the fits, also during a fit.
    """
    own_rows = Rows(*(torch.from_numpy(array[peers.share]).to(peers.device) for array in train))
    held_out = torch.from_numpy(validation[0])
    weights = None if class_weights is None else torch.from_numpy(class_weights)
    scaling = compute_scaling(own_rows, peers, centred=bias)
    best: LinearProbe | None = None
    found: LinearClassifier | None = None
    for number, strength in enumerate(STRENGTHS):
        found = fit(
            own_rows,
            classes,
            strength,
            scaling=scaling,
            peers=peers,
            bias=bias,
            class_weights=weights,
            start=found,
            on_evaluation=lambda done=number: on_progress(done / len(STRENGTHS)),  # type: ignore[misc]
        )
        classifier = LinearClassifier(found.weight.cpu(), found.bias.cpu())
        answers = classifier.predict(held_out).numpy()
        value = measure(validation[1], answers, classes)[metric]
        if best is None or value > best.validation:
            best = LinearProbe(classifier, strength, value, len(train[1]))
    assert best is not None  # noqa: S101 - STRENGTHS is not empty
    on_progress(1.0)
    return best
