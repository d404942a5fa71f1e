"""The stored baseline of a text classifier."""

from typing import Annotated

from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt

from finetune_trainer.tasks.base import Baseline


class Probe(Baseline):
    """The predictions of the majority class and of the linear probe on the test rows."""

    majority: NonNegativeInt
    """The most frequent class of the training rows."""
    strength: FiniteFloat
    """The inverse regularisation strength with the best score on the validation rows."""
    validation: FiniteFloat
    """The probe's primary metric on the validation rows."""
    rows: PositiveInt
    """Number of training rows of the probe."""
    predictions: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
    """The probe's class for each test row."""
