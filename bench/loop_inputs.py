"""Inputs of the product's training loop that several benchmarks share."""

import numpy as np

from finetune_trainer.data.shards import Split


class Calm:
    """A heartbeat without effect, and without a request to end."""

    leave_requested = False

    def beat(self, *_args: object, **_progress: object) -> None:
        """Nothing."""


def random_rows(count: int, tokens: int, vocabulary: int) -> Split:
    """Makes rows of random tokens of equal length, with loss on every token.

    Args:
        count: number of rows.
        tokens: number of tokens of each row.
        vocabulary: number of token ids; the ids 0 to 2 are special tokens, and are not used.
    """
    return Split(
        tokens=np.random.default_rng(0).integers(3, vocabulary, count * tokens, dtype=np.int32),
        offsets=np.arange(count + 1, dtype=np.int64) * tokens,
        labels=np.zeros(count, dtype=np.int32),
        rows=np.arange(1, count + 1, dtype=np.int64),
        loss_mask=np.ones(count * tokens, dtype=np.bool_),
    )
