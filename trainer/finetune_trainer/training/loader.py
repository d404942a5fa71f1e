"""The data loader of one rank: collates optimizer steps on a thread, and resumes after any global batch."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

import torch
from torch.utils.data import DataLoader

from finetune_trainer.data.batches import (
    Layout,
    Position,
    Rows,
    distribute_batch,
    epoch_batches,
    position,
    steps_per_epoch,
)
from finetune_trainer.data.shards import Split
from finetune_trainer.models.collate import IGNORE_INDEX, Tensors
from finetune_trainer.tasks.base import Numbers

AHEAD = 2
"""Optimizer steps that are collated ahead."""
CPU = torch.device("cpu")
Collate = Callable[[Split, Numbers], Tensors]
"""Row numbers of a split, which may include FILLER -> inputs of the model, `labels` and `row_index`."""
Item = TypeVar("Item")


@dataclass(frozen=True)
class MicroBatch:
    """Rows that a rank computes at once."""

    inputs: Tensors
    """Inputs of the model and `labels`, on the CPU."""
    label_rows: Rows
    """Row number of each label, shape [labels]."""


@dataclass(frozen=True)
class RankStep:
    """One optimizer step of one rank."""

    micro_batches: tuple[MicroBatch, ...]
    """As many on every rank."""
    targets: int
    """Number of targets of this rank."""
    rows: int
    """Number of rows of all ranks."""
    tokens: int
    """Number of tokens of all ranks, without padding."""


class RankBatches(DataLoader):  # type: ignore[type-arg]
    """The optimizer steps of one rank, as a DataLoader for Trainer.

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
        """
        self.split, self.layout, self.rank, self.seed, self.collate = split, layout, rank, seed, collate
        self.device = device
        self.start = Position(0, 0)
        self.epoch = 0
        super().__init__(range(len(split)), batch_size=layout.batch)  # type: ignore[arg-type]

    def resume_after(self, seen: int) -> None:
        """Sets the position from which the loader continues; the rows before are not read.

        Args:
            seen: samples that the run has trained on already, up to the end of a global batch.

        Raises:
            ValueError: `seen` is not the end of a global batch.
        """
        self.start = position(seen, len(self.split), self.layout.batch)
        self.epoch = self.start.epoch

    def set_epoch(self, epoch: int) -> None:
        """Called by Trainer before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Number of optimizer steps of a whole epoch."""
        return steps_per_epoch(len(self.split), self.layout.batch)

    def completed(self, epoch: int) -> int:
        """Number of steps of an epoch that the run has trained on before the loader started.

        Args:
            epoch: number of the epoch, from 0.
        """
        if epoch == self.start.epoch:
            return self.start.batch
        return len(self) if epoch < self.start.epoch else 0

    def __iter__(self) -> Iterator[RankStep]:  # type: ignore[override]
        """The remaining steps of the epoch."""
        batches = epoch_batches(self.split.lengths, self.layout.batch, seed=self.seed, epoch=self.epoch)
        return ahead(self._step, batches[self.completed(self.epoch) :], AHEAD, partial(_use, self.device))

    def _step(self, batch: Rows) -> RankStep:
        """Collates the micro-batches of this rank in a global batch."""
        rows = distribute_batch(batch, self.split.lengths, self.layout)[self.rank]
        micro_batches = tuple(map(self._collate, rows))
        return RankStep(
            micro_batches,
            targets=sum(int((each.inputs["labels"] != IGNORE_INDEX).sum()) for each in micro_batches),
            rows=len(batch),
            tokens=int(self.split.lengths[batch].sum()),
        )

    def _collate(self, rows: Rows) -> MicroBatch:
        tensors = self.collate(self.split, rows)
        label_rows = rows[tensors.pop("row_index").flatten().numpy()]
        if self.device.type == "cuda":
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        return MicroBatch(tensors, label_rows)


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
