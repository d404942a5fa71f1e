"""Keeps the weights that LoRA adapts in 4 bits during training (QLoRA, arXiv 2305.14314)."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from finetune_trainer.config import Lora, Method
from finetune_trainer.models.lora import list_adapted_layers
from finetune_trainer.models.weights import whole_parameters

if TYPE_CHECKING:
    from bitsandbytes.functional import QuantState


def quantize_if_requested(method: Method, model: torch.nn.Module, device: torch.device) -> None:
    """Quantizes the adapted weights of the base model if the job trains on quantized weights.

    The adapter, and the weights that LoRA does not adapt, keep their data type. The function holds one whole
    weight at a time. A collective call for sharded models (ZeRO-3).

    Args:
        method: training method of the run.
        model: the result of `methods.apply_method`.
        device: device of the quantized weights.
    """
    for layer in list(list_quantized_layers(method, model)):
        base = layer.get_base_layer()
        with whole_parameters([base.weight]):
            weight = base.weight.data.to(device)
            # Conv1D, such as that of GPT-2, has the shape [in, out].
            quantized = QuantizedLinear(weight.T if layer.fan_in_fan_out else weight, base.bias)
        layer.base_layer = quantized


def list_quantized_layers(method: Method, model: torch.nn.Module) -> Iterator[Any]:
    """Yields the modules of the adapter whose base weights the job quantizes.

    Args:
        method: training method of the run.
        model: the result of `methods.apply_method`.
    """
    if isinstance(method, Lora) and method.quantization == "NF4":
        yield from list_adapted_layers(model)


class QuantizedLinear(torch.nn.Module):
    """A frozen linear layer whose weight is in NF4: 4 bits for each element, and 8 bits for 64 elements.

    The largest values of blocks of 64 elements are quantized too (double quantization): 0.516 bytes for each
    element in total.

    Args:
        weight: weight of the layer, shape [out, in], in the data type to which the layer dequantizes.
        bias: bias of the layer, shape [out], or None.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.nn.Parameter | None) -> None:
        from bitsandbytes.functional import quantize_4bit  # noqa: PLC0415 - the import takes a second

        super().__init__()
        self.out_features, self.in_features = weight.shape
        packed, state = quantize_4bit(weight.contiguous(), compress_statistics=True, quant_type="nf4")
        self.weight = torch.nn.Parameter(packed, requires_grad=False)
        self.bias = bias
        self._state: Any = state

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Computes inputs @ weight.T + bias, shape [..., out]."""
        kind = inputs.device.type
        if torch.is_autocast_enabled(kind):
            inputs = inputs.to(torch.get_autocast_dtype(kind))
        output: torch.Tensor = _Product.apply(inputs, self.weight, self._state)  # type: ignore[no-untyped-call]
        return output if self.bias is None else output + self.bias.to(output.dtype)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moves the scales with the weight. They are no buffers, because they must stay float32."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._state.to(self.weight.device)
        return self


class _Product(torch.autograd.Function):
    """Multiplies by a quantized weight. The backward pass dequantizes the weight again.

    The context keeps the parameter itself, which is empty between the forward and the backward pass of a
    sharded model. The function of bitsandbytes keeps the gathered values.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, weight: torch.nn.Parameter, state: "QuantState"
    ) -> torch.Tensor:
        ctx.weight, ctx.state = weight, state
        return torch.nn.functional.linear(inputs, _dequantize(weight, state, inputs.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradient @ _dequantize(ctx.weight, ctx.state, gradient.dtype), None, None


def _dequantize(weight: torch.nn.Parameter, state: "QuantState", dtype: torch.dtype) -> torch.Tensor:
    from bitsandbytes.functional import dequantize_4bit  # noqa: PLC0415

    return dequantize_4bit(weight.data, state).to(dtype)
