"""Counts the floating-point operations (FLOPs) that a training step needs for each token."""

import math
from collections.abc import Iterator
from typing import Any

import torch

from finetune_trainer.config import ComputeType
from finetune_trainer.models.weights import full_shape

_PEAK = {
    "A100": 312e12,
    "L40S": 362e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200 NVL": 836e12,
    "H200": 989e12,
    "GB200": 2500e12,
    "B200": 2250e12,
}
"""Dense bfloat16 FLOPs per second by a part of the name of the GPU, from the data sheets of NVIDIA. The first
part that the name contains applies."""


def flops_per_token(model: torch.nn.Module) -> int:
    """Counts the FLOPs of the forward and backward pass for each token.

    Each element of a weight matrix needs 2 FLOPs in the forward pass, 2 in the backward pass for the gradient
    of the activations, and 2 for the gradient of the weight if the weight is trained: 6 N for N trained
    parameters, and about 4 N for an adapter (Kaplan et al., arXiv 2001.08361, section 2.1). The backward pass
    ends at the first trained parameter. Attention scores, which depend on the length of the rows, and
    activations that are computed again do not count. Experts count by the share that a token selects.

    Args:
        model: the model with its trained parameters; whole, quantized, or sharded at ZeRO stage 3.
    """
    total, backward = 0.0, False
    for name, weight in _matrices(model):
        elements = _elements(weight) * (_selected_share(model) if ".experts." in name else 1.0)
        backward = backward or weight.requires_grad
        total += elements * (2 + 2 * backward + 2 * weight.requires_grad)
    return round(total)


def peak_flops(device: torch.device, products: ComputeType) -> float | None:
    """The peak FLOPs per second of a device for dense matrix products.

    Args:
        device: the device.
        products: data type of matrix products.

    Returns:
        None if the peak is unknown: on CPUs, for float32, and for GPUs that are not in the table.
    """
    if device.type != "cuda" or products != "bfloat16":
        return None
    return peak_of_gpu(torch.cuda.get_device_name(device))


def peak_of_gpu(name: str) -> float | None:
    """The peak FLOPs per second of a GPU for dense bfloat16 matrix products, by the name of the GPU."""
    return next((flops for part, flops in _PEAK.items() if part in name), None)


def _matrices(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Yields the weights of matrix products in the order of the forward pass: no vectors and no embeddings.

    Embeddings that are also the weights of the output layer count there.
    """
    layer = getattr(model, "get_output_embeddings", lambda: None)()
    output = None if layer is None else layer.weight
    lookups = {module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    weights = dict(model.named_parameters())
    inner = ((name, weight) for name, weight in weights.items() if weight not in lookups | {output})
    outer = ((name, weight) for name, weight in weights.items() if weight is output)
    for name, weight in (*inner, *outer):
        if len(full_shape(weight)) > 1:
            yield name, weight


def _elements(weight: torch.nn.Parameter) -> int:
    """The number of elements of a weight. A quantized weight is stored as bytes of two elements each."""
    state: Any = getattr(weight, "quant_state", None)
    return math.prod(state.shape if state is not None else full_shape(weight))


def _selected_share(model: torch.nn.Module) -> float:
    """The share of the experts of a layer that a token selects; 1 for models without experts."""
    config: Any = getattr(model, "config", None)
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    selected = getattr(config, "num_experts_per_tok", None)
    return selected / experts if experts and selected else 1.0
