"""The micro-batches of one rank: a thread collates ahead, and the loader resumes at any sample."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import TypeVar

import torch
from torch.utils.data import DataLoader

from finetune_trainer.data.batches import Layout, Rows, deal, epoch_batches, position, steps_per_epoch
from finetune_trainer.data.shards import Split
from finetune_trainer.models.collate import Tensors
from finetune_trainer.tasks.base import Numbers

AHEAD = 4
"""Micro-batches that are ready before the model asks for them."""
CPU = torch.device("cpu")
Collate = Callable[[Split, Numbers], Tensors]
"""Rows of a split, FILLER among them -> the model's inputs, `labels` and `row_index`."""
Item = TypeVar("Item")


class RankBatches(DataLoader):  # type: ignore[type-arg]
    """This rank's micro-batches, epoch after epoch; what Trainer wants as its data loader.

    The state of the loader is one number, the samples seen by all ranks together: a run that continues
    there sees the same global batches as a run that never stopped, with any number of ranks.
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
        """Reads nothing yet.

        Args:
            split: the training rows.
            layout: how a global batch is dealt out.
            rank: whose micro-batches.
            seed: of the run.
            collate: makes the model's inputs of rows; called on another thread.
            device: where the model is; for a GPU the tensors lie in pinned memory, which it copies from
                while it computes.
            seen: samples that the run has trained on already; the end of a global batch. `epoch` starts
                with the epoch that these samples lead to.

        Raises:
            ValueError: `seen` is inside a global batch.
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
        """Micro-batches of a whole epoch."""
        return steps_per_epoch(len(self.split), self.layout.batch) * self.layout.accumulation

    def __iter__(self) -> Iterator[Tensors]:  # type: ignore[override]
        """The micro-batches of the epoch that were not seen yet; `rows`: their row numbers in the split."""
        return ahead(self._collated, self.numbers(), AHEAD, partial(_use, self.device))

    def numbers(self) -> Iterator[Rows]:
        """The row numbers of each micro-batch of the epoch that was not seen yet, FILLER among them."""
        batches = epoch_batches(self.split.lengths, self.layout.batch, seed=self.seed, epoch=self.epoch)
        for batch in batches[self.start.batch if self.epoch == self.start.epoch else 0 :]:
            yield from deal(batch, self.layout)[:, self.rank]

    def _collated(self, rows: Rows) -> Tensors:
        tensors = {**self.collate(self.split, rows), "rows": torch.from_numpy(rows.copy())}
        if self.device.type != "cuda":
            return tensors
        return {name: tensor.pin_memory() for name, tensor in tensors.items()}


def ahead(
    make: Callable[[Rows], Item], rows: Iterable[Rows], most: int, initialise: Callable[[], None]
) -> Iterator[Item]:
    """`map(make, rows)` on another thread, which is ahead by `most` items; what it raises is raised here."""
    left = iter(rows)
    pool = ThreadPoolExecutor(1, thread_name_prefix="collate", initializer=initialise)
    try:
        pending: deque[Future[Item]] = deque(pool.submit(make, numbers) for numbers in islice(left, most))
        while pending:
            item = pending.popleft().result()
            pending.extend(pool.submit(make, numbers) for numbers in islice(left, 1))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


def _use(device: torch.device) -> None:
    """A thread starts on the first GPU, and pinning memory there would take memory of another rank's GPU."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
