"""Multinomial logistic regression with an L2 penalty, fitted by several processes.

The objective is the objective of scikit-learn's LogisticRegression on standardised features:

    strength * sum_i w[y_i] * cross_entropy(x_i, y_i) + ||W||^2 / 2

`W` are the weights on standardised features; the bias has no penalty. For two classes, the penalty counts
twice. The solution then equals the solution of the binomial regression, whose weights are the difference of
the two rows of `W`.

Each process holds a part of the rows. Losses and gradients are computed in float64 and summed over the
processes, so that the result does not depend on the distribution of the rows.

L-BFGS is preconditioned: it searches in coordinates in which the features are uncorrelated. Without the
preconditioner, the correlated features of language models need ten times as many iterations.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

ITERATIONS = 200
"""Maximum number of L-BFGS iterations of a fit."""
_TOLERANCE = 1e-5
"""L-BFGS stops if the largest element of the gradient is smaller. The gradient is the gradient of the
objective divided by strength and rows, in the coordinates of the search."""
_SMALLEST_GAIN = 1e-13
"""L-BFGS stops if an iteration lowers the scaled objective by less, because of float64 rounding."""
_HISTORY = 10
_BLOCK_ROWS = 4096
"""Number of rows that are converted to float64 together."""
_STOP, _EVALUATE = 0.0, 1.0


@dataclass(frozen=True)
class Peers:
    """The process group of a fit, seen from one process. Each function is a collective call."""

    rank: int
    """Rank of this process; rank 0 runs L-BFGS."""
    world: int
    """Number of processes."""
    device: torch.device
    """Device of the features of this process."""
    all_reduce: Callable[[torch.Tensor], torch.Tensor]
    """Returns the sum of a float64 tensor over all processes."""
    broadcast: Callable[[torch.Tensor], torch.Tensor]
    """Returns the float64 tensor of rank 0; the other ranks pass a tensor of the same shape."""

    @property
    def share(self) -> slice:
        """The slice of this process for rows that every process holds."""
        return slice(self.rank, None, self.world)


SINGLE_PROCESS = Peers(
    0, 1, torch.device("cpu"), all_reduce=lambda value: value, broadcast=lambda value: value
)
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
    """Statistics of the features over the rows of all processes, float64."""

    mean: torch.Tensor
    """Mean of each feature, shape [width]; zeros if the features are not centred."""
    scale: torch.Tensor
    """Standard deviation, shape [width]; 1 for a constant feature."""
    eigenvectors: torch.Tensor
    """Eigenvectors of the second moments of the scaled features, as columns, shape [width, width]."""
    eigenvalues: torch.Tensor
    """Eigenvalues of the second moments, shape [width]."""
    rows: int
    """Number of rows of all processes."""


@dataclass(frozen=True)
class LinearClassifier:
    """A linear classifier of features that are not standardised: logits = features @ weight.T + bias."""

    weight: torch.Tensor
    """Float64, shape [classes, width]."""
    bias: torch.Tensor
    """Float64, shape [classes]; zeros for a classifier without a bias."""

    def predict(self, features: torch.Tensor) -> torch.Tensor:
        """Returns the class with the largest logit for each row, int64, shape [rows].

        Args:
            features: shape [rows, width].
        """
        blocks = [block.double() @ self.weight.T + self.bias for block in _blocks(features)]
        return torch.cat([block.argmax(1) for block in blocks])


def _blocks(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Splits rows into blocks; one empty block if there are no rows."""
    return rows.split(_BLOCK_ROWS)  # type: ignore[no-any-return, no-untyped-call]


def compute_scaling(rows: Rows, peers: Peers, *, centred: bool = True) -> Scaling:
    """Computes mean, standard deviation and second moments of the features; a collective call.

    Args:
        rows: the rows of this process.
        peers: the process group.
        centred: whether the features are centred; False for a classifier without a bias. The standard
            deviation does not depend on this argument.
    """
    blocks = _blocks(rows.features)
    width = rows.features.shape[1]
    total = rows.features.new_zeros(width + 1, dtype=torch.float64)
    for block in blocks:
        total[:-1] += block.double().sum(0)
        total[-1] += len(block)
    total = peers.all_reduce(total)
    count = int(total[-1])
    mean = total[:-1] / count
    products = torch.zeros(width, width, dtype=torch.float64, device=mean.device)
    for block in blocks:
        around = block.double() - mean
        products += around.T @ around
    covariance = peers.all_reduce(products) / count
    scale = covariance.diagonal().sqrt()
    # The deviation of a constant feature is only the rounding error of the mean.
    constant = scale <= 10 * torch.finfo(torch.float64).eps * mean.abs()
    scale = torch.where(constant, torch.ones_like(scale), scale)
    if not centred:
        covariance = covariance + torch.outer(mean, mean)
        mean = torch.zeros_like(mean)
    eigenvalues, eigenvectors = torch.linalg.eigh(covariance / torch.outer(scale, scale))
    return Scaling(mean, scale, eigenvectors, eigenvalues.clamp(min=0), rows=count)


def fit(
    rows: Rows,
    classes: int,
    strength: float,
    *,
    scaling: Scaling,
    peers: Peers,
    bias: bool = True,
    class_weights: torch.Tensor | None = None,
    start: LinearClassifier | None = None,
    on_evaluation: Callable[[], None] = lambda: None,
) -> LinearClassifier:
    """Fits a classifier with full-batch L-BFGS and a strong Wolfe line search; a collective call.

    Rank 0 runs L-BFGS and broadcasts each point at which the objective is evaluated. Therefore all processes
    evaluate the same points and stop together, independent of rounding.

    Args:
        rows: the rows of this process, possibly none.
        classes: number of classes. The bias of a class without rows decreases in each iteration.
        strength: inverse strength of the penalty, above 0 (`C` of scikit-learn).
        scaling: statistics of the features of all rows.
        peers: the process group.
        bias: whether the classifier has a bias. Without a bias, `scaling` must not be centred.
        class_weights: factor of the loss of the rows of each class, shape [classes]. Default: 1.
        start: classifier from which the search starts. Default: zeros.
        on_evaluation: called after each evaluation of the objective, on each process.

    Returns:
        The classifier on features that are not standardised, equal on each process.
    """
    objective = _Objective(rows, classes, strength, scaling, peers, bias, class_weights)
    here = objective.point_of(start)
    if peers.rank:
        while True:
            command = peers.broadcast(_build_command(here, _STOP))
            here = command[:-1].view_as(here)
            if command[-1] == _STOP:
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
        peers.broadcast(_build_command(point, _EVALUATE))
        value, gradient = objective(point)
        search.grad = objective.search_gradient(gradient)
        on_evaluation()
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    found = objective.point(search)
    peers.broadcast(_build_command(found, _STOP))
    return objective.classifier(found)


def _build_command(point: torch.Tensor, command: float) -> torch.Tensor:
    """Concatenates a point and the command for the other processes to a flat tensor."""
    return torch.cat([point.flatten(), point.new_tensor([command])])


class _Objective:
    """The objective divided by strength and rows, and the gradient.

    A point has shape [classes, width + 1]: the weights on standardised features, and the bias in the last
    column. L-BFGS uses a search point of the same shape, whose weights are preconditioned by the eigenvectors
    and `curvature`.
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
        # Square root of the curvature at zero weights along the eigenvectors: eigenvalues / classes +
        # penalty.
        # Boehning 1992: (1/2)(1 - 1/classes) times the eigenvalues bounds the curvature everywhere.
        self.curvature = (scaling.eigenvalues / classes + self.penalty).sqrt()

    def point_of(self, start: LinearClassifier | None) -> torch.Tensor:
        """Converts a classifier to a point; None to zeros."""
        point = self.scaling.mean.new_zeros(self.classes, self.width + 1)
        if start is not None:
            point[:, :-1] = start.weight * self.scaling.scale
            if self.bias:
                point[:, -1] = start.bias + start.weight @ self.scaling.mean
        return point

    def search_point(self, point: torch.Tensor) -> torch.Tensor:
        """Converts a point to a search point."""
        weights = point[:, :-1] @ self.scaling.eigenvectors * self.curvature
        return torch.cat([weights, point[:, -1:]], dim=1)

    def point(self, search: torch.Tensor) -> torch.Tensor:
        """Converts a search point to a point."""
        weights = search[:, :-1] / self.curvature @ self.scaling.eigenvectors.T
        return torch.cat([weights, search[:, -1:]], dim=1)

    def search_gradient(self, gradient: torch.Tensor) -> torch.Tensor:
        """Converts the gradient at the point to the gradient with respect to the search point."""
        weights = gradient[:, :-1] @ self.scaling.eigenvectors / self.curvature
        return torch.cat([weights, gradient[:, -1:]], dim=1)

    def classifier(self, point: torch.Tensor) -> LinearClassifier:
        """Converts a point to a classifier on features that are not standardised."""
        weight = point[:, :-1] / self.scaling.scale
        bias = point[:, -1] - weight @ self.scaling.mean
        return LinearClassifier(weight, bias if self.bias else torch.zeros_like(bias))

    def __call__(self, point: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Computes value and gradient over the rows of all processes; a collective call."""
        here = self.classifier(point)
        total = point.new_zeros(point.numel() + 1)
        gradient = total[:-1].view_as(point)
        blocks = zip(_blocks(self.rows.features), _blocks(self.rows.labels), strict=True)
        for features, labels in blocks:
            block = features.double()
            log_probabilities = torch.log_softmax(block @ here.weight.T + here.bias, dim=1)
            weights = self.weights[labels]
            total[-1] -= log_probabilities.gather(1, labels[:, None])[:, 0] @ weights
            slope = log_probabilities.exp_()
            slope[torch.arange(len(labels), device=labels.device), labels] -= 1
            slope *= weights[:, None]
            gradient[:, :-1] += slope.T @ block
            gradient[:, -1] += slope.sum(0)
        total = self.peers.all_reduce(total) / self.scaling.rows
        gradient = total[:-1].view_as(point)
        # Chain rule of the standardisation; the mean is 0 if the features are not centred.
        gradient[:, :-1] -= torch.outer(gradient[:, -1], self.scaling.mean)
        gradient[:, :-1] /= self.scaling.scale
        gradient[:, :-1] += self.penalty * point[:, :-1]
        if not self.bias:
            gradient[:, -1] = 0
        value = float(total[-1]) + self.penalty * float(point[:, :-1].square().sum()) / 2
        return value, gradient
