"""PURE: decides between packing and padding of a micro-batch by the estimated cost."""

from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from finetune_trainer.contract import Model

Cost = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class Work:
    """The size of a micro-batch."""

    lengths: npt.NDArray[np.int64]
    """Number of tokens of each row, shape [rows]."""
    loss_tokens: int
    """Number of tokens that contribute to the loss."""
    first: int
    """The smallest position of all rows whose next token contributes to the loss."""


class Packing(Model):
    """The cost of the forward pass of a decoder; the unit is one token through the weights of all layers.

    Packed rows need no padding, and need logits only for tokens with loss. Padded rows need logits from the
    first such position of any row on. However, the attention of packed rows computes all pairs of tokens of
    the packed sequence, including the masked pairs of different rows. The cheaper layout depends on the
    model: pairs dominate the cost of a narrow model, and are a small part of the cost of a wide model.
    """

    pair: Cost
    """Cost of the attention of one token to another token, in all layers."""
    head: Cost
    """Cost of the logits of one position."""

    @classmethod
    def of(cls, *, hidden: int, layers: int, vocabulary: int) -> Self:
        """Computes the cost from the sizes of a model.

        Multiply-adds of a token: 12 * layers * hidden^2 in the weights, 2 * layers * hidden for each pair
        (Kaplan et al. 2020, arXiv 2001.08361, section 2.1), vocabulary * hidden in the head.

        Args:
            hidden: width of the model.
            layers: number of layers.
            vocabulary: number of tokens of the vocabulary.
        """
        return cls(pair=1 / (6 * hidden), head=vocabulary / (12 * layers * hidden))

    def pays(self, work: Work) -> bool:
        """Returns whether packing costs at most as much as padding to the longest row.

        Args:
            work: the size of the micro-batch.
        """
        rows, tokens, longest = len(work.lengths), int(work.lengths.sum()), int(work.lengths.max())
        padded = rows * longest
        more_pairs = tokens**2 - padded * longest
        more_logits = work.loss_tokens - rows * (longest - work.first)
        return tokens - padded + more_pairs * self.pair + more_logits * self.head <= 0
