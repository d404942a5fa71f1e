"""A linear probe: logistic regressions on frozen features, of which the validation rows choose one."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from finetune_trainer.contract import MetricName
from finetune_trainer.models.logistic_regression import Linear, Peers, Rows, fit, scaling_of
from finetune_trainer.tasks.text_classification.metrics import measure

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Inverse strengths of the L2 penalty that the validation rows choose from."""
PROBE_ROWS = 20_000
"""Most training rows of a probe: more rows improve a logistic regression little and cost much."""


@dataclass(frozen=True)
class LinearProbe:
    """The probe that the validation rows chose."""

    classifier: Linear
    strength: float
    validation: float
    """The primary metric on the validation rows."""
    rows: int
    """Number of training rows that the probe saw."""


def most_frequent(labels: Labels) -> int:
    """The most frequent class; of equals the first."""
    return int(np.bincount(labels).argmax())


def probe_rows(labels: Labels, seed: int) -> npt.NDArray[np.int64]:
    """The numbers of a probe's training rows: all rows, or PROBE_ROWS rows drawn with the run's seed.

    The first row of each class that was not drawn is added: a probe answers with any class.
    """
    if len(labels) <= PROBE_ROWS:
        return np.arange(len(labels))
    drawn = np.random.default_rng(seed).choice(len(labels), PROBE_ROWS, replace=False)
    classes, first = np.unique(labels, return_index=True)
    return np.unique(np.concatenate([drawn, first[~np.isin(classes, labels[drawn])]]))


def linear_probe(
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
    """Fits a logistic regression for each of STRENGTHS, and keeps the best on the validation rows.

    A collective call: each process fits on its share of the training rows.

    Args:
        train: features [rows, width] and labels [rows] of the training rows, on every process.
        validation: the same of the validation rows.
        classes: number of classes.
        metric: the metric that chooses; higher is better.
        peers: the processes.
        bias: whether the classifier has a bias.
        class_weights: factor of the loss of each class's rows, shape [classes]. Default: 1 for each.
        on_progress: told the share of the fits that is done, also during a fit.
    """
    mine = Rows(*(torch.from_numpy(array[peers.share]).to(peers.device) for array in train))
    held_out = torch.from_numpy(validation[0])
    weights = None if class_weights is None else torch.from_numpy(class_weights)
    scaling = scaling_of(mine, peers, centred=bias)
    best: LinearProbe | None = None
    found: Linear | None = None
    for number, strength in enumerate(STRENGTHS):
        found = fit(
            mine,
            classes,
            strength,
            scaling=scaling,
            peers=peers,
            bias=bias,
            class_weights=weights,
            start=found,
            on_evaluation=lambda done=number: on_progress(done / len(STRENGTHS)),  # type: ignore[misc]
        )
        classifier = Linear(found.weight.cpu(), found.bias.cpu())
        answers = classifier.answers(held_out).numpy()
        value = measure(validation[1], answers, classes)[metric]
        if best is None or value > best.validation:
            best = LinearProbe(classifier, strength, value, len(train[1]))
    assert best is not None  # noqa: S101 - STRENGTHS is not empty
    on_progress(1.0)
    return best
