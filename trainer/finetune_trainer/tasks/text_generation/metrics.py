"""Metrics of text generation with bootstrap intervals. Pure: sums of each row in, documents out.

Tokens count alike, whatever row they are in: every metric is a sum over all rows divided by a sum.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune_trainer.contract import Evaluation, MetricName
from finetune_trainer.tasks.bootstrap import RESAMPLES, ModelRole, compared

Sums = npt.NDArray[np.float64]
"""Of each row, shape [rows, 3]: negative log-likelihood (natural), trained tokens, tokens that are the
likeliest."""
NLL, TOKENS, HITS = range(3)
_LARGEST = 700.0
"""exp of more is no float64; a loss of 12 is already that of a model that knows nothing of 150,000 tokens."""


def measure(sums: Sums) -> dict[MetricName, float]:
    """Every metric of one model."""
    return {name: float(value) for name, value in _from_totals(sums.sum(axis=0)).items()}


def compare(
    sums: Mapping[ModelRole, Sums], *, metrics: Sequence[MetricName], primary: MetricName, seed: int
) -> Evaluation:
    """All models on the same rows; every resample draws rows, and the same rows for all models.

    Args:
        sums: of `baseline` and, once it exists, `tuned`.
        metrics: what to report; the primary metric is added where it is missing.
        primary: the metric that decides.
        seed: of the resampling.
    """
    rows = len(sums["baseline"])
    points = {model: measure(of) for model, of in sums.items()}
    return compared(points, _bootstrap(sums, rows, seed), rows=rows, metrics=metrics, primary=primary)


def _bootstrap(
    sums: Mapping[ModelRole, Sums], rows: int, seed: int
) -> dict[ModelRole, dict[MetricName, npt.NDArray[np.float64]]]:
    """Metrics of every model in every resample, each of shape [RESAMPLES]."""
    every = np.concatenate(list(sums.values()), axis=1)
    random = np.random.default_rng(seed)
    totals = np.stack(
        [
            np.bincount(random.integers(0, rows, rows), minlength=rows).astype(np.float64) @ every
            for _ in range(RESAMPLES)
        ]
    ).reshape(RESAMPLES, len(sums), 3)
    return {model: _from_totals(totals[:, number]) for number, model in enumerate(sums)}


def _from_totals(totals: npt.NDArray[np.float64]) -> dict[MetricName, Any]:
    """All metrics, shape [...], from sums over rows, shape [..., 3]."""
    loss = totals[..., NLL] / totals[..., TOKENS]
    return {
        "loss": loss,
        "perplexity": np.exp(np.minimum(loss, _LARGEST)),
        "tokenAccuracy": totals[..., HITS] / totals[..., TOKENS],
    }
