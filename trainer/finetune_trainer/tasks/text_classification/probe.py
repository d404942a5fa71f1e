"""What the tuned model is compared with: the most frequent class, and a linear probe on frozen features."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from finetune_trainer.tasks.base import BaselineKey
from finetune_trainer.tasks.text_classification.baseline import Probe
from finetune_trainer.tasks.text_classification.metrics import measure

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Inverse regularisation strengths that the validation rows choose from."""
PROBE_ROWS = 20_000
"""A logistic regression gains little from more training rows, and costs a lot."""
_ITERATIONS = 500


def most_frequent(labels: Labels) -> int:
    """The most frequent class; of equals the first."""
    return int(np.bincount(labels).argmax())


def probe_rows(rows: int, seed: int) -> npt.NDArray[np.int64]:
    """The training rows that the probe sees: all, or PROBE_ROWS drawn by the run's seed."""
    if rows <= PROBE_ROWS:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, PROBE_ROWS, replace=False))


def linear_probe(
    train: tuple[Features, Labels],
    validation: tuple[Features, Labels],
    test: Features,
    *,
    majority: int,
    classes: int,
    key: BaselineKey,
    on_progress: Callable[[], None],
) -> Probe:
    """Fits logistic regressions on standardised features and keeps the one that validation prefers.

    The test rows are answered once, by the one that was kept.

    Args:
        train: features [rows, width] and labels [rows] of the training rows.
        validation: the same of the validation rows, which choose the regularisation.
        test: features [rows, width] of the test rows.
        majority: the most frequent class of all training rows.
        classes: number of training labels.
        key: what this baseline depends on.
        on_progress: called after each of the candidates.
    """
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - heavy
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    scaler = StandardScaler().fit(train[0])
    known, held_out = scaler.transform(train[0]), scaler.transform(validation[0])
    best: tuple[float, float, LogisticRegression] | None = None
    for strength in STRENGTHS:
        probe = LogisticRegression(C=strength, max_iter=_ITERATIONS, random_state=key.seed)
        probe.fit(known, train[1])
        predictions = probe.predict(held_out).astype(np.int64)
        value = measure(validation[1], predictions, classes)[key.primary_metric]
        if best is None or value > best[0]:
            best = (value, strength, probe)
        on_progress()
    assert best is not None  # noqa: S101 - STRENGTHS is not empty
    predictions = best[2].predict(scaler.transform(test))
    return Probe(
        key=key,
        test_rows=len(test),
        majority=majority,
        strength=best[1],
        validation=best[0],
        rows=len(train[1]),
        predictions=tuple(int(answer) for answer in predictions),
    )
