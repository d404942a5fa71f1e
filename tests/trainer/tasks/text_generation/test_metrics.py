import numpy as np
import pytest

from finetune_trainer.contract import METRICS
from finetune_trainer.tasks.bootstrap import RESAMPLES
from finetune_trainer.tasks.text_generation import metrics


def some(seed: int, scale: float = 1.0) -> metrics.Sums:
    random = np.random.default_rng(seed)
    tokens = np.random.default_rng(0).integers(1, 30, 50)
    return np.stack([tokens * random.gamma(2, scale, 50), tokens, random.binomial(tokens, 0.4)], axis=1)


def test_every_token_counts_alike() -> None:
    sums = np.array([[2.0, 1, 1], [3.0, 9, 4]])
    assert metrics.measure(sums) == pytest.approx(
        {"loss": 0.5, "perplexity": np.exp(0.5), "tokenAccuracy": 0.5}, rel=1e-12
    )
    assert set(metrics.measure(sums)) == set(METRICS["TextGeneration"])


def test_a_huge_loss_has_a_finite_perplexity() -> None:
    assert np.isfinite(metrics.measure(np.array([[1e6, 1, 0]]))["perplexity"])


def test_intervals_are_percentiles_of_resampled_rows_paired() -> None:
    base, tuned = some(1), some(2, 0.5)
    told = metrics.compare(
        {"baseline": base, "tuned": tuned}, metrics=["loss", "tokenAccuracy"], primary="perplexity", seed=3
    )
    random = np.random.default_rng(3)
    losses = []
    for _ in range(RESAMPLES):
        drawn = random.integers(0, 50, 50)
        losses.append([of[drawn, 0].sum() / of[drawn, 1].sum() for of in (base, tuned)])
    low, high = np.percentile(np.array(losses), [2.5, 97.5], axis=0)
    gains = np.percentile(np.diff(np.array(losses), axis=1), [2.5, 97.5])

    assert told.majority is None
    assert told.rows == 50
    assert list(told.baseline.metrics) == ["loss", "tokenAccuracy", "perplexity"]
    assert told.tuned
    assert told.delta
    models = [told.baseline.metrics["loss"], told.tuned.metrics["loss"]]
    assert [of.low for of in models] == pytest.approx(low, rel=0.05)
    assert [of.high for of in models] == pytest.approx(high, rel=0.05)
    gain = told.delta.metrics["loss"]
    assert [gain.low, gain.high] == pytest.approx(gains, abs=0.1)
    assert told.delta.metrics["loss"].value == pytest.approx(
        tuned[:, 0].sum() / tuned[:, 1].sum() - base[:, 0].sum() / base[:, 1].sum()
    )
    assert told.tuned.primary == round(told.tuned.metrics["perplexity"].value, 4)
