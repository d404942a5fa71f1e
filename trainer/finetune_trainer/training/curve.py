"""PURE. Steps become a curve of few points, however many there are."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

from finetune_trainer.report.record import CurvePoint

if TYPE_CHECKING:
    from finetune_trainer.training.loop import Step

MOST_POINTS = 200


@dataclass(frozen=True)
class _Window:
    """Steps that become one point."""

    rows: int = 0
    loss: float = 0.0
    """Sum over the rows."""
    gradient_norm: float = 0.0
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
    """How training went. Use: `curve = curve.after(step)` at every step.

    Each point stands for equally many steps, the last one for what is left: nothing is dropped, so that a
    spike between two points still shows.

    Args:
        total_steps: steps of the whole loop, at least 1.
        points: those that are complete.
    """

    total_steps: int
    points: tuple[CurvePoint, ...] = ()
    _window: _Window = field(default_factory=_Window)

    def after(self, step: "Step") -> Self:
        """The curve after a step; steps come in order, without gaps."""
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
