"""PURE. Decides between packing and padding of a micro-batch by their estimated cost."""

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
    """Tokens of each row, shape [rows]."""
    loss_tokens: int
    """Number of tokens that the model learns."""
    first: int
    """The smallest position, over all rows, whose next token the model learns."""


class Packing(Model):
    """The cost of the forward pass of a decoder; the unit is one token through the weights of all layers.

    Packed rows need no padding, and logits only for tokens that the model learns. Padded rows need logits
    from the first such position of any row on. On the other hand, the attention of packed rows computes all
    pairs of tokens of one long row, and masks the pairs of different rows. The cheaper layout depends on the
    model: pairs are most of the cost of a narrow model, and a small part of the cost of a wide model.
    """

    pair: Cost
    """Cost of the attention of one token to another token, in all layers."""
    head: Cost
    """Cost of the logits of one position."""

    @classmethod
    def of(cls, *, hidden: int, layers: int, vocabulary: int) -> Self:
        """The cost of a model by its sizes.

        Multiply-adds of a token: 12 * layers * hidden^2 in the weights, 2 * layers * hidden for each pair
        (Kaplan et al. 2020, arXiv 2001.08361, section 2.1), vocabulary * hidden in the head.

        Args:
            hidden: width of the model.
            layers: number of layers.
            vocabulary: number of tokens of the vocabulary.
        """
        return cls(pair=1 / (6 * hidden), head=vocabulary / (12 * layers * hidden))

    def pays(self, work: Work) -> bool:
        """Whether packing costs at most as much as padding to the longest row.

        Args:
            work: the size of the micro-batch.
        """
        rows, tokens, longest = len(work.lengths), int(work.lengths.sum()), int(work.lengths.max())
        padded = rows * longest
        more_pairs = tokens**2 - padded * longest
        more_logits = work.loss_tokens - rows * (longest - work.first)
        return tokens - padded + more_pairs * self.pair + more_logits * self.head <= 0
