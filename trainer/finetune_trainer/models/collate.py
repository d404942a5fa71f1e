"""Converts tokenised rows into padded tensors."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from finetune_trainer.data.batches import FILLER
from finetune_trainer.data.shards import Split
from finetune_trainer.models.packing import Work

Tensors = dict[str, torch.Tensor]
IGNORE_INDEX = -100
"""The label of a token that does not contribute to the loss, as in PyTorch and transformers."""


def lengths(split: Split) -> npt.NDArray[np.int64]:
    """Returns the number of tokens of each row, shape [rows]."""
    return split.lengths


def measure_work(split: Split, numbers: Sequence[int] | npt.NDArray[np.int64]) -> Work:
    """Measures the size of a micro-batch for `Packing.pays`.

    Args:
        split: the rows.
        numbers: row numbers of the micro-batch, shape [rows]; FILLER counts as a row of one token without
            loss.
    """
    spans = [slice(split.offsets[n], split.offsets[n + 1]) for n in numbers if n != FILLER]
    loss_mask = [np.flatnonzero(split.loss_mask[span][1:]) for span in spans]
    counts = [span.stop - span.start for span in spans] + [1] * (len(numbers) - len(spans))
    return Work(
        lengths=np.array(counts, dtype=np.int64),
        loss_tokens=sum(map(len, loss_mask)),
        first=min((int(positions[0]) for positions in loss_mask if len(positions)), default=max(counts) - 1),
    )


def pad_batch(split: Split, numbers: Sequence[int] | npt.NDArray[np.int64], pad_id: int) -> Tensors:
    """Pads rows on the right to the length of the longest row.

    Args:
        split: the rows.
        numbers: row numbers of the micro-batch, shape [rows]; FILLER is a row of one token.
        pad_id: id of the padding token.

    Returns:
        `input_ids` and `attention_mask`, int64, shape [rows, longest].
    """
    spans = [(0, 1) if n == FILLER else (int(split.offsets[n]), int(split.offsets[n + 1])) for n in numbers]
    longest = max(end - start for start, end in spans)
    ids = np.full((len(spans), longest), pad_id, dtype=np.int64)
    mask = np.zeros((len(spans), longest), dtype=np.int64)
    for index, (start, end) in enumerate(spans):
        ids[index, : end - start] = split.tokens[start:end]
        mask[index, : end - start] = 1
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}


def to_device(tensors: Tensors, device: torch.device) -> Tensors:
    """Copies tensors to a device. The host does not wait for copies from pinned memory to a GPU.

    Args:
        tensors: tensors on the CPU.
        device: the device.
    """
    return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}


def select_rows(split: Split, numbers: npt.NDArray[np.int64]) -> Split:
    """Copies rows of a split into a new split.

    Args:
        split: the rows.
        numbers: row numbers, shape [rows].
    """
    counts = lengths(split)[numbers]
    spans = [slice(split.offsets[n], split.offsets[n + 1]) for n in numbers]
    return Split(
        tokens=np.concatenate([split.tokens[span] for span in spans]),
        loss_mask=np.concatenate([split.loss_mask[span] for span in spans]),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        labels=split.labels[numbers],
        rows=split.rows[numbers],
        files=split.files,
    )
