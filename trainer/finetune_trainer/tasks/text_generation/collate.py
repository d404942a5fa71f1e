"""Converts tokenized rows to the inputs of a decoder, packed or padded."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from finetune_trainer.data.batches import FILLER
from finetune_trainer.data.shards import Split
from finetune_trainer.models.collate import IGNORE_INDEX, pad_batch
from finetune_trainer.tasks.base import Numbers, Tensors

Ids = npt.NDArray[np.int64]
LOSS_INPUTS = frozenset({"labels", "row_index"})
"""Tensors of a batch that are not inputs of the model."""


def pack_rows(split: Split, numbers: Numbers, pad_id: int) -> Tensors:
    """Concatenates rows to one sequence without padding; position 0 marks the start of each row.

    The result has no attention mask: transformers derives the mask of packed rows from the positions, and an
    explicit mask would allow attention between rows.

    Args:
        split: the rows.
        numbers: row numbers; FILLER is a row of one token.
        pad_id: id of the padding token.

    Returns:
        `input_ids` and `position_ids`, shape [1, tokens]; `logits_to_keep`, the positions whose next token
        has loss, shape [kept]; `labels`, the ids of these next tokens, and `row_index`, both of shape [kept].
    """
    rows = [_build_row(split, int(number), pad_id) for number in numbers]
    lengths = [len(ids) for ids, _ in rows]
    labels = np.concatenate([labels for _, labels in rows])
    row_index = np.repeat(np.arange(len(rows)), lengths)
    # A filler keeps one position, so that every micro-batch has logits.
    fillers = np.array([number == FILLER for number in numbers])[row_index]
    kept = np.flatnonzero((labels != IGNORE_INDEX) | fillers)
    return {
        "input_ids": torch.from_numpy(np.concatenate([ids for ids, _ in rows]))[None],
        "position_ids": torch.from_numpy(np.concatenate([np.arange(length) for length in lengths]))[None],
        "logits_to_keep": torch.from_numpy(kept),
        "labels": torch.from_numpy(labels[kept]),
        "row_index": torch.from_numpy(row_index[kept]),
    }


def pad_rows(split: Split, numbers: Numbers, pad_id: int) -> Tensors:
    """Pads rows on the right, so that causal attention ignores the padding.

    Args:
        split: the rows.
        numbers: row numbers; FILLER is a row of one token.
        pad_id: id of the padding token.

    Returns:
        `input_ids` and `attention_mask`, shape [rows, longest]; `logits_to_keep`, all positions from the
        first position whose next token has loss in any row, shape [kept]; `labels`, the ids of the next
        tokens, and `row_index`, both of shape [rows, kept].
    """
    inputs = pad_batch(split, numbers, pad_id)
    labels = torch.full_like(inputs["input_ids"], IGNORE_INDEX)
    for index, number in enumerate(numbers):
        _, row = _build_row(split, int(number), pad_id)
        labels[index, : len(row)] = torch.from_numpy(row)
    loss_mask = torch.nonzero((labels != IGNORE_INDEX).any(0)).flatten()
    # A micro-batch of fillers keeps one position, so that every micro-batch has logits.
    kept = torch.arange(int(loss_mask[0]) if len(loss_mask) else labels.shape[1] - 1, labels.shape[1])
    row_index = torch.arange(len(labels))[:, None].expand(-1, len(kept)).contiguous()
    return {**inputs, "logits_to_keep": kept, "labels": labels[:, kept], "row_index": row_index}


def count_rows(inputs: Tensors) -> int:
    """Returns the number of rows of packed or padded inputs."""
    positions = inputs.get("position_ids")
    return len(inputs["input_ids"]) if positions is None else int((positions == 0).sum())


def find_last_tokens(inputs: Tensors) -> torch.Tensor:
    """Returns the position of the last token of each row in packed or padded inputs, shape [rows]."""
    if "position_ids" in inputs:
        starts = torch.nonzero(inputs["position_ids"][0] == 0).flatten()
        return torch.cat([starts[1:], starts.new_tensor([inputs["input_ids"].shape[1]])]) - 1
    return inputs["attention_mask"].sum(1) - 1


def select_model_inputs(inputs: Tensors) -> Tensors:
    """Returns the tensors of a batch that are inputs of the model."""
    return {name: tensor for name, tensor in inputs.items() if name not in LOSS_INPUTS}


def concatenate_rows(rows: Sequence[Ids]) -> Tensors:
    """Concatenates rows without labels; returns `input_ids` and `position_ids`, shape [1, tokens]."""
    return {
        "input_ids": torch.from_numpy(np.concatenate(rows))[None],
        "position_ids": torch.from_numpy(np.concatenate([np.arange(len(row)) for row in rows]))[None],
    }


def _build_row(split: Split, number: int, pad_id: int) -> tuple[Ids, Ids]:
    """Returns the token ids of a row, and for each token the next token if that token has loss."""
    if number == FILLER:
        return np.array([pad_id]), np.array([IGNORE_INDEX])
    span = slice(split.offsets[number], split.offsets[number + 1])
    ids = split.tokens[span].astype(np.int64)
    labels = np.full(len(ids), IGNORE_INDEX, dtype=np.int64)
    labels[:-1] = np.where(split.loss_mask[span][1:], ids[1:], IGNORE_INDEX)
    return ids, labels
