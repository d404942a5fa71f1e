"""Rows laid end to end or padded: whichever is less work for the model. Pure."""

from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from finetune_trainer.contract import Model

Cost = Annotated[float, Field(ge=0)]


class Packing(Model):
    """What a decoder's forward pass costs, in units of one token through all its layers.

    Laid end to end, rows have no padding, and logits are made only where a token is learnt; but attention
    computes every pair of tokens of the one long row, and masks those of different rows. Which is less
    depends on the model: pairs are nearly all of the work for a narrow one and next to nothing for a wide.
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

    def pays(self, lengths: npt.NDArray[np.int64], learnt: int) -> bool:
        """Whether rows are to be laid end to end rather than padded to the longest.

        Args:
            lengths: tokens of each row, shape [rows].
            learnt: how many of the tokens are learnt.
        """
        tokens, longest = int(lengths.sum()), int(lengths.max())
        padded = len(lengths) * longest
        more_pairs = tokens**2 - padded * longest
        return tokens - padded + more_pairs * self.pair + (learnt - padded) * self.head <= 0
