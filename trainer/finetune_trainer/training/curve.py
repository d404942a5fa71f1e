"""PURE. Reduces the steps of a training to a curve of at most 200 points."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

from finetune_trainer.report.record import CurvePoint

if TYPE_CHECKING:
    from finetune_trainer.training.loop import Step

MOST_POINTS = 200
"""Maximum points of a curve."""


@dataclass(frozen=True)
class _Window:
    """The steps of one point."""

    rows: int = 0
    loss: float = 0.0
    """Sum of the loss over the rows."""
    gradient_norm: float = 0.0
    """Maximum over the steps."""
    seconds: float = 0.0

    def after(self, step: "Step") -> Self:
        return replace(
            self,
            rows=self.rows + step.rows,
            loss=self.loss + step.loss * step.rows,
            gradient_norm=max(self.gradient_norm, step.gradient_norm),
            seconds=self.seconds + step.seconds,
        )


@dataclass(frozen=True)
class Curve:
    """The training curve. Usage: `curve = curve.after(step)` after every step.

    Every point covers the same number of steps, and the last point covers the rest. A point has the mean loss
    of its rows and the maximum gradient norm of its steps, so that a peak between two points is visible.

    Args:
        total_steps: number of steps of the training, at least 1.
        points: complete points.
    """

    total_steps: int
    points: tuple[CurvePoint, ...] = ()
    _window: _Window = field(default_factory=_Window)

    def after(self, step: "Step") -> Self:
        """Returns the curve with one more step.

        Args:
            step: the next step; the steps must be consecutive.
        """
        window = self._window.after(step)
        every = -(-self.total_steps // MOST_POINTS)
        if step.number % every and step.number < self.total_steps:
            return replace(self, _window=window)
        point = CurvePoint(
            step=step.number,
            loss=window.loss / max(window.rows, 1),
            gradient_norm=window.gradient_norm,
            learning_rate=step.learning_rate,
            rows_per_second=window.rows / max(window.seconds, 1e-9),
        )
        return replace(self, points=(*self.points, point), _window=_Window())
