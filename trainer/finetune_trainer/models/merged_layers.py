"""Merges a LoRA adapter one layer at a time, without changing the model in memory."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from finetune_trainer.models import lora

if TYPE_CHECKING:
    from peft import PeftModel


@contextmanager
def merged_weights(model: "PeftModel", dtype: torch.dtype) -> Iterator[None]:
    """Makes all forward passes within the context use merged weights, one layer at a time.

    Args:
        model: the whole model with the adapter.
        dtype: data type to which the sums are rounded, see `lora.merge_adapter`.
    """
    kept: dict[torch.nn.Module, torch.Tensor] = {}

    def merge(layer: torch.nn.Module, _arguments: Any) -> None:
        kept[layer] = _merge_copy(layer, dtype)

    def restore(layer: torch.nn.Module, _arguments: Any, _outputs: Any) -> None:
        _restore(layer, kept.pop(layer))

    handles = []
    for layer in lora.list_adapted_layers(model):
        handles.append(layer.register_forward_pre_hook(merge))
        handles.append(layer.register_forward_hook(restore, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def merged_parameters(
    model: "PeftModel", dtype: torch.dtype
) -> Callable[[Sequence[Any]], AbstractContextManager[None]]:
    """Returns a function that gives parameters of the base model their merged values within a context.

    The function also works after `lora.remove_adapter`. Memory is needed for the given parameters alone.

    Args:
        model: the whole model with the adapter.
        dtype: data type to which the sums are rounded, see `lora.merge_adapter`.
    """
    layers = {id(layer.get_base_layer().weight): layer for layer in lora.list_adapted_layers(model)}

    @contextmanager
    def merged(parameters: Sequence[Any]) -> Iterator[None]:
        with ExitStack() as restored:
            for layer in (layers[id(weight)] for weight in parameters if id(weight) in layers):
                restored.callback(_restore, layer, _merge_copy(layer, dtype))
            yield

    return merged


def _merge_copy(layer: Any, dtype: torch.dtype) -> torch.Tensor:
    """Merges the adapter of one layer into a copy of the weight, and returns the original values."""
    weight = layer.get_base_layer().weight
    values: torch.Tensor = weight.data
    weight.data = values.clone()
    lora.merge_adapter(layer, dtype)
    return values


def _restore(layer: Any, values: torch.Tensor) -> None:
    """Restores the values of a weight after `_merge_copy`."""
    layer.get_base_layer().weight.data = values
    layer.merged_adapters.clear()
