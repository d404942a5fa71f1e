"""Rows laid end to end or padded: whichever is less work for the model. Pure."""

from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from finetune_trainer.contract import Model

Cost = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class Work:
    """What some rows have in them."""

    lengths: npt.NDArray[np.int64]
    """Tokens of each row, shape [rows]."""
    loss_tokens: int
    """How many of the tokens are learnt."""
    first: int
    """The first position of any row after which a token is learnt."""


class Packing(Model):
    """What a decoder's forward pass costs, in units of one token through all its layers.

    Laid end to end, rows have no padding, and logits are made only where a token is learnt; padded, they are
    made from the first position of any row after which one is. But end to end attention computes every pair
    of tokens of the one long row, and masks those of different rows. Which is less depends on the model:
    pairs are nearly all of the work for a narrow one and next to nothing for a wide.
    """

    pair: Cost
    """Attention of one token to another."""
    head: Cost
    """Logits of one position."""

    @classmethod
    def of(cls, *, hidden: int, layers: int, vocabulary: int) -> Self:
        """Of a model with these sizes.

        Multiply-adds of a token: 12 * layers * hidden^2 in the weights, 2 * layers * hidden in each pair
        (Kaplan et al. 2020, arXiv:2001.08361, section 2.1), vocabulary * hidden in the head.
        """
        return cls(pair=1 / (6 * hidden), head=vocabulary / (12 * layers * hidden))

    def pays(self, work: Work) -> bool:
        """Whether rows are to be laid end to end rather than padded to the longest."""
        rows, tokens, longest = len(work.lengths), int(work.lengths.sum()), int(work.lengths.max())
        padded = rows * longest
        more_pairs = tokens**2 - padded * longest
        more_logits = work.loss_tokens - rows * (longest - work.first)
        return tokens - padded + more_pairs * self.pair + more_logits * self.head <= 0
