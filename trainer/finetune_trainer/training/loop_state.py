"""PURE. The state of the training loop beside weights and moments; a checkpoint stores the state as JSON."""

from typing import Annotated

from pydantic import Field, FiniteFloat, NonNegativeInt

from finetune_trainer.checkpoints.documents import CheckpointName
from finetune_trainer.contract import Best, Model
from finetune_trainer.report.record import EvaluationRow
from finetune_trainer.training.curve import Curve
from finetune_trainer.training.loop import Step

Seconds = Annotated[float, Field(ge=0)]


class BestWeights(Model):
    """The checkpoint with the best score on the validation rows."""

    score: Best
    checkpoint: CheckpointName


class LoopState(Model):
    """The results of the steps so far. Usage: `state = state.after(step)` after every step."""

    curve: Curve
    history: tuple[EvaluationRow, ...] = ()
    best: BestWeights | None = None
    rows: NonNegativeInt = 0
    """Rows of all steps."""
    tokens: NonNegativeInt = 0
    """Tokens of all steps."""
    step_seconds: Seconds = 0
    """Duration of all steps, without evaluations."""
    training_seconds: Seconds = 0
    """Duration of the training so far, over all attempts whose steps the state has."""
    loss: FiniteFloat = 0
    """Sum of the loss over the rows since the last evaluation."""
    loss_rows: NonNegativeInt = 0
    """Rows since the last evaluation."""

    def after(self, step: Step) -> "LoopState":
        """Returns the state after one more step.

        Args:
            step: the next step.
        """
        return self.model_copy(
            update={
                "curve": self.curve.after(step),
                "rows": self.rows + step.rows,
                "tokens": self.tokens + step.tokens,
                "step_seconds": self.step_seconds + step.seconds,
                "loss": self.loss + step.loss * step.rows,
                "loss_rows": self.loss_rows + step.rows,
            }
        )

    def evaluated(self, epoch: float, step: int, validation: float) -> "LoopState":
        """Returns the state after an evaluation.

        Args:
            epoch: completed epochs.
            step: completed steps.
            validation: primary metric on the validation rows.
        """
        if self.loss_rows:
            loss = self.loss / self.loss_rows
        else:  # All steps since the last evaluation were skipped.
            loss = self.history[-1].training_loss if self.history else 0.0
        row = EvaluationRow(epoch=epoch, step=step, training_loss=loss, validation=validation)
        return self.model_copy(update={"history": (*self.history, row), "loss": 0.0, "loss_rows": 0})

    def evaluated_at(self, step: int) -> bool:
        """Whether the last evaluation was after this step."""
        return bool(self.history) and self.history[-1].step == step
