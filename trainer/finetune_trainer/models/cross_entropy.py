"""The cross entropy of tokens, with float32 copies of few logits at a time."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from finetune_trainer.models.collate import IGNORE_INDEX

CHUNK_BYTES = 64 * 1024 * 1024
"""Maximum size of the float32 copy of a chunk of logits."""


def token_losses(logits: torch.Tensor, labels: torch.Tensor, chunk_bytes: int = CHUNK_BYTES) -> torch.Tensor:
    """Computes the cross entropy of each token in float32.

    The function never holds a float32 copy of all logits, which would be the largest tensor of a training
    step: 2 GB for 4,096 tokens and a vocabulary of 128,256 tokens.

    Args:
        logits: shape [tokens, vocabulary], any floating point type.
        labels: the correct token or IGNORE_INDEX, shape [tokens].
        chunk_bytes: maximum size of the float32 copy of a chunk.

    Returns:
        Shape [tokens], float32; 0 for tokens with IGNORE_INDEX.
    """
    chunk = max(1, chunk_bytes // (4 * logits.shape[-1]))
    losses: torch.Tensor = _TokenLosses.apply(logits, labels, chunk)  # type: ignore[no-untyped-call]
    return losses


class _TokenLosses(torch.autograd.Function):
    """Saves the logits as they are, and computes the softmax again in the backward pass."""

    @staticmethod
    def forward(context: Any, logits: torch.Tensor, labels: torch.Tensor, chunk: int) -> torch.Tensor:
        """Computes the losses, see `token_losses`; `chunk` is the number of tokens of a chunk."""
        context.save_for_backward(logits, labels)
        context.chunk = chunk
        losses = torch.empty(len(labels), dtype=torch.float32, device=logits.device)
        for part in _chunks(len(labels), chunk):
            losses[part] = cross_entropy(
                logits[part].float(), labels[part], reduction="none", ignore_index=IGNORE_INDEX
            )
        return losses

    @staticmethod
    def backward(context: Any, grad_losses: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Computes the gradient of the logits: (softmax - one-hot of the label) x gradient of the loss."""
        logits, labels = context.saved_tensors
        grad_logits = torch.empty_like(logits)
        has_label = labels != IGNORE_INDEX
        for part in _chunks(len(labels), context.chunk):
            gradient = logits[part].float().softmax(-1)
            gradient.scatter_add_(1, labels[part].clamp(min=0)[:, None], -torch.ones_like(gradient[:, :1]))
            grad_logits[part] = gradient.mul_((grad_losses[part] * has_label[part])[:, None])
        return grad_logits, None, None


def _chunks(count: int, size: int) -> Iterator[slice]:
    yield from (slice(start, start + size) for start in range(0, count, size))
