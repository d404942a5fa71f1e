"""Computes a model in float32 with one layer in float32 at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def float32_layers(model: torch.nn.Module) -> Iterator[None]:
    """Makes all forward passes within the context compute in float32.

    Each module that has parameters of its own converts them to float32 before its forward pass, and drops the
    converted values afterwards. The outputs equal those of `model.float()`, but only one module at a time
    needs memory for float32 values, and weights can stay in the file from which they are mapped into memory.

    Args:
        model: a model on one device. Its modules must be called, and must not use parameters of each other.
    """
    kept: dict[torch.nn.Module, list[torch.Tensor]] = {}

    def convert(module: torch.nn.Module, _arguments: Any) -> None:
        kept[module] = [weight.data for weight in _own_weights(module)]
        for weight in _own_weights(module):
            weight.data = weight.data.float()

    def restore(module: torch.nn.Module, _arguments: Any, _outputs: Any) -> None:
        for weight, values in zip(_own_weights(module), kept.pop(module), strict=True):
            weight.data = values

    handles = []
    for module in model.modules():
        if _own_weights(module):
            handles.append(module.register_forward_pre_hook(convert))
            handles.append(module.register_forward_hook(restore, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _own_weights(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Returns the floating point parameters of a module without those of its children.

    A LoRA layer converts its inputs to the data type of the adapter, so the adapter is part of the layer.
    """
    weights = list(module.parameters(recurse=False))
    for name in ("lora_A", "lora_B"):
        if hasattr(module, name):
            weights += getattr(module, name).parameters()
    return [weight for weight in weights if weight.is_floating_point()]
