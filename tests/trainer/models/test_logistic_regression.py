"""The solver against scikit-learn on the same objective, and the same rows shared out over processes."""

import threading

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from finetune_trainer.models.logistic_regression import (
    SINGLE_PROCESS,
    LinearClassifier,
    Peers,
    Rows,
    compute_scaling,
    fit,
)

Array = npt.NDArray[np.float64]


def rows(classes: int, seed: int = 3, count: int = 240, width: int = 12) -> Rows:
    """Features of unlike means and scales, one of them constant; classes of unlike frequency."""
    random = np.random.default_rng(seed)
    labels = np.sort(random.integers(0, classes, count) * random.integers(0, 2, count))
    labels[:classes] = np.arange(classes)
    features = random.normal(size=(count, width)) + np.eye(classes, width)[labels]
    features = features * np.geomspace(0.01, 50, width) + np.linspace(-3, 40, width)
    features[:, 4] = 7.0
    return Rows(torch.tensor(features, dtype=torch.float32), torch.tensor(labels))


def objective(
    found: LinearClassifier, on: Rows, strength: float, weights: Array | None = None, *, centred: bool = True
) -> float:
    """scikit-learn's: strength * sum of losses + half the squared norm, of the weights on scaled features."""
    scaler = StandardScaler(with_mean=centred).fit(on.features.double().numpy())
    logits = on.features.double() @ found.weight.T + found.bias
    losses = torch.nn.functional.cross_entropy(logits, on.labels, reduction="none").numpy()
    if weights is not None:
        losses = losses * weights[on.labels.numpy()]
    scaled = found.weight.numpy() * scaler.scale_
    # Two classes: scikit-learn has one row of weights, which is the difference of these two.
    norm = ((scaled[1] - scaled[0]) ** 2).sum() if len(scaled) == 2 else (scaled**2).sum()
    return float(strength * losses.sum() + norm / 2)


def reference(
    on: Rows, classes: int, strength: float, weights: Array | None = None, *, bias: bool = True
) -> LinearClassifier:
    """scikit-learn's solution, scaled back, with a row of weights for each class."""
    scaler = StandardScaler(with_mean=bias)
    scaled = scaler.fit_transform(on.features.double().numpy())
    known = None if weights is None else dict(enumerate(weights))
    model = LogisticRegression(C=strength, max_iter=2_000, tol=1e-7, class_weight=known, fit_intercept=bias)
    model.fit(scaled, on.labels.numpy())
    weight = model.coef_ / scaler.scale_
    intercept = model.intercept_ - (weight * scaler.mean_).sum(1) if bias else np.zeros(len(weight))
    if classes == 2:
        weight, intercept = np.stack([-weight[0], weight[0]]) / 2, np.array([-1, 1]) * intercept[0] / 2
    return LinearClassifier(torch.tensor(weight), torch.tensor(intercept))


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("strength", [0.01, 1.0, 100.0])
def test_the_loss_is_that_of_scikit_learn(classes: int, strength: float) -> None:
    on = rows(classes)
    found = fit(on, classes, strength, scaling=compute_scaling(on, SINGLE_PROCESS), peers=SINGLE_PROCESS)
    best = reference(on, classes, strength)
    assert objective(found, on, strength) == pytest.approx(objective(best, on, strength), rel=1e-4)
    assert found.weight.shape == (classes, 12)
    logits = (on.features.double() @ found.weight.T + found.bias).argmax(1)
    expected = (on.features.double() @ best.weight.T + best.bias).argmax(1)
    assert (logits == expected).double().mean() > 0.99


def test_classes_weigh_as_they_do_in_scikit_learn() -> None:
    on, weights = rows(4), np.array([0.3, 2.0, 1.0, 4.0])
    found = fit(
        on,
        4,
        1.0,
        scaling=compute_scaling(on, SINGLE_PROCESS),
        peers=SINGLE_PROCESS,
        class_weights=torch.tensor(weights),
    )
    best = objective(reference(on, 4, 1.0, weights), on, 1.0, weights)
    assert objective(found, on, 1.0, weights) == pytest.approx(best, rel=1e-4)
    assert objective(found, on, 1.0) > 1.01 * objective(reference(on, 4, 1.0), on, 1.0), "they matter"


def test_a_layer_without_a_bias_gets_none() -> None:
    on = rows(3)
    scaling = compute_scaling(on, SINGLE_PROCESS, centred=False)
    found = fit(on, 3, 1.0, scaling=scaling, peers=SINGLE_PROCESS, bias=False)
    assert not found.bias.any()
    best = objective(reference(on, 3, 1.0, bias=False), on, 1.0, centred=True)
    assert objective(found, on, 1.0) == pytest.approx(best, rel=1e-4)


def test_a_class_without_rows_does_no_harm() -> None:
    on = rows(3)
    found = fit(on, 4, 1.0, scaling=compute_scaling(on, SINGLE_PROCESS), peers=SINGLE_PROCESS)
    assert torch.isfinite(found.weight).all()
    assert torch.isfinite(found.bias).all()
    assert not ((on.features.double() @ found.weight.T + found.bias).argmax(1) == 3).any()


def test_a_start_from_another_strength_ends_at_the_same_place() -> None:
    on = rows(5)
    scaling = compute_scaling(on, SINGLE_PROCESS)
    cold = fit(on, 5, 10.0, scaling=scaling, peers=SINGLE_PROCESS)
    weak = fit(on, 5, 0.01, scaling=scaling, peers=SINGLE_PROCESS)
    warm = fit(on, 5, 10.0, scaling=scaling, peers=SINGLE_PROCESS, start=weak)
    assert objective(warm, on, 10.0) == pytest.approx(objective(cold, on, 10.0), rel=1e-6)


class _Gang:
    """So many threads that act as the processes of a gang."""

    def __init__(self, world: int) -> None:
        self.world, self.meeting = world, threading.Barrier(world)
        self.parts: list[torch.Tensor] = [torch.empty(0)] * world

    def _exchange(self, rank: int, value: torch.Tensor) -> list[torch.Tensor]:
        self.parts[rank] = value
        self.meeting.wait(60)
        parts = [part.clone() for part in self.parts]
        self.meeting.wait(60)
        return parts

    def peers(self, rank: int) -> Peers:
        return Peers(
            rank=rank,
            world=self.world,
            device=torch.device("cpu"),
            all_reduce=lambda value: torch.stack(self._exchange(rank, value)).sum(0),
            broadcast=lambda value: self._exchange(rank, value)[0],
        )


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("strength", [0.1, 100.0])
def test_the_result_does_not_depend_on_how_the_rows_are_shared_out(world: int, strength: float) -> None:
    on = rows(5, count=100)
    alone = fit(on, 5, strength, scaling=compute_scaling(on, SINGLE_PROCESS), peers=SINGLE_PROCESS)
    gang, found = _Gang(world), [alone] * world

    def run(rank: int) -> None:
        # The last rank has no row at all.
        mine = slice(rank, None if rank < world - 1 else rank, max(world - 1, 1))
        share = Rows(on.features[mine], on.labels[mine])
        scaling = compute_scaling(share, gang.peers(rank))
        found[rank] = fit(share, 5, strength, scaling=scaling, peers=gang.peers(rank))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in found:
        torch.testing.assert_close(each.weight, alone.weight, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(each.bias, alone.bias, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(each.weight, found[0].weight) for each in found)
