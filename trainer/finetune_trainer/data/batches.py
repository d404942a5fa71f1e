"""PURE: computes the batches of an epoch. Every rank computes the same batches without communication."""

import heapq
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from finetune_trainer.contract import Chosen

Rows = npt.NDArray[np.int64]
FILLER = -1
"""Row number of a padding row, which has no loss: the micro-batch of a rank that has no rows left."""
_EVALUATIONS = 5
_STEPS_BETWEEN_EVALUATIONS = 100
"""Minimum number of optimizer steps between two evaluations within an epoch."""
_BATCHES_SORTED_TOGETHER = 32
"""Number of batches whose rows are sorted by length together: less padding, but batches stay random."""


@dataclass(frozen=True)
class MicroBatchSize:
    """The size of a micro-batch: a number of rows, or a budget of tokens."""

    count: int
    unit: Literal["rows", "tokens"]

    @classmethod
    def of(cls, chosen: Chosen) -> Self:
        """Returns the size that Prepare selected."""
        # Exactly one of them is set.
        rows, tokens = chosen.micro_batch_size, chosen.micro_batch_tokens
        return cls(rows, "rows") if rows else cls(tokens, "tokens")  # type: ignore[arg-type]

    @property
    def doubled(self) -> Self:
        """Twice the size."""
        return replace(self, count=2 * self.count)

    def rows(self, longest: int) -> int:
        """Returns the number of rows of a micro-batch, at least 1.

        A budget counts the tokens of padded rows: rows x longest row. Packed rows have at most as many
        tokens, so a micro-batch keeps its budget whether its rows are padded or packed.

        Args:
            longest: number of tokens of the longest row.
        """
        return self.count if self.unit == "rows" else max(1, self.count // longest)


@dataclass(frozen=True)
class Layout:
    """How a global batch is distributed over ranks and micro-batches."""

    batch: int
    """Number of rows of a full global batch."""
    world: int
    """Number of ranks."""
    size: MicroBatchSize

    @classmethod
    def of(cls, chosen: Chosen) -> Self:
        """Returns the layout that Prepare selected."""
        return cls(chosen.batch_size, chosen.world_size, MicroBatchSize.of(chosen))


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Returns the number of optimizer steps of an epoch, including the step of a short last batch."""
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
    """The position of a training run in the sequence of batches."""

    epoch: int
    """Number of completed epochs."""
    batch: int
    """Number of completed global batches of the current epoch."""


def position(samples: int, rows: int, batch_size: int) -> Position:
    """Returns the position after a number of samples; the inverse of `samples_seen`.

    Args:
        samples: number of samples that the run has processed.
        rows: number of training rows.
        batch_size: rows of a global batch.

    Raises:
        ValueError: the number of samples ends inside a global batch.
    """
    epoch, within = divmod(samples, rows) if rows else (0, 0)
    if within % batch_size:
        raise ValueError(f"{samples} samples end inside a batch of {batch_size} rows")
    return Position(epoch, within // batch_size)


def samples_seen(steps: int, rows: int, batch_size: int) -> int:
    """Returns the number of samples of the first `steps` optimizer steps.

    Args:
        steps: number of completed optimizer steps.
        rows: number of training rows.
        batch_size: rows of a global batch; the last batch of an epoch may have fewer rows.
    """
    epochs, within = divmod(steps, steps_per_epoch(rows, batch_size))
    return epochs * rows + within * batch_size


def epoch_batches(lengths: Rows, batch_size: int, *, seed: int, epoch: int) -> list[Rows]:
    """Computes the global batches of one epoch: each row once, rows of similar length in the same batch.

    Args:
        lengths: number of tokens of each row, shape [rows].
        batch_size: rows of a global batch.
        seed: seed of the run.
        epoch: number of the epoch, counted from 0. Each epoch has its own order.

    Returns:
        Row numbers of each batch, each of shape [batch_size], longest row first. The last batch may be
        shorter.
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(lengths))
    group = _BATCHES_SORTED_TOGETHER * batch_size
    grouped = [order[start : start + group] for start in range(0, len(order), group)]
    by_length = np.concatenate([rows[np.argsort(-lengths[rows], kind="stable")] for rows in grouped])
    full = len(order) // batch_size
    batches = [by_length[index * batch_size : (index + 1) * batch_size] for index in range(full)]
    batches = [batches[index] for index in random.permutation(full)]
    if full * batch_size < len(order):
        batches.append(by_length[full * batch_size :])
    return batches


def distribute_batch(batch: Rows, lengths: Rows, layout: Layout) -> list[list[Rows]]:
    """Distributes a global batch over ranks, and the rows of each rank over micro-batches.

    The rows go to the ranks one by one, each to the rank with the fewest tokens, so that all ranks have
    similar work. If the micro-batch is a number of rows, each row goes to the rank with the fewest rows
    instead. All ranks have the same number of micro-batches, because all ranks step together.

    Args:
        batch: row numbers, shape [rows], longest row first.
        lengths: number of tokens of each row of the split, shape [rows of the split].
        layout: sizes of the result.

    Returns:
        Row numbers of each micro-batch of each rank, longest row first. A rank that needs fewer micro-batches
        than another rank has micro-batches of one FILLER.
    """
    ranks: list[list[int]] = [[] for _ in range(layout.world)]
    loads = [(0, rank) for rank in range(layout.world)]
    weights = lengths[batch] if layout.size.unit == "tokens" else np.ones(len(batch), dtype=np.int64)
    for row, weight in zip(batch.tolist(), weights.tolist(), strict=True):
        load, rank = loads[0]
        ranks[rank].append(row)
        heapq.heapreplace(loads, (load + weight, rank))
    split = [split_rows(np.array(rows, dtype=np.int64), lengths, layout.size) for rows in ranks]
    most = max(map(len, split))
    filler = np.array([FILLER], dtype=np.int64)
    return [micro_batches + [filler] * (most - len(micro_batches)) for micro_batches in split]


def split_rows(rows: Rows, lengths: Rows, size: MicroBatchSize) -> list[Rows]:
    """Splits rows into micro-batches.

    Args:
        rows: row numbers, shape [rows], longest row first.
        lengths: number of tokens of each row of the split, shape [rows of the split].
        size: size of a micro-batch; a row that is longer than the budget is a micro-batch of its own.

    Returns:
        Row numbers of each micro-batch in the order of `rows`.
    """
    micro_batches = []
    start = 0
    while start < len(rows):
        end = start + size.rows(int(lengths[rows[start]]))
        micro_batches.append(rows[start:end])
        start = end
    return micro_batches
