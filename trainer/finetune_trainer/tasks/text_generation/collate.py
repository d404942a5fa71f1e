"""Converts tokenized rows to the inputs of a decoder, packed or padded."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from finetune_trainer.data.batches import FILLER
from finetune_trainer.data.shards import Split
from finetune_trainer.models.collate import IGNORE_INDEX, padded
from finetune_trainer.tasks.base import Numbers, Tensors

Ids = npt.NDArray[np.int64]
OURS = frozenset({"labels", "row_index"})
"""What no model is given."""


def pack_rows(split: Split, numbers: Numbers, pad_id: int) -> Tensors:
    """Some rows as one row without padding; where positions start again at 0 another row begins.

    There is no attention mask on purpose: transformers keeps the rows apart by their positions, and with
    any mask at all it would let each of them see those before it.

    Args:
        split: the rows.
        numbers: which of them; FILLER stands for a row of one token.
        pad_id: the tokenizer's padding token.

    Returns:
        `input_ids` and `position_ids`, shape [1, tokens]; `logits_to_keep`, the positions after which a
        token is learnt, shape [kept]; `labels`, those tokens, and `row_index`, both of shape [kept].
    """
    rows = [_row(split, int(number), pad_id) for number in numbers]
    lengths = [len(ids) for ids, _ in rows]
    labels = np.concatenate([labels for _, labels in rows])
    row_index = np.repeat(np.arange(len(rows)), lengths)
    # A filler keeps one position, so that no micro-batch is without any.
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
    """Some rows, padded on the right, so that no model can see the padding.

    Returns:
        `input_ids` and `attention_mask`, shape [rows, longest]; `logits_to_keep`, the positions from the
        first after which a token of any row is learnt to the last, shape [kept]; `labels`, the tokens that
        follow there, and `row_index`, both of shape [rows, kept].
    """
    inputs = padded(split, numbers, pad_id)
    labels = torch.full_like(inputs["input_ids"], IGNORE_INDEX)
    for place, number in enumerate(numbers):
        _, row = _row(split, int(number), pad_id)
        labels[place, : len(row)] = torch.from_numpy(row)
    loss_mask = torch.nonzero((labels != IGNORE_INDEX).any(0)).flatten()
    # Fillers alone keep one position, so that no micro-batch is without any.
    kept = torch.arange(int(loss_mask[0]) if len(loss_mask) else labels.shape[1] - 1, labels.shape[1])
    row_index = torch.arange(len(labels))[:, None].expand(-1, len(kept)).contiguous()
    return {**inputs, "logits_to_keep": kept, "labels": labels[:, kept], "row_index": row_index}


def row_count(inputs: Tensors) -> int:
    """How many rows these inputs hold."""
    positions = inputs.get("position_ids")
    return len(inputs["input_ids"]) if positions is None else int((positions == 0).sum())


def last_tokens(inputs: Tensors) -> torch.Tensor:
    """Where each row ends: in the one long row, or in its own; shape [rows]."""
    if "position_ids" in inputs:
        starts = torch.nonzero(inputs["position_ids"][0] == 0).flatten()
        return torch.cat([starts[1:], starts.new_tensor([inputs["input_ids"].shape[1]])]) - 1
    return inputs["attention_mask"].sum(1) - 1


def model_inputs(inputs: Tensors) -> Tensors:
    """Those that a model knows."""
    return {name: tensor for name, tensor in inputs.items() if name not in OURS}


def positions_of(rows: Sequence[Ids]) -> Tensors:
    """Rows laid end to end, nothing to be learnt; `input_ids` and `position_ids`, shape [1, tokens]."""
    return {
        "input_ids": torch.from_numpy(np.concatenate(rows))[None],
        "position_ids": torch.from_numpy(np.concatenate([np.arange(len(row)) for row in rows]))[None],
    }


def _row(split: Split, number: int, pad_id: int) -> tuple[Ids, Ids]:
    """Tokens of a row and, at each, the one that follows where it is learnt."""
    if number == FILLER:
        return np.array([pad_id]), np.array([IGNORE_INDEX])
    span = slice(split.offsets[number], split.offsets[number + 1])
    ids = split.tokens[span].astype(np.int64)
    labels = np.full(len(ids), IGNORE_INDEX, dtype=np.int64)
    labels[:-1] = np.where(split.loss_mask[span][1:], ids[1:], IGNORE_INDEX)
    return ids, labels
