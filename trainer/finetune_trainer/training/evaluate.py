"""Runs a model over rows with all ranks; every row is computed once at every world size."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from finetune_trainer.data.shards import Split
from finetune_trainer.models.collate import Tensors, lengths
from finetune_trainer.models.logistic_regression import Peers
from finetune_trainer.models.packing import Packing
from finetune_trainer.tasks.base import OnProgress, Predictions
from finetune_trainer.training.context import Context
from finetune_trainer.training.distributed import gathered_rows, leave_together, peers_of

Compute = Callable[[Tensors], torch.Tensor]
"""Inputs on the device -> one row of numbers for each, shape [rows, width]."""
_ROUNDS_BETWEEN_DECISIONS = 8
"""A collective costs little, but not nothing: ask that seldom whether somebody was told to leave."""


@dataclass(frozen=True)
class Evaluator:
    """Runs models over rows with the ranks of a run, see `tasks.base.Evaluate`."""

    context: Context

    @property
    def peers(self) -> Peers:
        """The ranks of the run."""
        return peers_of(self.context.gang)

    def __call__(
        self, compute: Compute, split: Split, on_progress: OnProgress, packing: Packing | None = None
    ) -> Predictions:
        """See `over_rows`."""
        return over_rows(self.context.packed_by(packing), compute, split, on_progress)


def over_rows(context: Context, compute: Compute, split: Split, on_progress: OnProgress) -> Predictions:
    """Runs a model over all rows of a split, shared out over the ranks; a collective call.

    Rows of similar length go together. Every rank makes the same number of passes, for at ZeRO-3 a pass is
    a collective; a rank without work left repeats a batch and forgets it.

    Args:
        context: the run.
        compute: the model.
        split: the rows.
        on_progress: told the share done, 0 to 1.

    Returns:
        Shape [rows of the split, width], on every rank.
    """
    gang, at_once = context.gang, context.rows_at_once
    order = np.argsort(-lengths(split), kind="stable").astype(np.int64)
    batches = [order[start : start + at_once] for start in range(0, len(order), at_once)]
    rounds = -(-len(batches) // gang.world)
    values: list[Predictions] = []
    numbers: list[npt.NDArray[np.int64]] = []
    for turn in range(rounds):
        mine = turn * gang.world + gang.rank
        batch = batches[min(mine, len(batches) - 1)]
        inputs = {name: tensor.to(gang.device) for name, tensor in context.collated(split, batch).items()}
        with torch.no_grad():
            computed = compute(inputs).cpu().numpy()
        if mine < len(batches):
            values.append(computed)
            numbers.append(batch)
        on_progress((turn + 1) / rounds)
        if turn % _ROUNDS_BETWEEN_DECISIONS == _ROUNDS_BETWEEN_DECISIONS - 1:
            leave_together(gang, context.heartbeat)
    width = computed.shape[1]
    return gathered_rows(
        gang,
        np.concatenate(values) if values else np.empty((0, width), dtype=computed.dtype),
        np.concatenate(numbers) if numbers else np.empty(0, dtype=np.int64),
        len(order),
    )
