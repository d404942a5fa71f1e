"""The data loader of one rank: collates ahead on a thread, and resumes after any global batch."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import TypeVar

import torch
from torch.utils.data import DataLoader

from finetune_trainer.data.batches import (
    Layout,
    Rows,
    distribute_batch,
    epoch_batches,
    position,
    steps_per_epoch,
)
from finetune_trainer.data.shards import Split
from finetune_trainer.models.collate import Tensors
from finetune_trainer.tasks.base import Numbers

AHEAD = 4
"""Micro-batches that are collated ahead."""
CPU = torch.device("cpu")
Collate = Callable[[Split, Numbers], Tensors]
"""Row numbers of a split, which may include FILLER -> inputs of the model, `labels` and `row_index`."""
Item = TypeVar("Item")


class RankBatches(DataLoader):  # type: ignore[type-arg]
    """The micro-batches of one rank, as a DataLoader for Trainer.

    The state of the loader is one number: the samples that all ranks together have seen. A run that resumes
    with this number gets the same global batches as a run without interruption, at any world size.
    """

    def __init__(
        self,
        split: Split,
        layout: Layout,
        *,
        rank: int,
        seed: int,
        collate: Collate,
        device: torch.device = CPU,
        seen: int = 0,
    ) -> None:
        """Creates the loader without reading rows.

        Args:
            split: the training rows.
            layout: how a global batch is distributed over ranks and micro-batches.
            rank: global rank.
            seed: seed of the run.
            collate: makes the inputs of the model from rows; called on another thread.
            device: device of the model. For a GPU the tensors are in pinned memory, so that copies overlap
                with computation.
            seen: samples that the run has trained on already, up to the end of a global batch. The loader
                starts in the epoch of the next sample.

        Raises:
            ValueError: `seen` is not the end of a global batch.
        """
        self.split, self.layout, self.rank, self.seed, self.collate = split, layout, rank, seed, collate
        self.device = device
        self.start = position(seen, len(split), layout.batch)
        self.epoch = self.start.epoch
        super().__init__(range(len(split)), batch_size=layout.micro_batch)  # type: ignore[arg-type]

    def set_epoch(self, epoch: int) -> None:
        """Called by Trainer before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Number of micro-batches of a whole epoch."""
        return steps_per_epoch(len(self.split), self.layout.batch) * self.layout.accumulation

    def __iter__(self) -> Iterator[Tensors]:  # type: ignore[override]
        """The remaining micro-batches of the epoch; `rows` has the row numbers of each."""
        return ahead(self._collate, self.numbers(), AHEAD, partial(_use, self.device))

    def numbers(self) -> Iterator[Rows]:
        """The row numbers of the remaining micro-batches of the epoch, which may include FILLER."""
        batches = epoch_batches(self.split.lengths, self.layout.batch, seed=self.seed, epoch=self.epoch)
        for batch in batches[self.start.batch if self.epoch == self.start.epoch else 0 :]:
            yield from distribute_batch(batch, self.layout)[:, self.rank]

    def _collate(self, rows: Rows) -> Tensors:
        tensors = {**self.collate(self.split, rows), "rows": torch.from_numpy(rows.copy())}
        if self.device.type != "cuda":
            return tensors
        return {name: tensor.pin_memory() for name, tensor in tensors.items()}


def ahead(
    make: Callable[[Rows], Item], rows: Iterable[Rows], most: int, initialise: Callable[[], None]
) -> Iterator[Item]:
    """Maps on another thread, which is ahead of the caller.

    Args:
        make: called for each element of `rows`, on the other thread.
        rows: the elements.
        most: maximum number of results that wait for the caller.
        initialise: called once on the other thread.

    Yields:
        The results in order. An exception of `make` is raised to the caller.
    """
    remaining = iter(rows)
    pool = ThreadPoolExecutor(1, thread_name_prefix="collate", initializer=initialise)
    try:
        pending: deque[Future[Item]] = deque(
            pool.submit(make, numbers) for numbers in islice(remaining, most)
        )
        while pending:
            item = pending.popleft().result()
            pending.extend(pool.submit(make, numbers) for numbers in islice(remaining, 1))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


def _use(device: torch.device) -> None:
    """Selects the GPU of this rank. A new thread uses GPU 0, whose memory another rank needs."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
