"""What every contender is given, as JSON and NumPy: all of them read exactly the same tokens.

Nothing of the product is imported here, for one of the contenders has an environment of its own.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

SEED = 42
WEIGHT_DECAY = 0.01
WARMUP_FRACTION = 0.1
MOST_GRADIENT_NORM = 1.0
STANDING_STILL = 1e-30
"""A learning rate that moves nothing."""
IGNORE_INDEX = -100
STILL = "-still"
"""Ends the name of a model's folder that drops nothing out."""


@dataclass(frozen=True)
class Lesson:
    """One training.

    Attributes:
        task: TextClassification or TextGeneration.
        way: how the rows are laid out, a word of the contender's own.
        base: folder of the model.
        rows: a file of `save`.
        count: so many of the rows are taken, from the first.
        batch: rows of an optimizer step.
        micro_batch: rows of a forward pass.
        epochs: times that every row is seen.
        learning_rate: its highest; it rises, then falls to 0 in a line.
    """

    task: str
    way: str
    base: str
    rows: str
    count: int
    batch: int
    micro_batch: int
    epochs: int
    learning_rate: float

    @classmethod
    def read(cls, text: str) -> Self:
        """From JSON."""
        return cls(**json.loads(text))

    def written(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    def one_still_step(self, base: Path, count: int) -> "Lesson":
        """A single step over some rows that moves nothing: what it says does not depend on their order."""
        return replace(
            self,
            base=str(base),
            count=count,
            batch=count,
            epochs=1,
            learning_rate=STANDING_STILL,
            # As many forward passes as the timed steps have: the head of a classifier minds, see plain.
            micro_batch=count // self.accumulation,
        )

    @property
    def accumulation(self) -> int:
        """Forward passes of a step."""
        return self.batch // self.micro_batch

    @property
    def warmup_steps(self) -> int:
        """Steps in which the learning rate rises."""
        return round(WARMUP_FRACTION * self.epochs * self.count / self.batch)


@dataclass(frozen=True)
class Outcome:
    """What a training ended with."""

    loss: float
    """Mean over its steps."""
    gradient_norm: float
    """Of the last step, before clipping."""


@dataclass(frozen=True)
class Rows:
    """Tokenised rows; row i has the tokens `tokens[offsets[i]:offsets[i + 1]]`, and so with `trained`."""

    tokens: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int32]
    """Number of each row's class."""
    loss_mask: npt.NDArray[np.bool_]
    """Which tokens are learnt, where tokens are."""

    @classmethod
    def of(cls, lesson: Lesson) -> Self:
        """The rows of a lesson."""
        with np.load(lesson.rows) as file:
            offsets = file["offsets"][: lesson.count + 1]
            return cls(
                tokens=file["tokens"][: offsets[-1]],
                offsets=offsets,
                labels=file["labels"][: lesson.count],
                loss_mask=file["loss_mask"][: offsets[-1]],
            )

    def as_dicts(self, task: str) -> list[dict[str, Any]]:
        """As Hugging Face's collators want them: `input_ids`, and the class or the label of each token."""
        found = []
        for number, label in enumerate(self.labels):
            span = slice(self.offsets[number], self.offsets[number + 1])
            ids = self.tokens[span].tolist()
            loss_mask = np.where(self.loss_mask[span], self.tokens[span], IGNORE_INDEX).tolist()
            found.append(
                {"input_ids": ids, "labels": int(label) if task == "TextClassification" else loss_mask}
            )
        return found
