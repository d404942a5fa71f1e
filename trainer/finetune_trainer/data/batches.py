"""PURE: the rows of each step. Every rank computes the same batches, without communication."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finetune_trainer.contract import Chosen

Rows = npt.NDArray[np.int64]
FILLER = -1
"""Stands in a micro-batch where the last batch of an epoch has no row left; it carries no loss."""
_GROUPED_BATCHES = 32
"""So many batches are sorted by length together: less padding, still a random mixture."""


@dataclass(frozen=True)
class Layout:
    """How one global batch is dealt out: micro_batch x accumulation x world rows."""

    micro_batch: int
    accumulation: int
    world: int

    @classmethod
    def of(cls, chosen: Chosen) -> "Layout":
        """The layout that Prepare chose."""
        return cls(chosen.micro_batch_size, chosen.accumulation_steps, chosen.world_size)

    @property
    def batch(self) -> int:
        """Rows of a full global batch."""
        return self.micro_batch * self.accumulation * self.world


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Optimizer steps for one pass over all rows; the last batch may be short."""
    return -(-rows // batch_size)


@dataclass(frozen=True)
class Position:
    """Where a run is in its rows."""

    epoch: int
    """Counted from 0."""
    batch: int
    """Global batches of the epoch that were seen."""


def position(samples: int, rows: int, batch_size: int) -> Position:
    """Where a run is that has seen so many samples; the inverse of `samples_seen`.

    Raises:
        ValueError: the samples end inside a global batch.
    """
    epoch, within = divmod(samples, rows) if rows else (0, 0)
    if within % batch_size:
        raise ValueError(f"{samples} samples end inside a batch of {batch_size} rows")
    return Position(epoch, within // batch_size)


def samples_seen(steps: int, rows: int, batch_size: int) -> int:
    """Samples of the first so many optimizer steps; the last step of an epoch may have fewer rows."""
    epochs, within = divmod(steps, steps_per_epoch(rows, batch_size))
    return epochs * rows + within * batch_size


def epoch_batches(lengths: Rows, batch_size: int, *, seed: int, epoch: int) -> list[Rows]:
    """The global batches of one epoch: every row exactly once, rows of similar length together.

    Args:
        lengths: tokens of each row, shape [rows].
        batch_size: rows per optimizer step.
        seed: of the run.
        epoch: counted from 0; every epoch has another order.

    Returns:
        Row numbers of each batch, longest row first; all but the last hold `batch_size`.
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(lengths))
    group = _GROUPED_BATCHES * batch_size
    grouped = [order[start : start + group] for start in range(0, len(order), group)]
    by_length = np.concatenate([rows[np.argsort(-lengths[rows], kind="stable")] for rows in grouped])
    full = len(order) // batch_size
    batches = [by_length[index * batch_size : (index + 1) * batch_size] for index in range(full)]
    batches = [batches[index] for index in random.permutation(full)]
    if full * batch_size < len(order):
        batches.append(by_length[full * batch_size :])
    return batches


def deal(batch: Rows, layout: Layout) -> Rows:
    """One global batch as micro-batches, shape [accumulation, world, micro_batch], filled up with FILLER.

    Neighbours in length go to the ranks in turn, so that all have equal work. A short batch has as many
    micro-batches as a full one on every rank: they step together.
    """
    dealt = np.full(layout.batch, FILLER, dtype=np.int64)
    dealt[: len(batch)] = batch
    return dealt.reshape(layout.accumulation, layout.micro_batch, layout.world).transpose(0, 2, 1)
