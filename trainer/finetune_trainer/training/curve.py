"""PURE. Reduces the steps of a training to a curve of at most 200 points."""

from typing import TYPE_CHECKING

from pydantic import FiniteFloat, NonNegativeInt, PositiveInt

from finetune_trainer.contract import Model
from finetune_trainer.report.record import CurvePoint

if TYPE_CHECKING:
    from finetune_trainer.training.loop import Step

MOST_POINTS = 200
"""Maximum points of a curve."""


class Window(Model):
    """The steps of one point."""

    rows: NonNegativeInt = 0
    loss: FiniteFloat = 0.0
    """Sum of the loss over the rows."""
    gradient_norm: FiniteFloat = 0.0
    """Maximum over the steps."""
    seconds: FiniteFloat = 0.0

    def after(self, step: "Step") -> "Window":
        """Returns the window with one more step."""
        return Window(
            rows=self.rows + step.rows,
            loss=self.loss + step.loss * step.rows,
            gradient_norm=max(self.gradient_norm, step.gradient_norm),
            seconds=self.seconds + step.seconds,
        )


class Curve(Model):
    """The training curve. Usage: `curve = curve.after(step)` after every step.

    Every point covers the same number of steps, and the last point covers the rest. Skipped steps have no
    rows; if all steps of a point are skipped, the curve does not have the point. A point has the mean loss of
    its rows and the maximum gradient norm of its steps, so that a peak between two points is visible.
    """

    total_steps: PositiveInt
    """Steps of the training."""
    points: tuple[CurvePoint, ...] = ()
    """Complete points."""
    window: Window = Window()
    """The steps after the last point."""

    def after(self, step: "Step") -> "Curve":
        """Returns the curve with one more step.

        Args:
            step: the next step; the steps must be consecutive.
        """
        window = self.window.after(step)
        every = -(-self.total_steps // MOST_POINTS)
        if (step.number % every and step.number < self.total_steps) or not window.rows:
            return self.model_copy(update={"window": window})
        point = CurvePoint(
            step=step.number,
            loss=window.loss / window.rows,
            gradient_norm=window.gradient_norm,
            learning_rate=step.learning_rate,
            rows_per_second=window.rows / max(window.seconds, 1e-9),
        )
        return self.model_copy(update={"points": (*self.points, point), "window": Window()})
