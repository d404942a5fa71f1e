from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from finetune_trainer.models.collate import IGNORE_INDEX
from finetune_trainer.models.cross_entropy import token_losses

TOKENS, VOCABULARY = 13, 301


def example(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, labels of which some are ignored, and a gradient of the losses."""
    torch.manual_seed(3)
    logits = (torch.randn(TOKENS, VOCABULARY) * 5).to(dtype).requires_grad_()
    labels = torch.randint(0, VOCABULARY, (TOKENS,))
    labels[[0, 5, 12]] = IGNORE_INDEX
    return logits, labels, torch.rand(TOKENS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk", [1, 2, 7, 13, 100])
def test_losses_and_gradients_equal_those_of_pytorch_for_every_chunk(dtype: torch.dtype, chunk: int) -> None:
    logits, labels, weights = example(dtype)
    expected = cross_entropy(logits.float(), labels, reduction="none", ignore_index=IGNORE_INDEX)
    (expected * weights).sum().backward()
    expected_gradient = logits.grad
    assert expected_gradient is not None
    logits.grad = None
    losses = token_losses(logits, labels, chunk * VOCABULARY * 4)
    (losses * weights).sum().backward()
    assert losses.dtype == torch.float32
    assert torch.equal(losses, expected)
    assert logits.grad is not None
    assert logits.grad.dtype == dtype
    # The rounding of one bfloat16 number, and the order of two float32 operations.
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2
    assert torch.allclose(logits.grad, expected_gradient, rtol=tolerance, atol=1e-7)
    assert not logits.grad[labels == IGNORE_INDEX].any()


def test_a_loss_that_is_not_finite_stays_so() -> None:
    logits, labels, _ = example()
    with torch.no_grad():
        logits[3, 4], logits[4, 4] = torch.nan, torch.inf
    losses = token_losses(logits, labels)
    assert (~torch.isfinite(losses)).nonzero().flatten().tolist() == [3, 4]


class _LargestFloat32(TorchDispatchMode):
    """Records the largest float32 tensor that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(
        self, function: Callable[..., Any], _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.dtype == torch.float32:
            self.elements = max(self.elements, made.numel())
        return made


def test_no_float32_copy_is_larger_than_a_chunk() -> None:
    logits, labels, weights = example(torch.bfloat16)
    with _LargestFloat32() as largest:
        (token_losses(logits, labels, 2 * VOCABULARY * 4) * weights).sum().backward()
    assert largest.elements == 2 * VOCABULARY
