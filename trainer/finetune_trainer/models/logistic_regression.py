"""Multinomial logistic regression with an L2 penalty, fitted by several processes together. Pure PyTorch.

The objective is that of scikit-learn's LogisticRegression on standardised features:

    strength * sum_i w[y_i] * cross_entropy(x_i, y_i) + ||W||^2 / 2

`W` are the weights on standardised features; the bias has no penalty. For two classes, the penalty counts
twice: the solution is then that of the binomial regression, whose one row of weights is the difference of
the two rows here.

Each process holds a part of the rows. Losses and gradients are computed in float64 and summed over the
processes, so that the result does not depend on how the rows are distributed.

L-BFGS searches in coordinates in which the features are uncorrelated: features of language models correlate
so much that the search would need ten times as many iterations without this preconditioner.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

ITERATIONS = 200
"""Most iterations of L-BFGS for one fit."""
_TOLERANCE = 1e-5
"""L-BFGS stops where the largest element of the gradient is smaller. The gradient is that of the objective
divided by strength and rows, in the coordinates of the search."""
_SMALLEST_GAIN = 1e-13
"""L-BFGS also stops at an iteration that lowers the same objective by less: float64 does not distinguish
smaller differences from rounding."""
_HISTORY = 10
_BLOCK = 4096
"""Rows that are converted to float64 at a time."""
_STOP, _EVALUATE = 0.0, 1.0


@dataclass(frozen=True)
class Peers:
    """The processes of one fit, as one of them sees the others. Each function is a collective call."""

    rank: int
    """Number of this process; process 0 decides about the steps."""
    world: int
    """Number of processes."""
    device: torch.device
    """Device of the features of this process."""
    summed: Callable[[torch.Tensor], torch.Tensor]
    """The sum of a float64 tensor over all processes."""
    from_first: Callable[[torch.Tensor], torch.Tensor]
    """The float64 tensor of process 0; the others pass a tensor of the same shape."""

    @property
    def share(self) -> slice:
        """The rows that this process takes of rows that every process holds."""
        return slice(self.rank, None, self.world)


ALONE = Peers(0, 1, torch.device("cpu"), summed=lambda value: value, from_first=lambda value: value)
"""One process that holds all rows."""


@dataclass(frozen=True)
class Rows:
    """The rows of one process."""

    features: torch.Tensor
    """Float32, shape [rows, width]; not standardised."""
    labels: torch.Tensor
    """Class numbers, int64, shape [rows], on the device of the features."""


@dataclass(frozen=True)
class Scaling:
    """Figures of the features over the rows of all processes, float64."""

    mean: torch.Tensor
    """Shape [width]; zeros if the features are not centred."""
    scale: torch.Tensor
    """Standard deviation, shape [width]; 1 for a constant feature."""
    axes: torch.Tensor
    """Eigenvectors of the second moments of the scaled features, one a column, shape [width, width]."""
    moments: torch.Tensor
    """Their eigenvalues, shape [width]."""
    rows: int
    """Rows of all processes together."""


@dataclass(frozen=True)
class Linear:
    """A linear classifier of features that are not standardised: logits = features @ weight.T + bias."""

    weight: torch.Tensor
    """Float64, shape [classes, width]."""
    bias: torch.Tensor
    """Float64, shape [classes]; zeros for a classifier without a bias."""

    def answers(self, features: torch.Tensor) -> torch.Tensor:
        """The class with the largest logit for each row, int64, shape [rows]."""
        blocks = [block.double() @ self.weight.T + self.bias for block in _blocks(features)]
        return torch.cat([block.argmax(1) for block in blocks])


def _blocks(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The rows in blocks; one empty block where there is no row."""
    return rows.split(_BLOCK)  # type: ignore[no-any-return, no-untyped-call]


def scaling_of(rows: Rows, peers: Peers, *, centred: bool = True) -> Scaling:
    """Mean, standard deviation and second moments of the features; a collective call.

    Args:
        rows: the rows of this process.
        peers: the processes.
        centred: whether a mean is subtracted; a classifier without a bias cannot do that. The standard
            deviation is that around the mean in both cases.
    """
    blocks = _blocks(rows.features)
    width = rows.features.shape[1]
    total = rows.features.new_zeros(width + 1, dtype=torch.float64)
    for block in blocks:
        total[:-1] += block.double().sum(0)
        total[-1] += len(block)
    total = peers.summed(total)
    count = int(total[-1])
    mean = total[:-1] / count
    products = torch.zeros(width, width, dtype=torch.float64, device=mean.device)
    for block in blocks:
        around = block.double() - mean
        products += around.T @ around
    covariance = peers.summed(products) / count
    scale = covariance.diagonal().sqrt()
    # The mean of equal numbers is rounded: what is left of a constant feature is no variation.
    constant = scale <= 10 * torch.finfo(torch.float64).eps * mean.abs()
    scale = torch.where(constant, torch.ones_like(scale), scale)
    if not centred:
        covariance = covariance + torch.outer(mean, mean)
        mean = torch.zeros_like(mean)
    moments, axes = torch.linalg.eigh(covariance / torch.outer(scale, scale))
    return Scaling(mean, scale, axes, moments.clamp(min=0), rows=count)


def fit(
    rows: Rows,
    classes: int,
    strength: float,
    *,
    scaling: Scaling,
    peers: Peers,
    bias: bool = True,
    class_weights: torch.Tensor | None = None,
    start: Linear | None = None,
    on_evaluation: Callable[[], None] = lambda: None,
) -> Linear:
    """Fits a classifier with full-batch L-BFGS and a strong Wolfe line search; a collective call.

    Process 0 runs L-BFGS and distributes each point at which it needs the objective. Therefore all
    processes evaluate the same points and stop together, whatever their rounding.

    Args:
        rows: the rows of this process; there may be none.
        classes: number of classes. The bias of a class that no row has only falls.
        strength: inverse strength of the penalty, above 0 (`C` of scikit-learn).
        scaling: of the features of all rows.
        peers: the processes.
        bias: whether the classifier has a bias; without, `scaling` must not be centred.
        class_weights: factor of the loss of each class's rows, shape [classes]. Default: 1 for each.
        start: the classifier from which the search starts. Default: zeros.
        on_evaluation: called after each evaluation of the objective, on each process.

    Returns:
        The classifier on features that are not standardised, the same on each process.
    """
    objective = _Objective(rows, classes, strength, scaling, peers, bias, class_weights)
    here = objective.point_of(start)
    if peers.rank:
        while True:
            order = peers.from_first(_ordered(here, _STOP))
            here = order[:-1].view_as(here)
            if order[-1] == _STOP:
                return objective.classifier(here)
            objective(here)
            on_evaluation()

    search = objective.search_point(here)
    optimizer = torch.optim.LBFGS(
        [search],
        max_iter=ITERATIONS,
        tolerance_grad=_TOLERANCE,
        tolerance_change=_SMALLEST_GAIN,
        history_size=_HISTORY,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        point = objective.point(search)
        peers.from_first(_ordered(point, _EVALUATE))
        value, gradient = objective(point)
        search.grad = objective.search_gradient(gradient)
        on_evaluation()
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    found = objective.point(search)
    peers.from_first(_ordered(found, _STOP))
    return objective.classifier(found)


def _ordered(point: torch.Tensor, order: float) -> torch.Tensor:
    """A point and what the other processes do with the point, flat."""
    return torch.cat([point.flatten(), point.new_tensor([order])])


class _Objective:
    """The objective over strength and rows, and its gradient.

    A point is the weights on standardised features and, in the last column, the bias: [classes, width + 1].
    L-BFGS sees a search point of the same shape instead, whose weights are multiplied by `preconditioner`.
    """

    def __init__(
        self,
        rows: Rows,
        classes: int,
        strength: float,
        scaling: Scaling,
        peers: Peers,
        bias: bool,
        class_weights: torch.Tensor | None,
    ) -> None:
        self.rows, self.classes, self.scaling, self.peers, self.bias = rows, classes, scaling, peers, bias
        self.width = rows.features.shape[1]
        self.penalty = (2.0 if classes == 2 else 1.0) / (strength * scaling.rows)  # noqa: PLR2004
        self.weights = scaling.mean.new_ones(classes) if class_weights is None else class_weights
        self.weights = self.weights.to(scaling.mean)
        # The curvature at zero weights along the axes, see Boehning 1992: (1/2)(1 - 1/classes) of the moments
        # bounds the curvature everywhere; at zero the curvature is 1/classes of them.
        self.curvature = (scaling.moments / classes + self.penalty).sqrt()

    def point_of(self, start: Linear | None) -> torch.Tensor:
        """The point of a classifier, or zeros."""
        point = self.scaling.mean.new_zeros(self.classes, self.width + 1)
        if start is not None:
            point[:, :-1] = start.weight * self.scaling.scale
            if self.bias:
                point[:, -1] = start.bias + start.weight @ self.scaling.mean
        return point

    def search_point(self, point: torch.Tensor) -> torch.Tensor:
        """The search point of a point."""
        weights = point[:, :-1] @ self.scaling.axes * self.curvature
        return torch.cat([weights, point[:, -1:]], dim=1)

    def point(self, search: torch.Tensor) -> torch.Tensor:
        """The point of a search point."""
        weights = search[:, :-1] / self.curvature @ self.scaling.axes.T
        return torch.cat([weights, search[:, -1:]], dim=1)

    def search_gradient(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient with respect to the search point, from the gradient with respect to the point."""
        weights = gradient[:, :-1] @ self.scaling.axes / self.curvature
        return torch.cat([weights, gradient[:, -1:]], dim=1)

    def classifier(self, point: torch.Tensor) -> Linear:
        """The classifier of a point, on features that are not standardised."""
        weight = point[:, :-1] / self.scaling.scale
        bias = point[:, -1] - weight @ self.scaling.mean
        return Linear(weight, bias if self.bias else torch.zeros_like(bias))

    def __call__(self, point: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Value and gradient over the rows of all processes; a collective call."""
        here = self.classifier(point)
        total = point.new_zeros(point.numel() + 1)
        gradient = total[:-1].view_as(point)
        blocks = zip(_blocks(self.rows.features), _blocks(self.rows.labels), strict=True)
        for features, labels in blocks:
            wide = features.double()
            log_probabilities = torch.log_softmax(wide @ here.weight.T + here.bias, dim=1)
            weights = self.weights[labels]
            total[-1] -= log_probabilities.gather(1, labels[:, None])[:, 0] @ weights
            slope = log_probabilities.exp_()
            slope[torch.arange(len(labels), device=labels.device), labels] -= 1
            slope *= weights[:, None]
            gradient[:, :-1] += slope.T @ wide
            gradient[:, -1] += slope.sum(0)
        total = self.peers.summed(total) / self.scaling.rows
        gradient = total[:-1].view_as(point)
        # The chain rule of standardising; without a centre the mean is 0.
        gradient[:, :-1] -= torch.outer(gradient[:, -1], self.scaling.mean)
        gradient[:, :-1] /= self.scaling.scale
        gradient[:, :-1] += self.penalty * point[:, :-1]
        if not self.bias:
            gradient[:, -1] = 0
        value = float(total[-1]) + self.penalty * float(point[:, :-1].square().sum()) / 2
        return value, gradient
