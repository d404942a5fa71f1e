"""PURE. The rows of each optimizer step. Every rank computes the same batches, without communication."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finetune_trainer.contract import Chosen

Rows = npt.NDArray[np.int64]
FILLER = -1
"""Placeholder for a row in a micro-batch: fills the last batch of an epoch, and has no targets."""
_EVALUATIONS = 5
_STEPS_BETWEEN_EVALUATIONS = 100
"""Minimum number of optimizer steps between two evaluations within an epoch."""
_GROUPED_BATCHES = 32
"""Number of batches that are sorted by length together: reduces padding, and keeps the order random."""


@dataclass(frozen=True)
class Layout:
    """The dimensions of a global batch: micro_batch x accumulation x world rows."""

    micro_batch: int
    accumulation: int
    world: int

    @classmethod
    def of(cls, chosen: Chosen) -> "Layout":
        """The layout that Prepare chose."""
        return cls(chosen.micro_batch_size, chosen.accumulation_steps, chosen.world_size)

    @property
    def batch(self) -> int:
        """Number of rows of a full global batch."""
        return self.micro_batch * self.accumulation * self.world


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Number of optimizer steps of one epoch; the last batch may be smaller."""
    return -(-rows // batch_size)


def evaluation_steps(epochs: int, steps_per_epoch: int) -> frozenset[int]:
    """The optimizer steps after which the validation rows are evaluated.

    From 5 epochs on, the steps are the ends of 5 epochs, evenly spaced. Fewer epochs are also evaluated
    before their ends, so that there are at least 5 evaluations, as long as at least 100 steps lie between
    two evaluations.

    Args:
        epochs: epochs of the run.
        steps_per_epoch: optimizer steps of each epoch.

    Returns:
        Step numbers, counted from 1; the last step of the run is always included.
    """
    if epochs >= _EVALUATIONS:
        ends = {round(epochs * (index + 1) / _EVALUATIONS) for index in range(_EVALUATIONS)}
        return frozenset(end * steps_per_epoch for end in ends)
    parts = max(1, min(-(-_EVALUATIONS // epochs), steps_per_epoch // _STEPS_BETWEEN_EVALUATIONS))
    within = [round(steps_per_epoch * (index + 1) / parts) for index in range(parts)]
    return frozenset(epoch * steps_per_epoch + step for epoch in range(epochs) for step in within)


@dataclass(frozen=True)
class Position:
    """The position of a run in its epochs."""

    epoch: int
    """Counted from 0."""
    batch: int
    """Number of global batches of the epoch that were completed."""


def position(samples: int, rows: int, batch_size: int) -> Position:
    """The position of a run after a number of samples; the inverse of `samples_seen`.

    Args:
        samples: samples that were seen, over all epochs.
        rows: training rows.
        batch_size: rows per optimizer step.

    Raises:
        ValueError: `samples` is not the end of a global batch.
    """
    epoch, within = divmod(samples, rows) if rows else (0, 0)
    if within % batch_size:
        raise ValueError(f"{samples} samples end inside a batch of {batch_size} rows")
    return Position(epoch, within // batch_size)


def samples_seen(steps: int, rows: int, batch_size: int) -> int:
    """Number of samples of the first `steps` optimizer steps; the last step of an epoch may be smaller."""
    epochs, within = divmod(steps, steps_per_epoch(rows, batch_size))
    return epochs * rows + within * batch_size


def epoch_batches(lengths: Rows, batch_size: int, *, seed: int, epoch: int) -> list[Rows]:
    """The global batches of one epoch. Every row occurs exactly once; a batch has rows of similar length.

    Args:
        lengths: number of tokens of each row, shape [rows].
        batch_size: rows per optimizer step.
        seed: seed of the run.
        epoch: counted from 0; every epoch has its own order.

    Returns:
        Row numbers of each batch, the longest row first. All batches except the last have `batch_size` rows.
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
    """Distributes a global batch over micro-batches and ranks.

    Rows of similar length go to the ranks in turn, so that the ranks have equal work. A smaller batch has
    as many micro-batches as a full batch, because all ranks must make the same number of passes.

    Args:
        batch: row numbers, the longest row first.
        layout: the dimensions.

    Returns:
        Row numbers, shape [accumulation, world, micro_batch]; missing rows are FILLER.
    """
    dealt = np.full(layout.batch, FILLER, dtype=np.int64)
    dealt[: len(batch)] = batch
    return dealt.reshape(layout.accumulation, layout.micro_batch, layout.world).transpose(0, 2, 1)
