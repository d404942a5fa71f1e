"""The stored baseline of a text generator: the base model itself."""

from pydantic import FiniteFloat

from finetune_trainer.tasks.base import Baseline


class BaseModel(Baseline):
    """The predictions of the base model for the test rows, and generated samples."""

    sums: tuple[tuple[FiniteFloat, FiniteFloat, FiniteFloat], ...]
    """See `metrics.Sums`."""
    continuations: tuple[str, ...]
    """Texts that the base model generates for the prompts of the first test rows."""
