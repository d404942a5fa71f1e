"""Evaluation: runs a model over rows, distributed over the ranks."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from finetune_trainer.data.batches import split_rows
from finetune_trainer.data.shards import Split
from finetune_trainer.models.collate import Tensors, lengths, to_device
from finetune_trainer.models.load import AnyModel
from finetune_trainer.models.logistic_regression import Peers
from finetune_trainer.models.packing import Packing
from finetune_trainer.tasks.base import OnProgress, Predictions
from finetune_trainer.training.context import Context
from finetune_trainer.training.distributed import end_if_requested, gather_rows, peers_of_gang
from finetune_trainer.training.evaluation_engine import ready

Compute = Callable[[Tensors], torch.Tensor]
"""Inputs on the device -> one row of numbers for each input row, shape [rows, width]."""
_ROUNDS_BETWEEN_CHECKS = 8
"""Rounds between two collective checks whether a rank received the request to end."""


@dataclass(frozen=True)
class Evaluator:
    """Runs models over rows with all ranks of a run; implements `tasks.base.Evaluate`."""

    context: Context

    @property
    def peers(self) -> Peers:
        """The ranks of the run."""
        return peers_of_gang(self.context.gang)

    def ready(self, model: AnyModel) -> AbstractContextManager[AnyModel]:
        """See `evaluation_engine.ready`."""
        return ready(self.context, model)

    def __call__(
        self, compute: Compute, split: Split, on_progress: OnProgress, packing: Packing | None = None
    ) -> Predictions:
        """See `over_rows`; `packing` replaces the packing of the run."""
        return over_rows(self.context.with_packing(packing), compute, split, on_progress)


def over_rows(context: Context, compute: Compute, split: Split, on_progress: OnProgress) -> Predictions:
    """Runs a model over all rows of a split, distributed over the ranks. A collective operation.

    A batch has rows of similar length. Every rank runs the same number of passes, because at ZeRO stage 3 a
    pass is a collective operation; a rank without rows left repeats the last batch and drops the result.

    Args:
        context: the run.
        compute: the model.
        split: the rows.
        on_progress: called with the share that is done, from 0 to 1.

    Returns:
        Shape [rows of the split, width], on every rank. Every row is computed once, at every world size.

    Raises:
        StageFailure: class Preempted, on all ranks.
    """
    gang = context.gang
    order = np.argsort(-lengths(split), kind="stable").astype(np.int64)
    batches = split_rows(order, lengths(split), context.evaluation_size)
    rounds = -(-len(batches) // gang.world)
    values: list[Predictions] = []
    numbers: list[npt.NDArray[np.int64]] = []
    for turn in range(rounds):
        number = turn * gang.world + gang.rank
        batch = batches[min(number, len(batches) - 1)]
        inputs = to_device(context.collate(split, batch), gang.device)
        with torch.no_grad(), context.autocast():
            computed = compute(inputs).cpu().numpy()
        if number < len(batches):
            values.append(computed)
            numbers.append(batch)
        on_progress((turn + 1) / rounds)
        if turn % _ROUNDS_BETWEEN_CHECKS == _ROUNDS_BETWEEN_CHECKS - 1:
            end_if_requested(gang, context.heartbeat)
    width = computed.shape[1]
    return gather_rows(
        gang,
        np.concatenate(values) if values else np.empty((0, width), dtype=computed.dtype),
        np.concatenate(numbers) if numbers else np.empty(0, dtype=np.int64),
        len(order),
    )
