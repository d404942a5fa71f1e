"""The stored baseline of a text generator: the base model itself."""

from pydantic import FiniteFloat

from finetune_trainer.tasks.base import Baseline


class BaseModel(Baseline):
    """The predictions of the base model on the test rows, and its samples."""

    sums: tuple[tuple[FiniteFloat, FiniteFloat, FiniteFloat], ...]
    """See `metrics.Sums`."""
    continuations: tuple[str, ...]
    """The texts that the base model writes after the prompts of the first test rows."""
